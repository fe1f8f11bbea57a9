"""Whose connection it is: what is replaced, what is refused, what a dry run says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import HOST, Command, FakeAirflow, Place

FOREIGN = (
    "docker_default: there is a connection of that id already, of type postgres at "
    "db.example.com, which ecr-airflow-sync did not write: choose another --conn-id, "
    "or replace it with --replace\n"
)


def test_somebody_elses_connection_is_not_replaced(
    command: Command, airflow: FakeAirflow
) -> None:
    theirs = {"conn_type": "postgres", "host": "db.example.com"}
    airflow.hold(docker_default=theirs)
    for options in ((), ("--dry-run",)):
        ran = command("-r", "us-east-1", "-q", *options)
        assert (ran.status, ran.stderr) == (1, FOREIGN)
    assert airflow.connections() == {"docker_default": theirs}
    assert command("-r", "us-east-1", "--replace", "--dry-run").status == 0
    assert command("-r", "us-east-1", "--replace").status == 0
    assert airflow.connections()["docker_default"]["host"] == HOST
    assert command("-r", "us-east-1").status == 0  # now it is its own


@pytest.mark.parametrize(
    "fields",
    [
        {"conn_type": "docker", "host": "https://public.ecr.aws/"},
        {"conn_type": "docker", "host": "mirror.example.com"},
        {"conn_type": "generic", "description": "written by ecr-airflow-sync"},
    ],
    ids=["ECR's host", "the host asked for", "its own"],
)
def test_what_is_for_ecr_is_replaced(
    command: Command, airflow: FakeAirflow, fields: dict[str, str]
) -> None:
    airflow.hold(docker_default=fields)
    assert command("-r", "us-east-1", "--host", "mirror.example.com").status == 0
    assert airflow.connections()["docker_default"]["login"] == "AWS"


def test_it_is_looked_up_once_and_in_the_same_start(
    command: Command, airflow: FakeAirflow
) -> None:
    for actions in (["get", "list", "import"], ["import"]):
        assert command("-r", "us-east-1").status == 0
        assert [action for _, action in airflow.log] == actions
        assert airflow.count_starts() == 1


def test_a_dry_run_says_what_is_new(command: Command, airflow: FakeAirflow) -> None:
    ran = command("-r", "us-east-1", "--dry-run")
    assert (ran.status, ran.stderr) == (0, "")
    assert "  planned  " in ran.stdout
    assert ran.stdout.endswith(" h), new\n")
    assert airflow.connections() == {}
    assert command("-r", "us-east-1").status == 0
    before = airflow.connections()
    ran = command("-r", "us-east-1", "--dry-run")
    assert ran.stdout.endswith(" h), replaces the one there\n")
    assert airflow.connections() == before


def test_nobody_knows_whose_it_is_on_airflow_1(command: Command, fake: Place) -> None:
    airflow = fake("1.10.15")
    airflow.hold(docker_default={"conn_type": "postgres"})
    ran = command("-r", "us-east-1", "--dry-run")
    assert (ran.status, ran.stderr) == (0, "")
    assert ", delete-add\n" in ran.stdout
    assert command("-r", "us-east-1").status == 0
    assert airflow.connections()["docker_default"]["conn_type"] == "docker"


@pytest.mark.parametrize("option", ["--dry-run", "--check"])
def test_a_database_that_cannot_be_asked(
    command: Command, fake: Place, tmp_path: Path, option: str
) -> None:
    """Then `connections get` says that there is no such connection."""
    fake(trouble="no database")
    ran = command("-r", "us-east-1", option, "--json")
    (told,) = json.loads(ran.stdout)["connections"]
    why = (
        f"Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit status 1): "
        "RuntimeError: no such table: connection"
    )
    assert (told["status"], told["error"]) == ("failed", why)
    assert (ran.status, ran.stderr) == (1, f"docker_default: {why}\n")


def test_what_this_host_wrote_stays_its_own(
    command: Command, airflow: FakeAirflow
) -> None:
    assert command("-r", "us-east-1").status == 0
    airflow.hold(docker_default={"conn_type": "postgres"})
    ran = command("-r", "us-east-1", "--dry-run")
    assert (ran.status, ran.stderr) == (0, "")
    assert command("-r", "us-east-1").status == 0
    assert airflow.connections()["docker_default"]["conn_type"] == "docker"


def test_a_dry_run_says_nothing_of_what_a_variable_hides(
    command: Command, airflow: FakeAirflow
) -> None:
    variable = {"AIRFLOW_CONN_DOCKER_DEFAULT": '{"conn_type": "docker"}'}
    ran = command("-r", "us-east-1", "--dry-run", **variable)
    assert ran.status == 0
    assert ran.stdout.endswith(" h)\n")
