"""Real Airflows on PostgreSQL, with a reader who looks all the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import airflows
import pytest
from conftest import ROUNDS, Command, Ran, RealAirflow
from postgres import Reader, execute, find_initdb, serving

Place = Callable[[str], RealAirflow]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own on loopback; the URL lacks the database's name."""
    initdb = find_initdb()
    if not initdb:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    with serving(initdb, tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
def on_postgres(
    sync: Command, real: Place, postgres: str
) -> Callable[[str], tuple[RealAirflow, str]]:
    """Makes a real Airflow with a database of its own there; returns its URL too."""

    def place(version: str) -> tuple[RealAirflow, str]:
        airflow = real(version)
        name = f"airflow_{version.replace('.', '_')}_{time.monotonic_ns()}"
        execute(f"{postgres}/postgres", f"CREATE DATABASE {name}")
        url = f"{postgres}/{name}"
        airflow.env = airflows.on_database(
            airflow.env, url.replace("://", "+psycopg2://")
        )
        sync.env.update(airflow.env)
        airflows.run(version, airflow.env, *airflows.RECIPES[version].init)
        return airflow, url

    return place


OnPostgres = Callable[[str], "tuple[RealAirflow, str]"]


@pytest.mark.parametrize("version", ["2.11.2", "3.3.2"])
def test_the_connection_is_never_missing(
    sync: Command, on_postgres: OnPostgres, version: str
) -> None:
    _, url = on_postgres(version)
    first_imports = [
        sync.start("-r", "us-east-1", "-q") for _ in range(2)
    ]  # may collide
    assert [sync.end(process).status for process in first_imports] == [0, 0]
    with Reader(url) as alone:
        assert sync("-r", "us-east-1").status == 0
    with Reader(url) as crowd:
        runs = [sync.start("-r", "us-east-1") for _ in range(4)]
        assert [sync.end(process).status for process in runs] == [0, 0, 0, 0]
    print(f"{version}: {alone.reads} and {crowd.reads} reads, none may find nothing")
    assert (alone.missing, crowd.missing) == (0, 0)
    assert len(alone.passwords) == 2
    assert (
        len(crowd.passwords) > 2
    )  # of five, some may be overwritten before they are read
    assert min(alone.reads, crowd.reads) > 500


@pytest.mark.parametrize("version", ["1.10.15", "2.5.3", "2.11.2", "3.3.2"])
def test_delete_and_add_are_one_transaction(
    sync: Command, on_postgres: OnPostgres, version: str
) -> None:
    _, url = on_postgres(version)
    registries = [f"--registry={number:012}" for number in range(1, 11)]
    options = ("-r", "us-east-1", "--method", "delete-add", *registries)
    ten = (*options, "--conn-id", "e_{registry}")
    assert sync(*ten).status == 0
    assert sync("-r", "us-east-1", "--method", "delete-add").status == 0
    for conn_id, command in (("docker_default", options[:4]), ("e_000000000010", ten)):
        with Reader(url, (conn_id,)) as reader:
            ran = sync(*command)
        assert (ran.status, ", delete-add\n" in ran.stdout) == (0, True)
        assert (reader.missing, len(reader.passwords)) == (0, 2)
        assert reader.reads > 200


def test_another_host_at_the_same_time(sync: Command, on_postgres: OnPostgres) -> None:
    airflow, _ = on_postgres("2.5.3")
    for _ in range(2):
        runs = [sync.start("-r", "us-east-1", "-q") for _ in range(3)]
        ended = [sync.end(process) for process in runs]
        assert [(ran.status, ran.stderr) for ran in ended] == [(0, "")] * 3
        assert airflow.connection("docker_default")


def test_a_password_column_too_short(sync: Command, on_postgres: OnPostgres) -> None:
    """Databases made by Airflow 1.10 before AIRFLOW-3014 have room for 500 characters."""
    _, url = on_postgres("1.10.15")
    execute(url, "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(500)")
    ran = sync("-r", "us-east-1", "-q")
    assert ran.status == 1
    assert (
        "value too long for type character varying(500); ECR's tokens do not fit"
        in ran.stderr
    )
    assert "(AIRFLOW-3014)" in ran.stderr
    cure = "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(5000)"
    assert cure in ran.stderr
    execute(url, cure)
    assert sync("-r", "us-east-1").status == 0


@dataclass
class Round:
    """Eight hosts that sync at the same moment, each with a state of its own."""

    sync: Command
    folder: Path

    def __call__(self, *options: str) -> list[Ran]:
        states = [str(self.folder / f"host-{number}") for number in range(8)]
        hosts = [self.sync.start("-r", "us-east-1", *options, STATE_DIRECTORY=state)
                 for state in states]  # fmt: skip
        return [self.sync.end(host) for host in hosts]


@pytest.mark.figures
def test_a_fleet_of_eight(
    sync: Command, on_postgres: OnPostgres, tmp_path: Path
) -> None:
    airflow, url = on_postgres("3.3.2")
    fleet, renewing = Round(sync, tmp_path), ("-q", "--renew-before", "6h")
    assert sync("-r", "us-east-1", "-q").status == 0
    with Reader(url) as reader:
        began = time.monotonic()
        rounds = [fleet("-q") for _ in range(ROUNDS - 1)] + [fleet(*renewing)]
        seconds = (time.monotonic() - began) / ROUNDS
    failed = [ran for ended in rounds for ran in ended if ran.status]
    rows = len(airflows.connections("3.3.2", airflow.env, "docker_default"))
    found = f"{len(failed)} failed runs, {reader.missing} of {reader.reads} reads missing, {rows} row(s)"
    print(f"\nfleet of eight on 3.3.2, {ROUNDS} round(s) of {seconds:.0f} s: {found}")
    assert (failed, reader.missing, rows) == ([], 0, 1)
    with Reader(url) as reader:
        assert [ran.status for ran in fleet(*renewing)] == [0] * 8
    assert (reader.missing, len(reader.passwords)) == (0, 1)  # nobody had to write
