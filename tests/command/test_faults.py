"""A table of faults, each for real: no connection is lost, no token left, and the next run heals.

FAULT_MOMENTS=20 strikes at twenty moments of each method, real and fake, with every signal; FAULT_SEED=…
repeats the moments of a run that failed.
"""

from __future__ import annotations

import contextlib
import os
import socketserver
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.support import ecr_stand_in
from tests.support.command import Command, Place
from tests.support.ecr_stand_in import EcrStandIn, serving_here
from tests.support.faults import (
    MOMENTS,
    WAYS,
    Fault,
    HalfAnswers,
    Scene,
    Way,
    in_store,
    strike,
)

OnFake = Callable[..., Scene]


@pytest.fixture
def on_fake(command: Command, fake: Place, ecr: EcrStandIn, tmp_path: Path) -> OnFake:
    def place(version: str, trouble: str = "") -> Scene:
        store = fake(version, trouble).store
        return Scene(command, ecr, tmp_path, in_store(store), store)

    return place


@pytest.mark.parametrize("version", ["1.10.15", "2.11.2"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0].name} {way[1]}")
def test_a_signal(on_fake: OnFake, way: Way, version: str) -> None:
    strike(on_fake(version), way, MOMENTS or 2)


@contextlib.contextmanager
def half_an_answer(scene: Scene) -> Iterator[None]:
    url = scene.command.env["AWS_ENDPOINT_URL_ECR"]
    half_answering = socketserver.ThreadingTCPServer(("127.0.0.1", 0), HalfAnswers)
    with serving_here(half_answering) as server:
        there = f"http://127.0.0.1:{server.server_address[1]}"
        scene.command.env["AWS_ENDPOINT_URL_ECR"] = there
        scene.ecr.tokens["half", "a token"] = [HalfAnswers.token]
        yield
        scene.command.env["AWS_ENDPOINT_URL_ECR"] = url


# Into a pipe, the status of the command itself is lost.
KEEPING = '{ "$@"; echo $? >status; } | %s; exit "$(cat status)"'
FULL = "mount -t tmpfs -o size=4k none tmp; cat /dev/zero >tmp/full 2>/dev/null"
NO_FOLDER = (
    "for d in /tmp /var/tmp /usr/tmp . tmp; do [ ! -d $d ] || "
    "{ mount --bind $d $d; mount -o remount,bind,ro $d; }; done"
)
RENEWING = ("--renew-before", "6h")

FAULTS = [
    Fault("ECR hangs up in the middle", ("no answer of ECR's",), around=half_an_answer),
    Fault(
        "ECR's token has expired",
        ("valid until 2001-09-09 01:46 UTC only; is this host's clock right?",),
        0,
        ecr=ecr_stand_in.Fault(change={"expiresAt": 1_000_000_000}),
    ),
    Fault(
        "the clock is ahead",
        ("is this host's clock right?",),
        0,
        script='exec faketime -f +690m "$@"',
    ),
    Fault(
        "the clock is behind",
        status=0,
        options=RENEWING,
        script='exec faketime -f -1d "$@"',
    ),
    Fault(
        "the temporary folder is full",
        status=0,
        script=f'{FULL}; exec "$@"',
        mounts=True,
    ),
    Fault("no temporary folder", status=0, env={"TMPDIR": "/nowhere"}),
    Fault(
        "no temporary folder at all",
        ("No usable temporary directory found",),
        script=f'{NO_FOLDER}; exec "$@"',
        mounts=True,
    ),
    Fault(
        "no /proc",
        status=0,
        version="1.10.15",
        script='mount -t tmpfs none /proc; exec "$@"',
        mounts=True,
    ),
    Fault(
        "locale POSIX, no UTF-8 mode",
        status=0,
        env={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
    Fault(
        "ASCII only",
        status=0,
        options=("--conn-extra", '{"team": "Müller"}'),
        env={"PYTHONIOENCODING": "ascii:strict", "AIRFLOW_HOME": "/tmp/\udcff"},
        out="AIRFLOW_HOME /tmp/?, import",
    ),
    Fault(
        "HOME is no UTF-8",
        status=0,
        options=(*RENEWING, "--json"),
        env={"HOME": "home-\udcff"},
    ),
    Fault("head -1", status=0, script=KEEPING % "head -1", out="Airflow 2.11.2, "),
    Fault("nobody reads", script=KEEPING % "true"),
    Fault("no stdout", status=0, script='exec "$@" >&-', out=""),
    Fault("no stderr", status=0, script='exec "$@" 2>&-', out="written"),
    Fault("nothing open", status=0, script='exec "$@" <&- >&- 2>&-'),
    Fault(
        "stdout is full",
        ("the report could not be printed: No space left on device",),
        script='exec "$@" >/dev/full',
    ),
    Fault(
        "no HOME",
        status=0,
        options=RENEWING,
        env={"HOME": "", "STATE_DIRECTORY": "state"},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault(on_fake: OnFake, fault: Fault) -> None:
    scene = on_fake(fault.version)
    fault.strike(scene)
    scene.assert_heals()


def test_few_file_descriptors(on_fake: OnFake) -> None:
    scene, statuses = on_fake("2.11.2"), []
    for limit in (5, 8, 9, 12, 20):
        ran = scene(script=f'ulimit -n {limit}; exec "$@"')
        assert ran.stderr.count("\n") == ran.status, ran.stderr
        scene.assert_kept()
        scene.assert_no_token()
        statuses.append(ran.status)
    assert (statuses[0], statuses[-1]) == (1, 0)
    scene.assert_heals()


def test_an_upgrade_between_two_runs(on_fake: OnFake) -> None:
    for version, method in (("2.5.3", "delete-add"), ("3.3.2", "import")):
        scene = on_fake(version)
        written = scene(*RENEWING, "--force").stdout
        assert written.startswith(f"Airflow {version}, ")
        assert f", {method}\n" in written
        scene.assert_newest()
        assert "  fresh  " in scene(*RENEWING).stdout


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become a user whom nobody knows"
)
def test_a_user_without_name_and_home(on_fake: OnFake) -> None:
    become = "setpriv --reuid=54321 --regid=54321 --clear-groups"
    runs = "import boto3, subprocess, sys; subprocess.check_call([sys.executable, '-c', ''])"
    tried = [*become.split(), sys.executable, "-c", runs]
    if subprocess.run(tried, capture_output=True).returncode:
        pytest.skip(f"other users cannot run {sys.executable}")
    scene = on_fake("2.11.2")
    for path in (scene.folder, *scene.folder.rglob("*")):
        path.chmod(0o777)
    for path in scene.folder.parents:
        if path.owner() == "root" and str(path).startswith("/tmp/"):
            path.chmod(0o755)
    ran = scene(*RENEWING, script=f'exec {become} "$@"', HOME="")
    assert (ran.status, ran.stderr.count("\n")) == (0, 1)
    assert "HOME is not set" in ran.stderr
    assert not (scene.folder / "~").exists()
    scene.assert_newest()
