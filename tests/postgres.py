"""A PostgreSQL server of our own, and a reader who looks into Airflow's database all the time."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

import psycopg2
from watcher import Background


@dataclass
class Reader(Background):
    """Looks up connections in a loop, as tasks that start would. ``pause`` is between two looks."""

    url: str
    conn_ids: tuple[str, ...] = ("docker_default",)
    pause: float = 0
    reads: int = 0
    missing: int = 0
    seconds_missing: float = 0
    passwords: set[str] = field(default_factory=set)

    def work(self) -> None:
        connection = connect(self.url)
        cursor = connection.cursor()
        wanted = ", ".join(f"'{conn_id}'" for conn_id in self.conn_ids)
        before, was_missing = time.monotonic(), False
        while not self.stop.wait(self.pause):
            cursor.execute(
                f"SELECT conn_id, password FROM connection WHERE conn_id IN ({wanted})"
            )
            rows = cursor.fetchall()
            now = time.monotonic()
            if was_missing:
                self.seconds_missing += now - before
            before, was_missing = (
                now,
                len({row[0] for row in rows}) < len(self.conn_ids),
            )
            self.reads += 1
            self.missing += was_missing
            self.passwords.update(row[1] for row in rows)
        connection.close()


def find_initdb() -> str:
    """PostgreSQL's initdb, empty where there is no server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return shutil.which("initdb") or (str(found[-1]) if found else "")


@contextlib.contextmanager
def serving(initdb: str, folder: Path) -> Iterator[str]:
    """A server on loopback, with its data in an empty ``folder``; the URL lacks the database's name."""
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("postgres")
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and str(parent).startswith("/tmp/"):
                parent.chmod(0o755)
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    make = [*as_user, initdb, "-D", data, "-U", "airflow", "-A", "trust"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/")
    options = ["-c", "fsync=off", "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    server = subprocess.Popen(
        [*as_user, str(Path(initdb).with_name("postgres")), "-D", data, *options],
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    url = f"postgresql://airflow@127.0.0.1:{port}"
    try:
        wait_for_server(f"{url}/postgres")
        yield url
    finally:
        server.terminate()
        server.wait()


def wait_for_server(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg2.connect(url).close()
            return
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.1)


def connect(url: str) -> Any:
    """A DB-API connection in which each statement is a transaction; of SQLite by sqlite:///PATH."""
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite":
        return sqlite3.connect(path, isolation_level=None)
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


def execute(url: str, statement: str) -> None:
    connection = connect(url)
    connection.cursor().execute(statement)
    connection.close()
