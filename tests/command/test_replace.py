"""Whose connection it is: what is replaced, what is refused, what a dry run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import pytest

from tests.support.command import Command, FakeAirflow
from tests.support.ecr_stand_in import ACCOUNT

Place = Callable[..., FakeAirflow]
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
FOREIGN = (
    "docker_default: there is a connection of that id already, of type {}, which "
    "ecr-airflow-sync did not write: choose another --conn-id, or replace it with "
    "--replace\n"
)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"conn_type": "postgres", "host": "db.example.com"}, "postgres at db.example.com"),
        ({"conn_type": "aws", "login": "AKIA"}, "aws"),
        ({"conn_type": "docker", "host": "registry.example.com"}, "docker at registry.example.com"),
    ],
)  # fmt: skip
def test_somebody_elses_connection_is_not_replaced(
    command: Command, fake: Place, fields: dict[str, str], what: str
) -> None:
    airflow = fake()
    airflow.store.write_text(json.dumps({"docker_default": fields}))
    for options in ((), ("--dry-run",)):
        ran = command("-r", "us-east-1", "-q", *options)
        assert (ran.status, ran.stderr) == (1, FOREIGN.format(what))
    assert airflow.connections() == {"docker_default": fields}
    assert command("-r", "us-east-1", "--replace", "--dry-run").status == 0
    assert command("-r", "us-east-1", "--replace").status == 0
    assert airflow.connections()["docker_default"]["host"] == HOST
    assert command("-r", "us-east-1").status == 0  # now it is its own


@pytest.mark.parametrize(
    "fields",
    [
        {"conn_type": "docker"},
        {"conn_type": "docker", "host": HOST},
        {"conn_type": "docker", "host": f"https://{HOST}/"},
        {"conn_type": "docker", "host": "111111111111.dkr-ecr.eu-west-1.on.aws"},
        {"conn_type": "docker", "host": "public.ecr.aws"},
        {"conn_type": "docker", "host": "mirror.example.com"},
        {"conn_type": "generic", "description": "written by ecr-airflow-sync"},
    ],
)
def test_what_is_for_ecr_is_replaced(
    command: Command, fake: Place, fields: dict[str, str]
) -> None:
    airflow = fake()
    airflow.store.write_text(json.dumps({"docker_default": fields}))
    mirror = ("--host", "mirror.example.com") if "mirror" in str(fields) else ()
    assert command("-r", "us-east-1", *mirror).status == 0
    assert airflow.connections()["docker_default"]["login"] == "AWS"


def test_it_is_looked_up_once_and_in_the_same_start(
    command: Command, fake: Place
) -> None:
    airflow = fake()
    starts = Path(f"{airflow.store}.starts")
    for commands in (["get", "list", "import"], ["import"]):
        assert command("-r", "us-east-1").status == 0
        lines = [line.split() for line in starts.read_text().splitlines()]
        assert [action for _, action in lines] == commands
        assert len({pid for pid, _ in lines}) == 1
        starts.unlink()


def test_a_dry_run_says_what_is_new(command: Command, fake: Place) -> None:
    airflow = fake()
    ran = command("-r", "us-east-1", "--dry-run")
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.endswith(" h), new\n")
    assert command("-r", "us-east-1").status == 0
    ran = command("-r", "us-east-1", "--dry-run")
    assert ran.stdout.endswith(" h), replaces the one there\n")
    assert list(airflow.connections()) == ["docker_default"]


def test_the_old_connection_stands_when_time_runs_out(
    command: Command, fake: Place
) -> None:
    """Between delete and add."""
    airflow = fake("2.5.3", "slow add")
    airflow.store.write_text('{"docker_default": {}}')
    ran = command("-r", "us-east-1", "-q", "--timeout", "3", FAKE_AIRFLOW_SLOW="60")
    assert ran.status == 1
    assert "killed after 3 s, while running connections delete;" in ran.stderr
    assert airflow.connections() == {"docker_default": {}}


def test_another_database_in_airflow_cfg_is_written(
    command: Command, fake: Place, tmp_path: Path
) -> None:
    fake()
    (tmp_path / "airflow").mkdir()
    settings = tmp_path / "airflow/airflow.cfg"
    for database, status in (("one", "written"), ("one", "fresh"), ("two", "written")):
        settings.write_text(
            f"[database]\nsql_alchemy_conn = postgresql://{database}/a\n"
        )
        ran = command("-r", "us-east-1", "--renew-before", "6h")
        assert f"  {status}  " in ran.stdout


def test_output_without_end_is_given_up(
    command: Command, fake: Place, tmp_path: Path
) -> None:
    airflow = fake()
    chatty = tmp_path / "chatty"
    chatty.write_text("#!/bin/sh\nyes\n")
    chatty.chmod(0o755)
    airflow_command = f"{chatty} {airflow.script}"
    ran = command(
        "-r", "us-east-1", "-q", "--timeout", "2", "--airflow", airflow_command
    )
    told = f"{airflow_command}: killed after 2 s, while starting; see --timeout\n"
    assert (ran.status, ran.stderr) == (1, f"docker_default: {told}")
