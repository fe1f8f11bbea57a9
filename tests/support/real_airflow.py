"""Real Airflows for a test, each with a database of its own, and the fixtures for them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.support import airflows, mariadb, postgres
from tests.support import api_server as api_servers
from tests.support.api_server import ApiServer
from tests.support.command import Command
from tests.support.database import Server, name_for_airflow, read_connection

DATABASE_URL = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@dataclass
class RealAirflow:
    """A real Airflow with a metadata database of its own."""

    version: str
    env: dict[str, str]

    @property
    def script(self) -> str:
        return str(airflows.environment(self.version) / "bin/airflow")

    @property
    def database(self) -> str:
        return self.env[DATABASE_URL]

    def connection(self, conn_id: str) -> dict[str, Any] | None:
        return read_connection(self.database, conn_id)


# Makes a real Airflow on a database of some kind, and tells its URL.
OnDatabase = Callable[[str, str], "tuple[RealAirflow, str]"]
# Makes a real Airflow of some version, on SQLite.
Real = Callable[[str], RealAirflow]


@pytest.fixture
def real(command: Command, tmp_path: Path) -> Real:
    """Makes a real Airflow with a fresh SQLite database, and points the command at it."""

    def place(version: str) -> RealAirflow:
        try:
            env = airflows.home(version, tmp_path / "airflow")
        except airflows.Unavailable as unavailable:
            pytest.skip(str(unavailable))
        airflow = RealAirflow(version, env)
        command.env.update(env)
        command.options = ["--airflow", airflow.script]
        return airflow

    return place


@pytest.fixture(scope="session")
def database_servers() -> Iterator[Callable[[str], Server]]:
    """Starts PostgreSQL or MariaDB on loopback, each once."""
    with ExitStack() as running:

        @lru_cache(maxsize=None)
        def start(kind: str) -> Server:
            module = {"postgres": postgres, "mariadb": mariadb}[kind]
            program = module.find_server()
            if not program:
                pytest.skip(f"no {kind} here: apt-get install {module.PACKAGE}")
            server: Server = running.enter_context(module.serving(program))
            return server

        yield start


@pytest.fixture
def on_database(
    command: Command,
    real: Real,
    database_servers: Callable[[str], Server],
) -> OnDatabase:
    """Makes a real Airflow with a database of its own, in a server or in a file."""

    def place(kind: str, version: str) -> tuple[RealAirflow, str]:
        server = None if kind == "sqlite" else database_servers(kind)
        airflow = real(version)
        if not server:
            return airflow, airflow.env[DATABASE_URL]
        url = server.make_database(version, airflow.env)
        airflow.env = airflows.on_database(airflow.env, name_for_airflow(url))
        command.env.update(airflow.env)
        return airflow, url

    return place


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server of Airflow 3, for airflowctl. Its database is one for all tests."""
    try:
        airflows.find_python(*airflows.CLIENT.pythons)
    except airflows.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    with api_servers.serving(tmp_path_factory.mktemp("api-server")) as server:
        yield server
