"""Faults that a real Airflow and its database meet: no connection is lost, and the next run heals.

FAULT_MOMENTS=20 strikes at twenty moments of each method, with every signal.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.support import airflows
from tests.support.api_server import ApiServer
from tests.support.command import Command
from tests.support.database import connect, execute, find_port, name_for_airflow
from tests.support.ecr_stand_in import EcrStandIn
from tests.support.faults import (
    KILL,
    MOMENTS,
    WAYS,
    Fault,
    Scene,
    Way,
    in_database,
    strike,
)
from tests.support.real_airflow import DATABASE_URL, OnDatabase, Real

OnReal = Callable[[str], Scene]
by_signal = pytest.mark.parametrize(
    "way",
    WAYS if MOMENTS else [(KILL, "by turns")],
    ids=lambda way: f"{way[0].name} {way[1]}",
)


@pytest.fixture
def on_real(command: Command, real: Real, ecr: EcrStandIn, tmp_path: Path) -> OnReal:
    def place(version: str) -> Scene:
        held = in_database(real(version).database)
        return Scene(command, ecr, tmp_path, held)

    return place


# What has most to lose: two commands in one transaction.
METHODS = [("2.5.3", "delete-add")]
if MOMENTS:
    METHODS += [("1.10.15", "delete-add"), ("2.11.2", "delete-add")]
    METHODS += [("2.11.2", "import"), ("3.3.2", "import")]


@pytest.mark.parametrize(("version", "method"), METHODS)
@by_signal
def test_a_signal(on_real: OnReal, way: Way, version: str, method: str) -> None:
    scene = on_real(version)
    scene.command.options += ["--method", method]
    strike(scene, way, MOMENTS or 2)


@by_signal
def test_a_signal_with_airflowctl(
    command: Command, api_server: ApiServer, ecr: EcrStandIn, tmp_path: Path, way: Way
) -> None:
    command.env.update(api_server.client(tmp_path / "client"))
    script = airflows.environment(airflows.AIRFLOWCTL) / "bin/airflowctl"
    command.options = ["--airflow", str(script)]
    held = in_database(api_server.database)
    strike(Scene(command, ecr, tmp_path, held, in_flight=1), way, MOMENTS or 2)


@contextlib.contextmanager
def locked(scene: Scene) -> Iterator[None]:
    """For Airflow to wait a second each time, and not five."""
    env = scene.command.env
    url = env[DATABASE_URL]
    with contextlib.closing(connect(url)) as database:
        database.execute("BEGIN EXCLUSIVE")
        env[DATABASE_URL] = f"{url}?timeout=1"
        yield
    env[DATABASE_URL] = url


ASIDE = (
    "mkdir aside; mount --bind airflow aside; "
    "mount -t tmpfs -o size=64m none airflow; cp -a aside/. airflow"
)
FILLED = "cat /dev/zero >airflow/full 2>/dev/null"
BACK = "status=$?; rm -f airflow/full; cp -a airflow/. aside; exit $status"
READ_ONLY = 'mount --bind airflow airflow; mount -o remount,bind,ro airflow; exec "$@"'
ON_SQLITE = [
    Fault("locked", ("OperationalError: database is locked",), around=locked),
    Fault(
        "full disk", ("disk",), script=f'{ASIDE}; {FILLED}; "$@"; {BACK}', mounts=True
    ),
    Fault("read-only", ("readonly database",), script=READ_ONLY, mounts=True),
    Fault(
        "read-only, delete and add",
        ("readonly database",),
        version="1.10.15",
        script=READ_ONLY,
        mounts=True,
    ),
]


@pytest.mark.parametrize("fault", ON_SQLITE, ids=lambda fault: fault.name)
def test_a_database_in_a_file(on_real: OnReal, fault: Fault) -> None:
    scene = on_real(fault.version)
    fault.strike(scene)
    scene.assert_heals()


def test_a_database_server(
    command: Command, on_database: OnDatabase, ecr: EcrStandIn, tmp_path: Path
) -> None:
    _, url = on_database("postgres", "2.5.3")
    scene = Scene(command, ecr, tmp_path, in_database(url))
    server, _, name = url.rpartition("/")

    def at(url: str) -> dict[str, str]:
        return airflows.on_database({}, name_for_airflow(url))

    @contextlib.contextmanager
    def altered(there: str, back: str) -> Iterator[None]:
        execute(f"{server}/postgres", there)
        yield
        execute(f"{server}/postgres", back)

    @contextlib.contextmanager
    def table_locked(_: Scene) -> Iterator[None]:
        with contextlib.closing(connect(url)) as database:
            locking = "BEGIN; LOCK TABLE connection IN ACCESS EXCLUSIVE MODE"
            database.cursor().execute(locking)
            yield

    read_only = f"ALTER DATABASE {name} SET default_transaction_read_only"
    for fault in (
        Fault(
            "down",
            ("Connection refused",),
            env=at(f"postgresql://airflow@127.0.0.1:{find_port()}/{name}"),
        ),
        Fault(
            "out of connections",
            ('FATAL:  too many connections for role "full"',),
            env=at(url.replace("airflow@", "full@")),
            around=lambda _: altered(
                "CREATE ROLE full LOGIN CONNECTION LIMIT 0", "DROP ROLE full"
            ),
        ),
        Fault(
            "read-only",
            ("cannot execute DELETE in a read-only transaction",),
            around=lambda _: altered(f"{read_only} = on", f"{read_only} = off"),
        ),
        Fault(
            "locked",
            ("killed after 8 s",),
            options=("--timeout", "8"),
            around=table_locked,
        ),
    ):
        print(fault.name)
        fault.strike(scene)
    scene.assert_heals()  # nothing of a fault lasts but what it left in the database
