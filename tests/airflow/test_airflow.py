"""Real Airflows on SQLite: what they hold after a run, and what they say when they cannot write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import airflows
from tests.support.airflows import NIGHTLY
from tests.support.command import Command
from tests.support.database import Reader, insert_connection
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, Fault
from tests.support.real_airflow import DATABASE_URL, Real, RealAirflow
from tests.support.watcher import Watcher

WAYS = [
    ("1.10.15", "delete-add"),
    ("2.5.3", "delete-add"),
    ("2.11.2", "import"),
    ("3.3.2", "import"),
]
if NIGHTLY:
    WAYS += [("1.10.12", "delete-add"), ("2.11.2", "delete-add")]


@pytest.mark.parametrize(("version", "method"), WAYS)
def test_write_and_rewrite(
    command: Command,
    real: Real,
    ecr: EcrStandIn,
    tmp_path: Path,
    version: str,
    method: str,
) -> None:
    """Here Airflow's own code reads a connection, and reads what all tests read by SQL.

    One that is there already is replaced as a whole.
    """
    airflow = real(version)
    old_place = {"port": "5000", "schema": "old"}
    insert_connection(
        airflow.database, "ecr.us-east-1", "old", conn_type="docker", **old_place
    )
    options = ["-r", "us-east-1", "-r", "eu-west-1", "--conn-id", "ecr.{region}"]
    options += ["--method", method]
    with Watcher(command.secrets, tmp_path, Path("/dev/shm")) as watcher:
        first = command(*options, "--conn-extra", '{"email": "x@example.com"}')
        assert (first.status, first.stderr) == (0, "")
        assert f", by {method}\n" in first.stdout
        assert_holds(airflow, ecr, "us-east-1", "x@example.com")
        assert_holds(airflow, ecr, "eu-west-1", "x@example.com")
        by_airflow = airflows.connection(version, airflow.env, "ecr.us-east-1")
        same = by_airflow == airflow.connection("ecr.us-east-1")
        assert same

        old = ecr.tokens["eu-west-1", ACCOUNT][0]
        ecr.faults["eu-west-1"] = Fault(code="AccessDeniedException", message="no")
        ids = ("ecr.us-east-1", "ecr.eu-west-1")
        with Reader(airflow.database, ids) as reader:
            second = command(*options)
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
    assert reader.reads > 50
    assert (reader.missing, len(reader.passwords)) == (0, 3)


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


# What Airflow says differs from version to version, and on 1.10 a dry run lists.
EMPTY = [("1.10.15", "-q"), ("1.10.15", "--dry-run"), ("2.5.3", "-q")]
EMPTY += [("2.11.2", "--dry-run"), ("3.3.2", "-q")]
if NIGHTLY:
    EMPTY += [
        ("1.10.12", "-q"),
        ("2.5.3", "--dry-run"),
        ("2.11.2", "-q"),
        ("3.3.2", "--dry-run"),
    ]


@pytest.mark.parametrize(("version", "option"), EMPTY)
def test_no_database(
    command: Command, real: Real, tmp_path: Path, version: str, option: str
) -> None:
    """A dry run says so too: it opens the database."""
    real(version)
    (tmp_path / "airflow/airflow.db").unlink()
    ran = command("-r", "us-east-1", option)
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    where = f"docker_default: Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit"
    assert ran.stderr.startswith(where)
    said = ("no such table: connection", "airflow db init")
    assert any(words in ran.stderr for words in said), ran.stderr


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.10.15", "Could not create Fernet object"),
        ("2.11.2", "Fernet key must be 32"),
    ],
)
def test_a_malformed_fernet_key(
    command: Command, real: Real, version: str, said: str
) -> None:
    """Airflow 1.10 can then delete, but not add. The old connection stands."""
    airflow = real(version)
    insert_connection(airflow.database, "docker_default", "old", conn_type="docker")
    ran = command("-r", "us-east-1", "-q", AIRFLOW__CORE__FERNET_KEY="s3cret")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert said in ran.stderr
    assert "s3cret" not in ran.stderr
    held = airflow.connection("docker_default") or {}
    kept = held["password"] == "old"
    assert kept, "the old connection is lost"


def test_a_database_url_that_is_none(command: Command, real: Real) -> None:
    real("2.11.2")
    url = "postgresql+psycopg2:airflow:s3cret@127.0.0.1:1/airflow"
    ran = command("-r", "us-east-1", "-q", **{DATABASE_URL: url})
    assert ran.status == 1
    assert f"'{url.replace('s3cret', '***')}'" in ran.stderr
    assert "s3cret" not in ran.stderr
    assert ran.stderr.count("\n") == 1
