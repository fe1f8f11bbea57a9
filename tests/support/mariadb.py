"""A MariaDB server of our own, for Airflows whose metadata is in MySQL."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator
from urllib.parse import urlsplit

import pymysql

from tests.support.database import (
    Server,
    execute,
    find_port,
    find_program,
    make_folder,
    run_tool,
    running,
)

PACKAGE = "mariadb-server"
OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-grant-tables",  # anybody on loopback may come in
    "--explicit-defaults-for-timestamp=1",  # Airflow's own demand
    "--innodb-flush-log-at-trx-commit=0",
)


def find_server() -> str:
    """The server's program, empty where there is none."""
    return find_program("mariadbd", Path("/usr/sbin"))


@dataclass
class MariaDB(Server):
    url: str
    kind = "mariadb"

    def create(self, name: str, version: str) -> None:
        # An index of 1.10's would be too long in utf8mb4.
        characters = "utf8" if version.startswith("1.") else "utf8mb4"
        execute(self.url, f"CREATE DATABASE {name} CHARACTER SET {characters}")

    def dump(self, name: str) -> bytes:
        return run_tool([*self._client("mariadb-dump"), name])

    def load(self, name: str, dumped: bytes) -> None:
        run_tool([*self._client("mariadb"), name], dumped)

    def _client(self, name: str) -> list[str]:
        at = urlsplit(self.url)
        there = [f"--host={at.hostname}", f"--port={at.port}", f"--user={at.username}"]
        return [name, "--no-defaults", *there]


@contextmanager
def serving(program: str) -> Iterator[MariaDB]:
    """A server on loopback, with nothing in it."""
    port = find_port()
    with make_folder("mysql") as folder:
        common = ["--no-defaults", f"--datadir={folder / 'data'}"]
        if os.getuid() == 0:  # it refuses to run as root
            common.append("--user=mysql")
        make = ["mariadb-install-db", *common, "--skip-test-db"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/")
        files = [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"]
        serve = [program, *common, f"--port={port}", *files, *OPTIONS]
        url = f"mysql://airflow@127.0.0.1:{port}"
        with running(serve, url, pymysql.OperationalError):
            yield MariaDB(url)
