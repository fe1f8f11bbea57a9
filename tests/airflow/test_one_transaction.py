"""Delete and add are one transaction: on no Airflow, in no database, is a connection missing.

A reader looks all the time, as tasks that start would.
"""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from tests.support.command import Command, OnDatabase, Ran
from tests.support.database import Reader, connect

OPTIONS = ("-r", "us-east-1", "--method", "delete-add")
TEN = (
    *OPTIONS,
    *(f"--registry={number:012}" for number in range(1, 11)),
    "--conn-id=e_{registry}",
)
FIRST_AND_LAST = ("e_000000000001", "e_000000000010")

EVERYWHERE = [
    (kind, version)
    for kind in ("postgres", "mariadb", "sqlite")
    for version in ("1.10.15", "2.5.3", "2.11.2")
]


@pytest.mark.parametrize(("kind", "version"), EVERYWHERE)
def test_no_read_misses_a_connection(
    command: Command, on_database: OnDatabase, kind: str, version: str
) -> None:
    airflow, url = on_database(kind, version)
    for options, conn_ids in ((OPTIONS, ("docker_default",)), (TEN, FIRST_AND_LAST)):
        assert command(*options).status == 0
        with Reader(url, conn_ids) as reader:
            ran = command(*options)
        print(f"{len(conn_ids)}: {reader.missing} of {reader.reads} reads missing")
        assert (ran.status, ran.stderr) == (0, "")
        assert ", delete-add\n" in ran.stdout
        assert reader.missing == 0
        assert len(reader.passwords) == 2 * len(conn_ids)
        assert reader.reads > 200
    held = airflow.connection(FIRST_AND_LAST[1])
    assert held
    assert held["password"] in command.secrets()[-10:]


def test_import_on_mariadb(command: Command, on_database: OnDatabase) -> None:
    """Delete and add on it are above, which is how 1.10 is written."""
    airflow, url = on_database("mariadb", "2.11.2")
    assert command("-r", "us-east-1").status == 0
    with Reader(url) as reader:
        ran = command("-r", "us-east-1")
    assert (ran.status, ran.stderr) == (0, "")
    assert ", import\n" in ran.stdout
    assert (reader.missing, len(reader.passwords)) == (0, 2)
    assert reader.reads > 200
    held = airflow.connection("docker_default")
    assert held
    assert held["password"] in command.secrets()


# What makes writers of a connection wait, without keeping readers out.
HOLD_ROW = "UPDATE connection SET login = 'held' WHERE conn_id = 'docker_default'"
HOLD_TABLE = {
    "postgres": "LOCK TABLE connection IN SHARE MODE",
    "mariadb": "SELECT * FROM connection FOR UPDATE",
}
COUNT_WAITING = {
    "postgres": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "mariadb": "SELECT (SELECT count(*) FROM information_schema.innodb_trx "
    "WHERE trx_state = 'LOCK WAIT') + (SELECT count(*) FROM "
    "information_schema.processlist WHERE state = 'User lock')",
}
COUNT_ROWS = "SELECT count(*) FROM connection WHERE conn_id = 'docker_default'"
# 1.10 has MariaDB repeat its reads, 2.5 does not.
SERVERS = [
    ("postgres", "1.10.15"),
    ("mariadb", "1.10.15"),
    ("postgres", "2.5.3"),
]


def ask(url: str, question: str) -> int:
    with closing(connect(url)) as database:
        cursor = database.cursor()
        cursor.execute(question)
        return int(cursor.fetchone()[0])


def write_at_once(command: Command, kind: str, url: str, hold: str) -> list[Ran]:
    """Three hosts, held up until all of them stand before the same row or gap."""
    with closing(connect(url)) as holder:
        holder.cursor().execute("BEGIN")
        holder.cursor().execute(hold)
        hosts = [command.start(*OPTIONS, "-q") for _ in range(3)]
        deadline = time.monotonic() + 60
        while ask(url, COUNT_WAITING[kind]) < len(hosts):
            assert time.monotonic() < deadline, "nobody waits"
            time.sleep(0.05)
        holder.cursor().execute("ROLLBACK")
        return [command.end(host) for host in hosts]


@pytest.mark.parametrize(("kind", "version"), SERVERS)
def test_writers_wait_for_each_other(
    command: Command, on_database: OnDatabase, kind: str, version: str
) -> None:
    """Who comes second leaves what the first one wrote. On 1.10, it is replaced again."""
    _, url = on_database(kind, version)
    assert command(*OPTIONS).status == 0
    with Reader(url) as reader:
        ended = write_at_once(command, kind, url, HOLD_ROW)
    assert [(ran.status, ran.stderr) for ran in ended] == [(0, "")] * 3
    assert (reader.missing, ask(url, COUNT_ROWS)) == (0, 1)
    assert len(reader.passwords) == (4 if version == "1.10.15" else 2)


@pytest.mark.parametrize(("kind", "version"), SERVERS)
def test_the_first_write_of_three_at_once(
    command: Command, on_database: OnDatabase, kind: str, version: str
) -> None:
    _, url = on_database(kind, version)
    ended = write_at_once(command, kind, url, HOLD_TABLE[kind])
    assert [(ran.status, ran.stderr) for ran in ended] == [(0, "")] * 3
    assert ask(url, COUNT_ROWS) == 1
