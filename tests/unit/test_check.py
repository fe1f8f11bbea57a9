"""What a check finds in each connection, and what it asks of which host."""

from __future__ import annotations

import base64
import errno
import os
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Iterator

import pytest

from _ecr_airflow_sync import check
from _ecr_airflow_sync.check import check_connections, validate_for_check
from _ecr_airflow_sync.errors import ConnectionMissing, Held, StepFailed, UsageError
from _ecr_airflow_sync.model import HeldConnection, Result, Target
from tests.support.command import HOST
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, serving_here
from tests.support.registry_stand_in import RegistryStandIn, Trouble

from .conftest import NETWORK, TRY_AGAIN, catch

US = "us-east-1"
ECR = f"{ACCOUNT}.dkr.ecr"
REWRITE = (
    "run without --check to write it, "
    "or check --conn-id, --region, --registry and --host"
)
SYNC = "sync again, and see whether the timer runs"
MINE = Target(region=US)
REFUSED = f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}"


def holding(host: str = HOST, **fields: Any) -> HeldConnection:
    plain = HeldConnection("docker_default", True, host, "", "AWS", "x", {})
    return replace(plain, **fields)


def check_one(target: Target, held: Held, *variables: str) -> Result:
    (result,) = check_connections([target], {target.conn_id: held}, variables)
    return result


