"""A table of faults, each for real: no connection is lost, no token left, and the next run heals.

FAULT_MOMENTS=20 strikes at twenty moments of each method, real and fake, with every signal; FAULT_SEED=…
repeats the moments of a run that failed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, ContextManager, Iterator, Mapping, Tuple

import airflows
import ecr_stand_in
import pytest
from api_server import ApiServer, free_port
from conftest import Command, FakeAirflow, RealAirflow
from database import connect, execute, name_for_airflow
from ecr_stand_in import EcrStandIn
from faults import (
    PLAIN,
    UNSHARE,
    HalfAnswers,
    Scene,
    in_database,
    in_store,
    python_was_starting,
)

MOMENTS = int(os.environ.get("FAULT_MOMENTS", "0"))
SEED = int(os.environ.get("FAULT_SEED", str(time.time_ns() % 1_000_000)))
DATABASE = "AIRFLOW__CORE__SQL_ALCHEMY_CONN"
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
ENDS = {
    KILL: (0, -KILL),
    TERM: (0, -TERM, 128 + TERM),
    INT: (0, -INT, 1),
}  # it may be done already
Way = Tuple[signal.Signals, str]
WAYS: list[Way] = [
    (KILL, "alone"),
    (KILL, "all"),
    (TERM, "alone"),
    (TERM, "all"),
    (INT, "alone"),
]
REAL_WAYS: list[Way] = WAYS if MOMENTS else [(KILL, "by turns")]
NO_MOUNTS = subprocess.run(
    [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
).returncode
NO_FAKETIME = not shutil.which("faketime")
Strange = Callable[[Scene], ContextManager[None]]


@pytest.fixture
def on_fake(
    sync: Command, fake: Callable[..., FakeAirflow], ecr: EcrStandIn, tmp_path: Path
) -> Callable[..., Scene]:
    def place(version: str, trouble: str = "") -> Scene:
        store = fake(version, trouble).store
        return Scene(sync, ecr, tmp_path, in_store(store), store)

    return place


@pytest.fixture
def on_real(
    sync: Command, real: Callable[[str], RealAirflow], ecr: EcrStandIn, tmp_path: Path
) -> Callable[[str], Scene]:
    return lambda version: Scene(
        sync, ecr, tmp_path, in_database(real(version).env[DATABASE])
    )


# --- signals ---


def strike(scene: Scene, way: Way, moments: int) -> None:
    """Strike so many runs, each at another moment of its time, and look after each."""
    number, whom = way
    began = time.monotonic()
    scene.assert_heals()
    length, chance = time.monotonic() - began, random.Random(SEED)  # noqa: S311 - no secret
    print(f"{moments} moments in {length:.2f} s, FAULT_SEED={SEED}")
    for moment in range(moments):
        process = scene.start()
        time.sleep((moment + chance.random()) / moments * length)
        alone = whom == "alone" or (whom == "by turns" and moment % 2 == 0)
        scene.strike_all(number) if not alone else process.send_signal(number)
        ran = scene.end(process)
        if not python_was_starting(ran):
            assert ran.status in ENDS[number], ran.stderr
            assert ran.stderr.strip() in ("", "Aborted!")
        scene.assert_no_token()
        if alone:  # else nobody is left who could tidy up
            assert list((scene.folder / "tmp").glob("ecr-airflow-sync-*")) == []
        for left in (scene.folder / "tmp").iterdir():
            shutil.rmtree(
                left
            ) if left.is_dir() else left.unlink()  # tempfile tries a folder out with a file
        scene.assert_kept()
        scene.assert_heals()


@pytest.mark.parametrize("version", ["1.10.15", "2.11.2"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0].name} {way[1]}")
def test_a_signal(on_fake: Callable[..., Scene], way: Way, version: str) -> None:
    strike(on_fake(version), way, MOMENTS or (3 if way[1] == "alone" else 2))


@pytest.mark.parametrize(
    ("version", "method"),
    [
        ("1.10.15", "delete-add"),
        ("2.5.3", "delete-add"),
        ("2.11.2", "delete-add"),
        ("2.11.2", "import"),
        ("3.3.2", "import"),
    ],
)
@pytest.mark.parametrize("way", REAL_WAYS, ids=lambda way: f"{way[0].name} {way[1]}")
def test_a_signal_with_a_real_airflow(
    on_real: Callable[[str], Scene], way: Way, version: str, method: str
) -> None:
    scene = on_real(version)
    scene.sync.options += ["--method", method]
    strike(scene, way, MOMENTS or 2)


@pytest.mark.airflow
@pytest.mark.parametrize("way", REAL_WAYS, ids=lambda way: f"{way[0].name} {way[1]}")
def test_a_signal_with_airflowctl(
    sync: Command, api_server: ApiServer, ecr: EcrStandIn, tmp_path: Path, way: Way
) -> None:
    sync.env.update(api_server.client(tmp_path / "client"))
    sync.options = [
        "--airflow",
        str(airflows.environment(airflows.AIRFLOWCTL) / "bin/airflowctl"),
    ]
    strike(
        Scene(sync, ecr, tmp_path, in_database(api_server.env[DATABASE]), in_flight=1),
        way,
        MOMENTS or 2,
    )


# --- the table ---


@dataclass(frozen=True)
class Fault:
    """What is wrong, and what the user reads: one line with all that ``says`` has, or nothing."""

    name: str
    says: tuple[str, ...] = ()
    status: int = 1
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    script: str = PLAIN
    version: str = "2.11.2"
    trouble: str = ""
    ecr: ecr_stand_in.Fault | None = None
    around: Strange = lambda _: contextlib.nullcontext()
    mounts: bool = False
    out: str | None = None  # what stdout has

    def strike(self, scene: Scene) -> None:
        if self.mounts and NO_MOUNTS:
            pytest.skip("needs root, or user namespaces, for a mount of its own")
        if "faketime" in self.script and NO_FAKETIME:
            pytest.skip("no faketime here: apt-get install faketime")
        if self.ecr:
            scene.ecr.faults["us-east-1"] = replace(self.ecr)
        with self.around(scene):
            ran = scene(
                *self.options, script=self.script, mounts=self.mounts, **self.env
            )
        scene.ecr.faults.clear()
        assert ran.status == self.status, ran.stderr
        usage = "Usage: " in ran.stderr  # then it is the fourth line
        assert ran.stderr.count("\n") == (4 if usage else bool(self.says)), ran.stderr
        for piece in self.says:
            assert piece in ran.stderr
        assert self.out is None or self.out in ran.stdout
        scene.assert_no_token()
        if self.status:
            scene.assert_kept()
        else:
            scene.assert_newest()


def aws(code: str, message: str) -> ecr_stand_in.Fault:
    return ecr_stand_in.Fault(code=code, message=message)


@contextlib.contextmanager
def half_an_answer(scene: Scene) -> Iterator[None]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HalfAnswers) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url, scene.sync.env["AWS_ENDPOINT_URL_ECR"] = (
            scene.sync.env["AWS_ENDPOINT_URL_ECR"],
            url_of(server),
        )
        scene.ecr.tokens["half", "a token"] = [HalfAnswers.token]
        yield
        scene.sync.env["AWS_ENDPOINT_URL_ECR"] = url
        server.shutdown()


def url_of(server: socketserver.TCPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


# Into a pipe, the status of the command itself is lost.
KEEPING = '{ "$@"; echo $? >status; } | %s; exit "$(cat status)"'
FULL = "mount -t tmpfs -o size=4k none tmp; cat /dev/zero >tmp/full 2>/dev/null"
UMLAUT = ("--conn-extra", '{"team": "Müller"}')
LATER = "the next run tries again"

FAULTS = [
    Fault("ECR is slow", status=0, ecr=ecr_stand_in.Fault(delay=1)),
    Fault(
        "ECR drops", ("Connection was closed", LATER), ecr=ecr_stand_in.Fault(drop=True)
    ),
    Fault("ECR hangs up in the middle", ("no answer of ECR's",), around=half_an_answer),
    Fault(
        "ECR's answer is half a document",
        ("no answer of ECR's",),
        ecr=ecr_stand_in.Fault(status=200, body=b'{"authorizationData": ['),
    ),
    Fault(
        "ECR's token has expired",
        ("valid until 2001-09-09 01:46 UTC only; is this host's clock right?",),
        0,
        ecr=ecr_stand_in.Fault(change={"expiresAt": 1_000_000_000}),
    ),
    Fault(
        "credentials have expired",
        ("renew the AWS credentials",),
        ecr=aws(
            "ExpiredTokenException",
            "The security token included in the request is expired",
        ),
    ),
    Fault(
        "the clock is wrong, says AWS",
        ("Signature expired: ", "this host's clock"),
        ecr=aws(
            "InvalidSignatureException",
            "Signature expired: 20261123T0100Z is now earlier than 20261123T0855Z",
        ),
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
        options=("--renew-before", "6h"),
        script='exec faketime -f -1d "$@"',
    ),
    Fault(
        "Airflow hangs",
        ("killed after 1 s",),
        options=("--timeout", "1"),
        trouble="hang",
    ),
    Fault("Airflow crashes", ("it said nothing (exit status -11)",), trouble="crash"),
    Fault(
        "Airflow says nothing",
        ("exit status 0): it said nothing",),
        trouble="say nothing",
    ),
    Fault("Airflow prints a megabyte", status=0, trouble="megabyte"),
    Fault(
        "Airflow shows the token", ("RuntimeError: cannot parse ***",), trouble="echo"
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
        script='for d in /tmp /var/tmp /usr/tmp . tmp; do [ ! -d $d ] || { mount --bind $d $d; mount -o remount,bind,ro $d; }; done; exec "$@"',
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
        "no /proc for import",
        status=0,
        script='mount -t tmpfs none /proc; exec "$@"',
        mounts=True,
    ),
    Fault("locale C", status=0, options=UMLAUT, env={"LC_ALL": "C"}),
    Fault(
        "locale POSIX, no UTF-8 mode",
        status=0,
        env={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
    Fault(
        "ASCII only",
        status=0,
        options=UMLAUT,
        env={"PYTHONIOENCODING": "ascii:strict", "AIRFLOW_HOME": "/tmp/\udcff"},
    ),
    Fault(
        "AIRFLOW_HOME is no UTF-8",
        status=0,
        env={"AIRFLOW_HOME": "/tmp/\udcff"},
        out="AIRFLOW_HOME /tmp/?, import",
    ),
    Fault(
        "HOME is no UTF-8",
        status=0,
        options=("--renew-before", "6h", "--json"),
        env={"HOME": "home-\udcff"},
    ),
    Fault(
        "an extra is no UTF-8",
        ("extra is not JSON",),
        2,
        options=("--conn-extra", '{"team": "M\udcfcller"}'),
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
        options=("--renew-before", "6h"),
        env={"HOME": "", "STATE_DIRECTORY": "state"},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault(on_fake: Callable[..., Scene], fault: Fault) -> None:
    scene = on_fake(fault.version, fault.trouble)
    fault.strike(scene)
    scene.sync.env["FAKE_AIRFLOW_TROUBLE"] = ""
    scene.assert_heals()


def test_few_file_descriptors(on_fake: Callable[..., Scene]) -> None:
    scene, statuses = on_fake("2.11.2"), []
    for limit in (5, 8, 9, 12, 20):
        ran = scene(script=f'ulimit -n {limit}; exec "$@"')
        assert ran.stderr.count("\n") == ran.status, ran.stderr
        scene.assert_kept()
        scene.assert_no_token()
        statuses.append(ran.status)
    assert (statuses[0], statuses[-1]) == (1, 0)
    scene.assert_heals()


def test_an_upgrade_between_two_runs(on_fake: Callable[..., Scene]) -> None:
    for version, method in (
        ("2.5.3", "delete-add"),
        ("2.11.2", "import"),
        ("3.3.2", "import"),
    ):
        scene = on_fake(version)
        written = scene("--renew-before", "6h", "--force").stdout
        assert written.startswith(f"Airflow {version}, ")
        assert f", {method}\n" in written
        scene.assert_newest()
        assert "  fresh  " in scene("--renew-before", "6h").stdout
        shutil.rmtree(scene.sync.env["PYTHONPATH"])  # which tells the version


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become a user whom nobody knows"
)
def test_a_user_without_name_and_home(on_fake: Callable[..., Scene]) -> None:
    become = "setpriv --reuid=54321 --regid=54321 --clear-groups"
    runs = "import boto3, subprocess, sys; subprocess.check_call([sys.executable, '-c', ''])"
    if subprocess.run(
        [*become.split(), sys.executable, "-c", runs], capture_output=True
    ).returncode:
        pytest.skip(f"other users cannot run {sys.executable}")
    scene = on_fake("2.11.2")
    for path in (scene.folder, *scene.folder.rglob("*")):
        path.chmod(0o777)
    for path in scene.folder.parents:
        if path.owner() == "root" and str(path).startswith("/tmp/"):
            path.chmod(0o755)
    ran = scene("--renew-before", "6h", script=f'exec {become} "$@"', HOME="")
    assert (ran.status, ran.stderr.count("\n")) == (0, 1)
    assert "HOME is not set" in ran.stderr
    assert not (scene.folder / "~").exists()
    scene.assert_newest()


# --- databases ---

ASIDE = "mkdir aside; mount --bind airflow aside; mount -t tmpfs -o size=64m none airflow; cp -a aside/. airflow"
FILLED = "cat /dev/zero >airflow/full 2>/dev/null"
READ_ONLY = 'mount --bind airflow airflow; mount -o remount,bind,ro airflow; exec "$@"'
BACK = "status=$?; rm -f airflow/full; cp -a airflow/. aside; exit $status"


@contextlib.contextmanager
def locked(scene: Scene) -> Iterator[None]:
    with contextlib.closing(connect(scene.sync.env[DATABASE])) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


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
def test_a_database_in_a_file(on_real: Callable[[str], Scene], fault: Fault) -> None:
    scene = on_real(fault.version)
    fault.strike(scene)
    scene.assert_heals()


@pytest.mark.airflow
def test_a_database_server(
    request: pytest.FixtureRequest, sync: Command, ecr: EcrStandIn, tmp_path: Path
) -> None:
    _, url = request.getfixturevalue("on_postgres")("2.11.2")
    scene = Scene(sync, ecr, tmp_path, in_database(url))
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
            database.cursor().execute(
                "BEGIN; LOCK TABLE connection IN ACCESS EXCLUSIVE MODE"
            )
            yield

    down = f"postgresql://airflow@127.0.0.1:{free_port()}/{name}"
    full = url.replace("airflow@", "full@")
    read_only = f"ALTER DATABASE {name} SET default_transaction_read_only"
    for fault in (
        Fault("down", ("Connection refused",), env=at(down)),
        Fault(
            "out of connections",
            ('FATAL:  too many connections for role "full"',),
            env=at(full),
            around=lambda _: altered(
                "CREATE ROLE full LOGIN CONNECTION LIMIT 0", "DROP ROLE full"
            ),
        ),
        Fault(
            "read-only",
            ("cannot execute UPDATE in a read-only transaction",),
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
        scene.assert_heals()
