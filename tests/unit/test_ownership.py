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


HOSTS = [
    "",
    "222222222222.dkr.ecr.eu-west-1.amazonaws.com",
    "https://222222222222.dkr.ecr.eu-west-1.amazonaws.com/",
    "222222222222.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
    "222222222222.dkr-ecr.us-east-1.on.aws",
    "222222222222.dkr.ecr.cn-north-1.amazonaws.com.cn",
    "public.ecr.aws",
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_connection_for_ecr_may_be_replaced(host: str) -> None:
    """Whoever wrote it: what it holds is a token that dies anyway."""
    held = replace(HELD, host=host)
    assert explain_foreign(held, WANTED) == ""
    assert explain_foreign(replace(held, conn_type=""), WANTED) == ""


def test_the_wanted_host_may_be_any() -> None:
    mirror = "mirror.example.com"
    held, wanted = replace(HELD, host=mirror), replace(WANTED, host=mirror)
    assert explain_foreign(held, wanted) == ""


@pytest.mark.parametrize(
    ("conn_type", "host"),
    [
        ("postgres", ""),
        ("http", HOST),
        ("docker", f"a{HOST}"),
        ("docker", "1.dkr.ecr.x.aws"),
        ("docker", "publicxecr.aws"),
    ],
)
def test_what_is_somebody_elses(conn_type: str, host: str) -> None:
    where = f" at {host}" if host else ""
    told = f"there is a connection of that id already, of type {conn_type}{where}"
    held = replace(HELD, conn_type=conn_type, host=host)
    assert explain_foreign(held, WANTED) == f"{told}, {ADVICE}"


def test_what_this_command_wrote_is_its_own() -> None:
    """Whatever it is now for: its description tells."""
    ours = Connection.holding(token_for(Target("one")))
    held = replace(HELD, conn_type="http", description=ours.description)
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