@pytest.fixture(autouse=True)
def _no_proxy(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of a registry comes to nothing, unless a test says where."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


@pytest.fixture(scope="module")
def servers() -> Iterator[RegistryStandIn]:
    """One stand-in for all tests, for its certificates take a while.

    Of the ECR beside it only the tokens are needed, which takes no server.
    """
    ecr = EcrStandIn()
    ecr.server_close()
    with serving_here(RegistryStandIn(ecr)) as server:
        yield server


@pytest.fixture
def registry(
    servers: RegistryStandIn, monkeypatch: pytest.MonkeyPatch
) -> RegistryStandIn:
    """The registries under their own names, as the environment's proxy."""
    servers.requests.clear()
    servers.troubles.clear()
    for name, value in servers.environment().items():
        monkeypatch.setenv(name, value)
    return servers


def test_a_check_must_know_the_ids() -> None:
    validate_for_check([MINE])
    unknown = Target("e_{region}")
    assert catch(UsageError, validate_for_check, [MINE, unknown]) == (
        "--check never asks AWS: give the conn id's regions and registries"
    )


def test_what_airflow_could_not_give() -> None:
    asked = Target(region=US, registry=ACCOUNT, host="mirror.example.com")
    assert check_one(asked, ConnectionMissing("none there")) == Result(
        conn_id="docker_default",
        status="missing",
        registry=ACCOUNT,
        region=US,
        host="mirror.example.com",
        error="none there",
    )
    failed = check_one(MINE, StepFailed("no database"))
    assert (failed.status, failed.error) == ("failed", "no database")


def test_what_answers_in_the_databases_stead() -> None:
    variable = "AIRFLOW_CONN_DOCKER_DEFAULT"
    for known, source, cure in (
        (variable, variable, "unset it where the tasks run"),
        ("OTHER", "a secrets backend", "remove the connection there"),
    ):
        result = check_one(MINE, holding(in_database=False), known)
        assert (result.status, result.host) == ("shadowed", HOST)
        assert result.error == (
            f"{source} answers instead of the database, so what is synced is never "
            f"read; {cure}"
        )


RIGHT = {
    "any region": (Target(), HOST),
    "China": (Target(registry=ACCOUNT), f"{ECR}.cn-north-1.amazonaws.com.cn"),
    "isolated": (Target(), f"{ECR}.us-iso-east-1.c2s.ic.gov"),
    "template": (
        Target(host="{registry}.dkr-ecr.{region}.on.aws"),
        f"{ACCOUNT}.dkr-ecr.x.on.aws",
    ),
}


@pytest.mark.parametrize(("target", "host"), RIGHT.values(), ids=RIGHT)
def test_the_right_host_is_asked(target: Target, host: str) -> None:
    """Nobody is there, and that is what is told."""
    result = check_one(target, holding(host))
    assert (result.status, result.host) == ("unreachable", host)
    assert result.error == (f"{host} cannot be reached: {REFUSED}; {NETWORK}")


OF_ECR = f"the bare host of an ECR registry in {US}"
BOTH = "{registry}.{region}.a"
WRONG = {
    "no dot": (MINE, f"{ECR}.us-east-1xamazonaws.com", OF_ECR),
    "another region": (MINE, f"{ECR}.eu-west-1.amazonaws.com", OF_ECR),
    "path": (MINE, f"evil.example/{HOST}", OF_ECR),
    "two labels": (MINE, f"a.b.dkr.ecr.{US}.amazonaws.com", OF_ECR),
    "another registry": (
        Target(registry=ACCOUNT),
        f"{'1' * 12}.dkr.ecr.x.amazonaws.com",
        f"the bare host of registry {ACCOUNT}",
    ),
    "letter for a dot": (Target(host="a.b"), "axb", "a.b"),
    "longer": (Target(host="a.b"), "a.b.evil.example", "a.b"),
    "two for one": (Target(host="{registry}.a"), "x.y.a", "one such as 123456789012.a"),
    "known": (Target("a", US, ACCOUNT, host=BOTH), "a", f"{ACCOUNT}.{US}.a"),
}


@pytest.mark.parametrize(("target", "host", "told"), WRONG.values(), ids=WRONG)
def test_the_wrong_host_is_not_asked(target: Target, host: str, told: str) -> None:
    result = check_one(target, holding(host))
    assert (result.status, result.host) == ("wrong host", host)
    assert result.error == f"its host is {host}, and not {told}; {REWRITE}"


def test_a_port_makes_it_another_host() -> None:
    for host in ("a.b", ""):
        result = check_one(Target(host="a.b"), holding(host, port=8443))
        shown = host or "empty"
        assert result.error == f"its host is {shown}:8443, and not a.b; {REWRITE}"


def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:s3cret:x@127.0.0.1:9")
    result = check_one(MINE, holding())
    assert result.status == "unreachable"
    assert "s3cret" not in str(result.error)


def test_a_good_token(
    registry: RegistryStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    registry.ecr.authorization_data(US, (), ACCOUNT)
    token = registry.ecr.tokens[US, ACCOUNT][-1]
    until = int(registry.ecr.issued[token].expires_at)
    assert check_one(MINE, holding(password=token)) == Result(
        conn_id="docker_default",
        status="fine",
        region=US,
        host=HOST,
        expires_at=datetime.fromtimestamp(until, timezone.utc),
    )
    assert registry.told() == {HOST}
    assert caplog.messages == ["Logging in with 1 connection(s) ..."]


def test_a_good_token_of_ecr_public(registry: RegistryStandIn) -> None:
    registry.ecr.public_data()
    token = registry.ecr.tokens[US, "public"][-1]
    public = Target(registry="public", host="public.ecr.aws")
    result = check_one(public, holding("public.ecr.aws", password=token))
    assert (result.status, result.error) == ("fine", None)
    (request,) = registry.requests
    assert request.path == "/token/?service=public.ecr.aws"


def test_a_password_that_is_no_token(registry: RegistryStandIn) -> None:
    no_time = base64.b64encode(b'{"expiration": 1e300}').decode()
    for password in ("M\u00fcller", no_time):
        result = check_one(MINE, holding(password=password))
        assert (result.status, result.expires_at) == ("refused", None)
        assert result.error == f"{HOST} answered 400 Bad Request; {SYNC}"


ANSWERS = {
    301: ("unreachable", "301 Moved Permanently", TRY_AGAIN),
    401: ("refused", "401 Unauthorized", SYNC),
    403: ("refused", "403 Forbidden", SYNC),
    500: ("unreachable", "500 Internal Server Error", TRY_AGAIN),
    599: ("unreachable", "599", TRY_AGAIN),
}


@pytest.mark.parametrize("status", ANSWERS)
def test_a_registry_that_says_no(registry: RegistryStandIn, status: int) -> None:
    """Then it is told until when the token is valid."""
    registry.troubles[HOST] = Trouble(status=status, location="https://evil.example/")
    password = base64.b64encode(b'{"expiration": 1000000000}').decode()
    result = check_one(MINE, holding(password=password))
    until = datetime(2001, 9, 9, 1, 46, 40, tzinfo=timezone.utc)
    told, reason, advice = ANSWERS[status]
    assert (result.status, result.host, result.expires_at) == (told, HOST, until)
    valid = "its token is valid until 2001-09-09 01:46 UTC"
    assert result.error == f"{HOST} answered {reason}; {valid}; {advice}"
    assert registry.told() == {HOST}


def test_a_registry_that_says_nothing(
    registry: RegistryStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.troubles[HOST] = Trouble(drop=True)
    closed = "Remote end closed connection without response"
    told = f"{HOST} cannot be reached: {closed}; {NETWORK}"
    assert check_one(MINE, holding()).error == told
    monkeypatch.setattr(check, "ANSWER_WITHIN", 0.3)
    registry.troubles[HOST] = Trouble(delay=2)
    error = str(check_one(MINE, holding()).error)
    assert error.startswith(f"{HOST} cannot be reached: ")
    assert error.endswith(f"timed out; {NETWORK}")


def test_a_registry_that_nobody_vouches_for(registry: RegistryStandIn) -> None:
    registry.troubles[HOST] = Trouble(wrong_name=True)
    result = check_one(MINE, holding())
    assert result.status == "unreachable"
    error = str(result.error)
    assert "CERTIFICATE_VERIFY_FAILED" in error
    assert error.endswith(
        "; check SSL_CERT_FILE, a CA bundle that must know this network's proxy, and "
        "this host's clock"
    )
    assert registry.told() == set()


def test_a_host_that_no_name_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first part is too long, and looks like a token."""
    monkeypatch.delenv("https_proxy")
    result = check_one(MINE, holding(f"{'x' * 64}.dkr.ecr.us-east-1.amazonaws.com"))
    told = "***.dkr.ecr.us-east-1.amazonaws.com cannot be reached: "
    assert (result.status, str(result.error).startswith(told)) == ("unreachable", True)


def test_what_others_are_found_to_be_does_not_wait(
    registry: RegistryStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "PATIENCE", 0.2)
    registry.troubles[HOST] = Trouble(delay=1)
    slow, gone = Target("slow", US), Target("gone", US)
    held: dict[str, Held] = {"slow": holding(), "gone": ConnectionMissing("gone")}
    results = check_connections([slow, gone], held, [])
    assert [result.status for result in results] == ["unreachable", "missing"]
    assert results[0].error == f"its registry gave no whole answer; {NETWORK}"
