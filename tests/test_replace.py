"""Whose connection it is: what is replaced, what is refused, what a dry run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import airflows
import pytest
from conftest import Command, FakeAirflow, RealAirflow
from ecr_stand_in import ACCOUNT, EcrStandIn

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
    sync: Command, fake: Place, fields: dict[str, str], what: str
) -> None:
    airflow = fake()
    airflow.store.write_text(json.dumps({"docker_default": fields}))
    for options in ((), ("--dry-run",)):
        ran = sync("-r", "us-east-1", "-q", *options)
        assert (ran.status, ran.stderr) == (1, FOREIGN.format(what))
    assert airflow.connections() == {"docker_default": fields}
    assert sync("-r", "us-east-1", "--replace", "--dry-run").status == 0
    assert sync("-r", "us-east-1", "--replace").status == 0
    assert airflow.connections()["docker_default"]["host"] == HOST
    assert sync("-r", "us-east-1").status == 0  # now it is its own


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
    sync: Command, fake: Place, fields: dict[str, str]
) -> None:
    airflow = fake()
    airflow.store.write_text(json.dumps({"docker_default": fields}))
    mirror = ("--host", "mirror.example.com") if "mirror" in str(fields) else ()
    assert sync("-r", "us-east-1", *mirror).status == 0
    assert airflow.connections()["docker_default"]["login"] == "AWS"


def test_it_is_looked_up_once_and_in_the_same_start(sync: Command, fake: Place) -> None:
    airflow = fake()
    starts = Path(f"{airflow.store}.starts")
    for commands in (["get", "list", "import"], ["import"]):
        assert sync("-r", "us-east-1").status == 0
        lines = [line.split() for line in starts.read_text().splitlines()]
        assert [action for _, action in lines] == commands
        assert len({pid for pid, _ in lines}) == 1
        starts.unlink()


def test_a_dry_run_says_what_is_new(sync: Command, fake: Place) -> None:
    airflow = fake()
    ran = sync("-r", "us-east-1", "--dry-run")
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.endswith(" h), new\n")
    assert sync("-r", "us-east-1").status == 0
    ran = sync("-r", "us-east-1", "--dry-run")
    assert ran.stdout.endswith(" h), replaces the one there\n")
    assert list(airflow.connections()) == ["docker_default"]


@pytest.mark.parametrize("version", ["1.10.15", "2.5.3", "2.11.2", "3.3.2"])
def test_a_dry_run_opens_the_database(
    sync: Command, real: Callable[[str], RealAirflow], tmp_path: Path, version: str
) -> None:
    airflow = real(version)
    assert sync("-r", "us-east-1", "--dry-run").status == 0
    (tmp_path / "airflow/airflow.db").unlink()
    ran = sync("-r", "us-east-1", "--dry-run", "-q")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert ("no such table: connection" in ran.stderr) or ("airflow db" in ran.stderr)
    assert airflow.version == version


@pytest.mark.parametrize("version", ["2.5.3", "2.11.2", "3.3.2"])
def test_a_real_connection_of_somebody_else(
    sync: Command, real: Callable[[str], RealAirflow], version: str
) -> None:
    airflow = real(version)
    options = ["--conn-type=generic", "--conn-host=db.example.com", "--conn-login=app"]
    add = ["connections", "add", "docker_default", *options, "--conn-password=s3cret"]
    airflows.run(version, airflow.env, *add)
    ran = sync("-r", "us-east-1", "-q")
    told = FOREIGN.format("generic at db.example.com")
    assert (ran.status, ran.stderr) == (1, told)
    kept = airflow.connection("docker_default") or {}
    assert (kept["login"], kept["password"]) == ("app", "s3cret")


@pytest.mark.parametrize("version", ["2.5.3", "2.11.2", "3.3.2"])
def test_a_check_that_cannot_look_says_so(
    sync: Command,
    real: Callable[[str], RealAirflow],
    ecr: EcrStandIn,
    tmp_path: Path,
    version: str,
) -> None:
    """`connections get` says "not found" for all of these."""
    real(version)
    assert sync("-r", "us-east-1", "-q").status == 0
    away = "postgresql+psycopg2://airflow:s3cret@127.0.0.1:1/airflow"
    another_key = "bm90IHRoZSBrZXkgb2YgdGhlIHdvcmtlcnMsIHJlYWw="
    for env, cause in (
        (dict.fromkeys(URLS, away), "Connection refused"),
        ({"AIRFLOW__CORE__FERNET_KEY": another_key}, "InvalidToken"),
        (dict.fromkeys(URLS, f"sqlite:///{tmp_path}/empty.db"), "no such table"),
    ):
        ran = sync("-r", "us-east-1", "--check", **env)
        assert (ran.status, "docker_default  failed" in ran.stdout) == (1, True)
        known = cause in ran.stderr or "airflow db" in ran.stderr
        assert (known, ran.stderr.count("\n"), "s3cret" in ran.stderr) == (
            True,
            1,
            False,
        )
    assert len(ecr.calls) == 1


URLS = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")


def test_the_old_connection_stands_when_time_runs_out(
    sync: Command, fake: Place
) -> None:
    """Between delete and add."""
    airflow = fake("2.5.3", "slow add")
    airflow.store.write_text('{"docker_default": {}}')
    ran = sync("-r", "us-east-1", "-q", "--timeout", "3", FAKE_AIRFLOW_SLOW="60")
    assert ran.status == 1
    assert "killed after 3 s, while running connections delete;" in ran.stderr
    assert airflow.connections() == {"docker_default": {}}


def test_the_old_connection_stands_with_a_malformed_fernet_key(
    sync: Command, real: Callable[[str], RealAirflow], ecr: EcrStandIn
) -> None:
    """Airflow 1.10 can then delete, but not add."""
    airflow = real("1.10.15")
    assert sync("-r", "us-east-1").status == 0
    ran = sync("-r", "us-east-1", "-q", AIRFLOW__CORE__FERNET_KEY="nonsense=")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    held = airflow.connection("docker_default") or {}
    kept = held.pop("password") == ecr.tokens["us-east-1", ACCOUNT][0]
    assert kept, "another token"


def test_another_database_in_airflow_cfg_is_written(
    sync: Command, fake: Place, tmp_path: Path
) -> None:
    fake()
    (tmp_path / "airflow").mkdir()
    settings = tmp_path / "airflow/airflow.cfg"
    for database, status in (("one", "written"), ("one", "fresh"), ("two", "written")):
        settings.write_text(
            f"[database]\nsql_alchemy_conn = postgresql://{database}/a\n"
        )
        ran = sync("-r", "us-east-1", "--renew-before", "6h")
        assert f"  {status}  " in ran.stdout


def test_output_without_end_is_given_up(
    sync: Command, fake: Place, tmp_path: Path
) -> None:
    airflow = fake()
    chatty = tmp_path / "chatty"
    chatty.write_text("#!/bin/sh\nyes\n")
    chatty.chmod(0o755)
    airflow_command = f"{chatty} {airflow.script}"
    ran = sync("-r", "us-east-1", "-q", "--timeout", "2", "--airflow", airflow_command)
    told = f"{airflow_command}: killed after 2 s, while starting; see --timeout\n"
    assert (ran.status, ran.stderr) == (1, f"docker_default: {told}")
