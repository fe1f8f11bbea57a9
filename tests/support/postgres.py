"""A PostgreSQL server of our own."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import psycopg2

from tests.support.database import (
    Server,
    execute,
    find_port,
    find_program,
    make_folder,
    run_tool,
    running,
)

PACKAGE = "postgresql"


def find_server() -> str:
    """PostgreSQL's initdb, empty where there is no server."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return find_program("initdb", *folders)


@dataclass
class Postgres(Server):
    """``tools`` is the folder of pg_dump and psql."""

    url: str
    tools: Path
    kind = "postgres"

    def create(self, name: str, version: str) -> None:
        execute(f"{self.url}/postgres", f"CREATE DATABASE {name}")

    def dump(self, name: str) -> bytes:
        return run_tool([str(self.tools / "pg_dump"), f"{self.url}/{name}"])

    def load(self, name: str, dumped: bytes) -> None:
        quiet = ["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"]
        run_tool([str(self.tools / "psql"), *quiet, f"{self.url}/{name}"], dumped)


@contextmanager
def serving(initdb: str) -> Iterator[Postgres]:
    """A server on loopback, with nothing in it."""
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    tools = Path(initdb).resolve().parent
    port = find_port()
    with make_folder("postgres") as folder:
        data = str(folder / "data")
        make = [*as_user, initdb, "-D", data, "-U", "airflow", "-A", "trust"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/")
        place = ["-D", data, "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
        serve = [*as_user, str(tools / "postgres"), *place, "-c", "fsync=off"]
        url = f"postgresql://airflow@127.0.0.1:{port}"
        with running(serve, f"{url}/postgres", psycopg2.OperationalError):
            yield Postgres(url, tools)
