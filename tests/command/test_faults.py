"""Faults of the host, each for real: no connection is lost, no token left, and the next run heals.

FAULT_MOMENTS=20 strikes at twenty moments of each method, real and fake, with every signal;
FAULT_SEED=… repeats the moments of a run that failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from tests.support.command import Command, Place
from tests.support.ecr_stand_in import EcrStandIn
from tests.support.faults import (
    INT,
    KILL,
    MOMENTS,
    TERM,
    WAYS,
    Fault,
    Scene,
    Way,
    in_store,
    strike,
)

OnFake = Callable[..., Scene]


@pytest.fixture
def on_fake(command: Command, fake: Place, ecr: EcrStandIn, tmp_path: Path) -> OnFake:
    def place(version: str) -> Scene:
        store = fake(version).store
        return Scene(command, ecr, tmp_path, in_store(store), store)

    return place


STRIKES = [
    ("1.10.15", (KILL, "by turns")),
    ("2.11.2", (TERM, "by turns")),
    ("2.11.2", (INT, "alone")),
]
if MOMENTS:
    STRIKES = [(version, way) for version in ("1.10.15", "2.11.2") for way in WAYS]


@pytest.mark.parametrize(("version", "way"), STRIKES)
def test_a_signal(on_fake: OnFake, version: str, way: Way) -> None:
    strike(on_fake(version), way, MOMENTS or 2)


FULL = "mount -t tmpfs -o size=4k none tmp; cat /dev/zero >tmp/full 2>/dev/null"
NO_FOLDER = (
    "for d in /tmp /var/tmp /usr/tmp . tmp; do [ ! -d $d ] || "
    "{ mount --bind $d $d; mount -o remount,bind,ro $d; }; done"
)
FAULTS = [
    Fault(
        "the temporary folder is full",
        status=0,
        script=f'{FULL}; exec "$@"',
        mounts=True,
    ),
    Fault(
        "no temporary folder at all",
        ("No usable temporary directory found",),
        script=f'{NO_FOLDER}; exec "$@"',
        mounts=True,
    ),
    Fault(
        "locale POSIX, no UTF-8 mode, HOME is no UTF-8",
        status=0,
        options=("--renew-before", "6h", "--json"),
        env={
            "LC_ALL": "POSIX",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "HOME": "home-\udcff",
        },
    ),
    Fault(
        "ASCII only",
        status=0,
        options=("--conn-extra", '{"team": "Müller"}'),
        env={"PYTHONIOENCODING": "ascii:strict", "AIRFLOW_HOME": "/tmp/\udcff"},
    ),
    Fault("nothing open", status=0, script='exec "$@" <&- >&- 2>&-'),
    Fault(
        "stdout is full",
        ("the report could not be printed: No space left on device",),
        script='exec "$@" >/dev/full',
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault(on_fake: OnFake, fault: Fault) -> None:
    scene = on_fake(fault.version)
    fault.strike(scene)
    scene.assert_heals()


def test_few_file_descriptors(on_fake: OnFake) -> None:
    scene, statuses = on_fake("2.11.2"), []
    for limit in (6, 10, 20):
        ran = scene(script=f'ulimit -n {limit}; exec "$@"')
        assert ran.stderr.count("\n") == ran.status, ran.stderr
        scene.assert_kept()
        scene.assert_no_token()
        statuses.append(ran.status)
    assert (statuses[0], statuses[-1]) == (1, 0)
    scene.assert_heals()
