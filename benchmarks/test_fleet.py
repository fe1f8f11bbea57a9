"""Many hosts that sync in the same second. `make figures` has eight, HOSTS=20 twenty."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import ROUNDS, Command, Ran
from tests.support.database import Reader, query
from tests.support.real_airflow import OnDatabase

HOSTS = int(os.environ.get("HOSTS", "8"))
PLACES = [
    ("postgres", "1.10.15"),
    ("mariadb", "1.10.15"),
    ("postgres", "2.5.3"),
    ("mariadb", "2.5.3"),
    ("postgres", "2.11.2"),
    ("mariadb", "2.11.2"),
    ("postgres", "3.3.2"),
]


@dataclass
class Fleet:
    """Hosts that each have a state of their own."""

    command: Command
    folder: Path

    def __call__(self, *options: str) -> list[Ran]:
        states = [str(self.folder / f"host-{number}") for number in range(HOSTS)]
        hosts = [
            self.command.start("-r", "us-east-1", "-q", *options, STATE_DIRECTORY=state)
            for state in states
        ]
        return [self.command.end(host) for host in hosts]


def list_failures(runs: list[Ran]) -> list[str]:
    return [ran.stderr for ran in runs if ran.status]


def count_rows(url: str) -> int:
    return len(query(url, "SELECT 1 FROM connection WHERE conn_id = 'docker_default'"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "version"), PLACES)
def test_a_fleet_at_once(
    command: Command, on_database: OnDatabase, tmp_path: Path, kind: str, version: str
) -> None:
    _, url = on_database(kind, version)
    fleet = Fleet(command, tmp_path)
    failed = list_failures(fleet())
    rows = count_rows(url)
    name = f"{HOSTS} hosts at once on {version}, {kind}"
    print(f"\n{name}: first write, {len(failed)} failed, {rows} row(s)")
    assert (failed, rows) == ([], 1)
    with Reader(url) as reader:
        began = time.monotonic()
        for _ in range(ROUNDS):
            failed += list_failures(fleet("--renew-before", "6h", "--force"))
        took = (time.monotonic() - began) / ROUNDS
    rows = count_rows(url)
    found = f"{len(failed)} failed, {reader.missing} of {reader.reads} reads missing"
    print(f"{name}: {ROUNDS} round(s) of {took:.0f} s, {found}, {rows} row(s)")
    assert (failed, reader.missing, rows) == ([], 0, 1)
    with Reader(url) as reader:
        assert list_failures(fleet("--renew-before", "6h")) == []
    assert (reader.missing, len(reader.passwords)) == (0, 1)  # nobody had to write
