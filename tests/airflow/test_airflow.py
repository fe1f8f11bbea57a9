"""Real Airflows on SQLite: what they hold afterwards, read through their own code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable

import pytest

from tests.support.command import Command, RealAirflow
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, Fault
from tests.support.watcher import Watcher

Place = Callable[[str], RealAirflow]
WAYS = [
    ("1.10.15", "delete-add"),
    ("2.5.3", "delete-add"),
    ("2.11.2", "import"),
    ("2.11.2", "delete-add"),
    ("3.3.2", "import"),
]


@pytest.mark.parametrize(("version", "method"), WAYS)
def test_write_and_rewrite(
    command: Command,
    real: Place,
    ecr: EcrStandIn,
    tmp_path: Path,
    version: str,
    method: str,
) -> None:
    airflow = real(version)
    options = ("-r", "us-east-1", "-r", "eu-west-1", "--conn-id", "ecr.{region}")
    with Watcher(command.secrets, tmp_path, Path("/dev/shm")) as watcher:
        first = command(
            *options, "--conn-extra", '{"email": "x@example.com"}', "--method", method
        )
        assert (first.status, first.stderr) == (0, "")
        assert f", {method}\n" in first.stdout
        assert_holds(airflow, ecr, "us-east-1", "x@example.com")
        assert_holds(airflow, ecr, "eu-west-1", "x@example.com")

        old = ecr.tokens["eu-west-1", ACCOUNT][0]
        ecr.faults["eu-west-1"] = Fault(code="AccessDeniedException", message="no")
        second = command(*options, "--method", method)
        assert second.status == 1
        assert "ecr.eu-west-1: ECR in eu-west-1: AccessDeniedException" in second.stderr
        assert_holds(airflow, ecr, "us-east-1", None)
        kept = airflow.connection("ecr.eu-west-1")
        assert kept
        assert (kept["password"] == old, kept["login"]) == (True, "AWS")
    watcher.look()  # and at what is left: the database with its audit log, the logs
    assert watcher.rounds > 20
    assert watcher.seen == set()
    assert list((tmp_path / "tmp").glob("ecr-airflow-sync*")) == []


def assert_holds(
    airflow: RealAirflow, ecr: EcrStandIn, region: str, email: str | None
) -> None:
    held = airflow.connection(f"ecr.{region}")
    assert held
    newest = held.pop("password") == ecr.tokens[region, ACCOUNT][-1]
    assert newest, "not the newest token"
    description = held.pop("description")
    if airflow.version.startswith("1."):
        assert description is None
    else:
        assert description.startswith("ECR token valid until 20")
        assert description.endswith(" UTC, written by ecr-airflow-sync")
    assert held == {
        "conn_type": "docker",
        "host": f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com",
        "login": "AWS",
        "port": None,
        "schema": None,
        "extra": f'{{"email": "{email}"}}' if email else held["extra"],
    }
    assert email or not held["extra"]


@pytest.mark.parametrize("version", ["1.10.15", "2.5.3", "2.11.2", "3.3.2"])
def test_no_database(
    command: Command, real: Place, tmp_path: Path, version: str
) -> None:
    airflow = real(version)
    (tmp_path / "airflow/airflow.db").unlink()
    ran = command("-r", "us-east-1", "-q")
    assert ran.status == 1
    assert ran.stderr.startswith(
        f"docker_default: Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit"
    )
    assert ("no such table: connection" in ran.stderr) or (
        "airflow db init" in ran.stderr
    )
    assert ran.stderr.count("\n") == 1
    shutil.rmtree(tmp_path / "airflow")
    airflow = real(version)
    assert command("-r", "us-east-1", "-q").status == 0
    assert airflow.connection("docker_default")


@pytest.mark.parametrize(
    ("version", "variable", "value", "error"),
    [
        pytest.param(
            "2.11.2",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
            "postgresql+psycopg2://airflow:s3cret@127.0.0.1:1/airflow",
            "Connection refused",
            id="unreachable",
        ),
        pytest.param(
            "2.11.2",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
            "postgresql+psycopg2:airflow:s3cret@127.0.0.1:1/airflow",
            "'postgresql+psycopg2:airflow:***@127.0.0.1:1/airflow'",
            id="not a URL",
        ),
        pytest.param(
            "2.11.2",
            "AIRFLOW__CORE__FERNET_KEY",
            "s3cret",
            "Fernet key must be 32",
            id="key",
        ),
    ],
)
def test_a_wrong_configuration(
    command: Command, real: Place, version: str, variable: str, value: str, error: str
) -> None:
    real(version)
    ran = command("-r", "us-east-1", "-q", **{variable: value})
    assert ran.status == 1
    assert error in ran.stderr
    assert "s3cret" not in ran.stderr
    assert ran.stderr.count("\n") == 1
