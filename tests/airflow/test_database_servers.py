"""Real Airflows on PostgreSQL and MariaDB: whoever looks, always finds a connection.

A reader looks all the time, as tasks that start would. On SQLite, one does so in
test_airflow.py, with every Airflow.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.support.airflows import NIGHTLY
from tests.support.command import Command, Ran, wait_for
from tests.support.database import Reader, connect, execute, query
from tests.support.real_airflow import OnDatabase

BY_IMPORT = [("postgres", "3.3.2")]
if NIGHTLY:
    BY_IMPORT += [("postgres", "2.11.2"), ("mariadb", "2.11.2")]


@pytest.mark.parametrize(("kind", "version"), BY_IMPORT)
def test_import(
    command: Command, on_database: OnDatabase, kind: str, version: str
) -> None:
    """By two hosts at once, who may collide in the first write."""
    airflow, url = on_database(kind, version)
    options = ("-r", "us-east-1", "-q")
    assert run_two(command, *options) == [(0, "")] * 2
    with Reader(url) as reader:
        assert run_two(command, *options) == [(0, "")] * 2
    assert reader.missing == 0
    # Of two, one may be overwritten before it is read.
    assert len(reader.passwords) > 1
    assert reader.reads > 200
    held = airflow.connection("docker_default") or {}
    known = held["password"] in command.secrets()
    assert known, "another token"


def run_two(command: Command, *options: str) -> list[tuple[int, str]]:
    started = [command.start(*options) for _ in range(2)]
    return [get_end(command.end(process)) for process in started]


def get_end(ran: Ran) -> tuple[int, str]:
    return ran.status, ran.stderr


DELETE_ADD = ("-r", "us-east-1", "--method", "delete-add")
TEN = [f"{number:012}" for number in range(1, 11)]
EVERYWHERE = [
    (kind, version)
    for kind in ("postgres", "mariadb", "sqlite")
    for version in ("1.10.15", "2.5.3", "2.11.2")
]


@pytest.mark.parametrize(
    ("kind", "version"), EVERYWHERE if NIGHTLY else [("sqlite", "2.5.3")]
)
def test_delete_and_add_of_ten(
    command: Command, on_database: OnDatabase, kind: str, version: str
) -> None:
    """In servers two hosts at once do it, below."""
    airflow, url = on_database(kind, version)
    options = [*DELETE_ADD, *(f"--registry={registry}" for registry in TEN)]
    options += ["--conn-id", "e_{registry}"]
    assert command(*options).status == 0
    with Reader(url, (f"e_{TEN[0]}", f"e_{TEN[-1]}")) as reader:
        ran = command(*options)
    assert get_end(ran) == (0, "")
    assert ", by delete-add\n" in ran.stdout
    assert (reader.missing, len(reader.passwords)) == (0, 4)
    assert reader.reads > 200
    held = airflow.connection(f"e_{TEN[-1]}") or {}
    newest = held["password"] in command.secrets()[-10:]
    assert newest, "another token"


# What makes writers of a connection wait, without keeping readers out.
HOLD_ROW = "UPDATE connection SET login = 'held' WHERE conn_id = 'docker_default'"
HOLD_TABLE = {
    "postgres": "LOCK TABLE connection IN SHARE MODE",
    "mariadb": "SELECT * FROM connection FOR UPDATE",
}
WAITING = {
    "postgres": "SELECT 1 FROM pg_locks WHERE NOT granted",
    "mariadb": "SELECT 1 FROM information_schema.innodb_trx "
    "WHERE trx_state = 'LOCK WAIT' UNION ALL SELECT 1 FROM "
    "information_schema.processlist WHERE state = 'User lock'",
}
ROWS = "SELECT 1 FROM connection WHERE conn_id = 'docker_default'"
# 1.10 has no unique key, and has MariaDB repeat its reads. 2.5 has one, and 2.11 is as 2.5.
SERVERS = [("mariadb", "1.10.15"), ("postgres", "2.5.3")]
if NIGHTLY:
    SERVERS += [("postgres", "1.10.15")]


def write_at_once(command: Command, kind: str, url: str, hold: str) -> None:
    """Two hosts, held up until both stand before the same row or gap."""
    with closing(connect(url)) as holder:
        holder.cursor().execute("BEGIN")
        holder.cursor().execute(hold)
        hosts = [command.start(*DELETE_ADD, "-q") for _ in range(2)]
        wait_for(lambda: len(query(url, WAITING[kind])) >= len(hosts), 60)
        holder.cursor().execute("ROLLBACK")
        assert [get_end(command.end(host)) for host in hosts] == [(0, "")] * 2


@pytest.mark.parametrize(("kind", "version"), SERVERS)
def test_two_hosts_delete_and_add_at_once(
    command: Command, on_database: OnDatabase, kind: str, version: str
) -> None:
    """Who comes second leaves what the first one wrote. On 1.10, it is replaced again."""
    _, url = on_database(kind, version)
    write_at_once(command, kind, url, HOLD_TABLE[kind])
    assert len(query(url, ROWS)) == 1
    with Reader(url) as reader:
        write_at_once(command, kind, url, HOLD_ROW)
    assert (reader.missing, len(query(url, ROWS))) == (0, 1)
    assert len(reader.passwords) == (3 if version == "1.10.15" else 2)
    assert reader.reads > 200


def test_a_password_column_too_short(command: Command, on_database: OnDatabase) -> None:
    """Databases made by Airflow 1.10 before AIRFLOW-3014 have room for 500 characters."""
    _, url = on_database("postgres", "1.10.15")
    execute(url, "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(500)")
    ran = command("-r", "us-east-1", "-q")
    assert ran.status == 1
    said = "value too long for type character varying(500); ECR's tokens do not fit"
    assert f"{said} (AIRFLOW-3014)" in ran.stderr
    cure = "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(5000)"
    assert cure in ran.stderr
    execute(url, cure)
    assert command("-r", "us-east-1").status == 0
