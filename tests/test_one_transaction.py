"""Delete and add are one transaction: on no Airflow, in no database, is a connection missing.

A reader looks all the time, as tasks that start would.
"""

from __future__ import annotations

import pytest
from conftest import Command, OnDatabase
from database import Reader

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
    sync: Command, on_database: OnDatabase, kind: str, version: str
) -> None:
    airflow, url = on_database(kind, version)
    for command, conn_ids in ((OPTIONS, ("docker_default",)), (TEN, FIRST_AND_LAST)):
        assert sync(*command).status == 0
        with Reader(url, conn_ids) as reader:
            ran = sync(*command)
        print(f"{len(conn_ids)}: {reader.missing} of {reader.reads} reads missing")
        assert (ran.status, ran.stderr) == (0, "")
        assert ", delete-add\n" in ran.stdout
        assert reader.missing == 0
        assert len(reader.passwords) == 2 * len(conn_ids)
        assert reader.reads > 200
    held = airflow.connection(FIRST_AND_LAST[1])
    assert held
    assert held["password"] in sync.secrets()[-10:]


def test_import_on_mariadb(sync: Command, on_database: OnDatabase) -> None:
    """Delete and add on it are above, which is how 1.10 is written."""
    airflow, url = on_database("mariadb", "2.11.2")
    assert sync("-r", "us-east-1").status == 0
    with Reader(url) as reader:
        ran = sync("-r", "us-east-1")
    assert (ran.status, ran.stderr) == (0, "")
    assert ", import\n" in ran.stdout
    assert (reader.missing, len(reader.passwords)) == (0, 2)
    assert reader.reads > 200
    held = airflow.connection("docker_default")
    assert held
    assert held["password"] in sync.secrets()
