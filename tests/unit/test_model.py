"""What flows through a run: templates are filled, results made, secrets kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from _ecr_airflow_sync.model import (
    Connection,
    HeldConnection,
    Result,
    Target,
    fill,
    format_left,
)

from .conftest import HOST, UNTIL, A, token_for

BOTH = "e_{registry}_{region}"
FILLED: dict[str, tuple[str, str | None, str, str]] = {
    "twice": ("{region}{region}", None, "x", "xx"),
    "unknown registry": (BOTH, None, "x", "e_{registry}_x"),
    "unknown region": (BOTH, "1", "", "e_1_{region}"),
    "once only": ("{registry}", "{region}", "x", "{region}"),
    "no others": ("{account} {} {region", "1", "x", "{account} {} {region"),
}


@pytest.mark.parametrize(
    ("template", "registry", "region", "filled"), FILLED.values(), ids=FILLED
)
def test_a_template_is_filled_as_far_as_known(
    template: str, registry: str | None, region: str, filled: str
) -> None:
    assert fill(template, registry, region) == filled


def test_how_long_that_is() -> None:
    told = {719.8: "12 h", 719: "11 h", 60.3: "1 h", 59.2: "59 min", 0.3: "0 min"}
    for minutes, words in told.items():
        until = datetime.now(timezone.utc) + timedelta(minutes=minutes)
        assert format_left(until) == words


def test_the_host_in_image_names() -> None:
    assert token_for(Target(host="")).host == HOST
    template = "{registry}.dkr-ecr.{region}.on.aws"
    host = f"{A}.dkr-ecr.us-east-1.on.aws"
    assert token_for(Target(host=template)).host == host


def test_a_connection_that_holds_a_token() -> None:
    target = Target("e_{registry}_{region}", extra='{"email": "a@example.com"}')
    connection = Connection.holding(token_for(target))
    assert connection == Connection(
        conn_id=f"e_{A}_us-east-1",
        host=HOST,
        login="AWS",
        password="s3cret",
        extra='{"email": "a@example.com"}',
        description="ECR token valid until 2030-01-02 03:04 UTC, "
        "written by ecr-airflow-sync",
    )
    assert Connection.holding(token_for(Target())).extra == ""


def test_no_secret_in_what_a_debugger_or_log_may_show() -> None:
    token = token_for(Target())
    extra = {"aws_session_token": "s3cret"}
    held = HeldConnection("aws", True, "", "", "AKIA", "s3cret", extra)
    for value in (token, Connection.holding(token), held, Result.written(token)):
        assert "s3cret" not in repr(value)


def test_results_of_a_token() -> None:
    token = token_for(Target("e_{region}"))
    planned = Result(
        conn_id="e_us-east-1",
        status="planned",
        registry=A,
        region="us-east-1",
        host=HOST,
        expires_at=UNTIL,
    )
    assert Result.planned(token) == planned
    # The connection does not hold this token, so its end is not told.
    failed = replace(planned, status="failed", error="no", expires_at=None)
    assert Result.unwritten(token, "no") == failed
    written = Result.written(token)
    assert written.last_success
    now = written.last_success
    assert written == replace(planned, status="written", last_success=now)
    ago = datetime.now(timezone.utc) - written.last_success
    assert timedelta(0) <= ago < timedelta(minutes=1)


def test_a_result_without_a_token_tells_what_was_asked() -> None:
    target = Target("e_{region}", "us-east-1", A, host="mirror.example.com")
    assert Result.failed(target, "no") == Result(
        conn_id="e_{region}",
        status="failed",
        registry=A,
        region="us-east-1",
        host="mirror.example.com",
        error="no",
    )
