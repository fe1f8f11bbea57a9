"""Airflow's metadata database: a reader who looks into it, and servers of our own to hold it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Iterator, Sequence
from urllib.parse import urlsplit

import psycopg2
import pymysql
from cryptography.fernet import Fernet

from tests.support import airflows
from tests.support.watcher import Background

DRIVERS = {"postgresql": "postgresql+psycopg2", "mysql": "mysql+pymysql"}


FERNET = Fernet(airflows.FERNET_KEY)


def connect(url: str) -> Any:
    """A DB-API connection in which each statement is a transaction.

    The URL may be Airflow's, with a driver. SQLite is sqlite:///PATH.
    """
    url = re.sub(r"^(\w+)\+\w+:", r"\1:", url)
    at = urlsplit(url)
    if at.scheme == "sqlite":
        return sqlite3.connect(at.path[1:], isolation_level=None)
    if at.scheme == "mysql":
        return pymysql.connect(
            host=at.hostname,
            port=at.port or 3306,
            user=at.username,
            database=at.path[1:] or None,
            autocommit=True,
        )
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


def execute(url: str, statement: str) -> None:
    with closing(connect(url)) as database:
        database.cursor().execute(statement)


def query(url: str, question: str) -> list[dict[str, Any]]:
    """The rows that answer it, by the names of their columns."""
    with closing(connect(url)) as database:
        cursor = database.cursor()
        cursor.execute(question)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]


def read_connection(url: str, conn_id: str) -> dict[str, Any] | None:
    """As airflows.connection has it, which tests/airflow/test_airflow.py holds beside it."""
    rows = query(url, f"SELECT * FROM connection WHERE conn_id = '{conn_id}'")
    count = len(rows)
    assert count < 2, f"{count} connections called {conn_id}"
    if not rows:
        return None
    (row,) = rows
    for name, flag in (("password", "is_encrypted"), ("extra", "is_extra_encrypted")):
        if row[name] and row[flag]:
            row[name] = FERNET.decrypt(row[name].encode()).decode()
    return {name: row.get(name) for name in airflows.FIELDS}


def insert_connection(url: str, conn_id: str, password: str, **fields: str) -> None:
    """As somebody made it who uses Airflow."""
    encrypted = FERNET.encrypt(password.encode()).decode()
    texts = {"conn_id": conn_id, "password": encrypted, **fields}
    values = ", ".join(f"'{text}'" for text in texts.values())
    columns = f"{', '.join(texts)}, is_encrypted, is_extra_encrypted"
    execute(url, f"INSERT INTO connection ({columns}) VALUES ({values}, true, false)")


@dataclass
class Reader(Background):
    """Looks up connections in a loop, as tasks that start would.

    ``pause`` is between two looks.
    """

    url: str
    conn_ids: tuple[str, ...] = ("docker_default",)
    pause: float = 0.001
    reads: int = 0
    missing: int = 0
    seconds_missing: float = 0
    passwords: set[str] = field(default_factory=set)

    def work(self) -> None:
        connection = connect(self.url)
        cursor = connection.cursor()
        wanted = ", ".join(f"'{conn_id}'" for conn_id in self.conn_ids)
        looking = "SELECT conn_id, password FROM connection WHERE conn_id IN"
        before = time.monotonic()
        was_missing = False
        while not self.stop.wait(self.pause):
            cursor.execute(f"{looking} ({wanted})")
            rows = cursor.fetchall()
            now = time.monotonic()
            if was_missing:
                self.seconds_missing += now - before
            before = now
            was_missing = len({row[0] for row in rows}) < len(self.conn_ids)
            self.reads += 1
            self.missing += was_missing
            self.passwords.update(row[1] for row in rows)
        connection.close()


class Server(ABC):
    """A database server on loopback. ``url`` lacks the database's name."""

    kind: str
    url: str

    @abstractmethod
    def create(self, name: str, version: str) -> None:
        """Make an empty database for that Airflow."""

    @abstractmethod
    def dump(self, name: str) -> bytes:
        """The whole database, as SQL."""

    @abstractmethod
    def load(self, name: str, dumped: bytes) -> None:
        """Fill an empty database."""

    def make_database(self, version: str, env: dict[str, str]) -> str:
        """A fresh database as that Airflow makes it; returns its URL.

        Airflow takes up to half a minute, so it makes one, and the others are copies.
        """
        name = f"airflow_{version.replace('.', '_')}_{time.monotonic_ns()}"
        self.create(name, version)
        url = f"{self.url}/{name}"
        folder = airflows.environment(version)
        kept = folder / f"{self.kind}.sql"
        with airflows.locked(folder):
            if not kept.exists():
                there = airflows.on_database(env, name_for_airflow(url))
                airflows.run(version, there, *airflows.find_recipe(version).init)
                partial = kept.with_suffix(".partial")
                partial.write_bytes(self.dump(name))
                partial.rename(kept)
                return url
        self.load(name, kept.read_bytes())
        return url


def name_for_airflow(url: str) -> str:
    """The URL as Airflow is to have it, with the driver that its environment has."""
    scheme, rest = url.split("://")
    return f"{DRIVERS.get(scheme, scheme)}://{rest}"


def run_tool(command: Sequence[str], given: bytes = b"") -> bytes:
    done = subprocess.run(command, input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def find_program(name: str, *elsewhere: Path) -> str:
    """Empty where there is none. ``elsewhere`` are folders that are not in PATH."""
    path = os.pathsep.join([os.environ["PATH"], *map(str, elsewhere)])
    return shutil.which(name, path=path) or ""


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def make_folder(user: str) -> Iterator[Path]:
    """For a server, which root runs as that user.

    Not pytest's: to that, each session that begins closes the way for other users.
    """
    with TemporaryDirectory(prefix="ecr-airflow-sync-server-") as name:
        if os.getuid() == 0:
            entry = pwd.getpwnam(user)
            os.chown(name, entry.pw_uid, entry.pw_gid)
        yield Path(name)


@contextmanager
def running(
    command: Sequence[str], url: str, refusal: type[Exception]
) -> Iterator[None]:
    """The server, from when it takes connections. Until then it answers by ``refusal``."""
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/")
    try:
        deadline = time.monotonic() + 30
        while not accepts(url, refusal):
            assert time.monotonic() < deadline, f"{url} does not start"
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def accepts(url: str, refusal: type[Exception]) -> bool:
    try:
        connect(url).close()
    except refusal:
        return False
    return True
