"""Whose a connection is that is there already, and what is told of somebody else's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from _ecr_airflow_sync.errors import ConnectionMissing, Held, StepFailed
from _ecr_airflow_sync.model import Connection, HeldConnection, Target
from _ecr_airflow_sync.ownership import explain_foreign, find_foreign

from .conftest import HOST, token_for

WANTED = Connection("one", HOST, "AWS", "s3cret")
HELD = HeldConnection("one", True, "", "", "me", "s3cret", {}, "docker")
ADVICE = (
    "which ecr-airflow-sync did not write: choose another --conn-id, or replace it "
    "with --replace"
)


@pytest.mark.parametrize(
    "host",
    [
        "",
        HOST,
        "222222222222.dkr.ecr.eu-west-1.amazonaws.com",
        "https://222222222222.dkr.ecr.eu-west-1.amazonaws.com/",
        "222222222222.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
        "222222222222.dkr-ecr.us-east-1.on.aws",
        "222222222222.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "public.ecr.aws",
    ],
)
@pytest.mark.parametrize("conn_type", ["", "docker"])
def test_a_connection_for_ecr_may_be_replaced(host: str, conn_type: str) -> None:
    """Whoever wrote it: what it holds is a token that dies anyway."""
    held = replace(HELD, host=host, conn_type=conn_type)
    assert explain_foreign(held, WANTED) == ""


def test_the_wanted_host_may_be_any() -> None:
    held = replace(HELD, host="mirror.example.com")
    assert explain_foreign(held, replace(WANTED, host="mirror.example.com")) == ""


@pytest.mark.parametrize(
    ("conn_type", "host", "told"),
    [
        ("docker", "registry.example.com", "of type docker at registry.example.com"),
        ("postgres", "", "of type postgres"),
        ("http", HOST, f"of type http at {HOST}"),
        ("docker", f"a{HOST}", f"of type docker at a{HOST}"),
        ("docker", "1.dkr.ecr.x.aws", "of type docker at 1.dkr.ecr.x.aws"),
        ("docker", "publicxecr.aws", "of type docker at publicxecr.aws"),
    ],
)
def test_what_is_somebody_elses(conn_type: str, host: str, told: str) -> None:
    held = replace(HELD, conn_type=conn_type, host=host)
    why = explain_foreign(held, WANTED)
    assert why == f"there is a connection of that id already, {told}, {ADVICE}"
    assert held.password not in why


def test_what_this_command_wrote_is_its_own() -> None:
    """Whatever it is now for: its description tells."""
    token = token_for(Target("one"))
    description = Connection.holding(token).description
    held = replace(
        HELD, host="old.example.com", conn_type="http", description=description
    )
    assert explain_foreign(held, WANTED) == ""


def test_only_what_is_there_can_be_in_the_way() -> None:
    foreign = replace(HELD, conn_type="postgres")
    held: dict[str, Held] = {
        "foreign": replace(foreign, conn_id="foreign"),
        "ours": replace(HELD, conn_id="ours"),
        "variable": replace(foreign, conn_id="variable", in_database=False),
        "missing": ConnectionMissing("none there"),
        "failed": StepFailed("no database"),
        "not asked for": foreign,
    }
    asked = ["foreign", "ours", "variable", "missing", "failed", "unknown"]
    found = find_foreign([replace(WANTED, conn_id=name) for name in asked], held)
    assert list(found) == ["foreign"]
    assert found["foreign"] == explain_foreign(foreign, WANTED) != ""
