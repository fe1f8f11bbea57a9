"""Real Airflows on PostgreSQL, with a reader who looks all the time."""

from __future__ import annotations

import pytest

from tests.support.command import Command, OnPostgres
from tests.support.database import Reader, execute


@pytest.mark.parametrize("version", ["2.11.2", "3.3.2"])
def test_the_connection_is_never_missing(
    command: Command, on_postgres: OnPostgres, version: str
) -> None:
    _, url = on_postgres(version)
    first_imports = [
        command.start("-r", "us-east-1", "-q") for _ in range(2)
    ]  # may collide
    assert [command.end(process).status for process in first_imports] == [0, 0]
    with Reader(url) as alone:
        assert command("-r", "us-east-1").status == 0
    with Reader(url) as crowd:
        runs = [command.start("-r", "us-east-1") for _ in range(4)]
        assert [command.end(process).status for process in runs] == [0, 0, 0, 0]
    print(f"{version}: {alone.reads} and {crowd.reads} reads, none may find nothing")
    assert (alone.missing, crowd.missing) == (0, 0)
    assert len(alone.passwords) == 2
    assert (
        len(crowd.passwords) > 2
    )  # of five, some may be overwritten before they are read
    assert min(alone.reads, crowd.reads) > 500


def test_another_host_at_the_same_time(
    command: Command, on_postgres: OnPostgres
) -> None:
    airflow, _ = on_postgres("2.5.3")
    for _ in range(2):
        runs = [command.start("-r", "us-east-1", "-q") for _ in range(3)]
        ended = [command.end(process) for process in runs]
        assert [(ran.status, ran.stderr) for ran in ended] == [(0, "")] * 3
        assert airflow.connection("docker_default")


def test_a_password_column_too_short(command: Command, on_postgres: OnPostgres) -> None:
    """Databases made by Airflow 1.10 before AIRFLOW-3014 have room for 500 characters."""
    _, url = on_postgres("1.10.15")
    execute(url, "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(500)")
    ran = command("-r", "us-east-1", "-q")
    assert ran.status == 1
    assert (
        "value too long for type character varying(500); ECR's tokens do not fit"
        in ran.stderr
    )
    assert "(AIRFLOW-3014)" in ran.stderr
    cure = "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(5000)"
    assert cure in ran.stderr
    execute(url, cure)
    assert command("-r", "us-east-1").status == 0
