"""What the tests of faults share: a run to strike, and a look at what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, ContextManager, Mapping, Tuple

import pytest

from tests.support.command import Command, Ran
from tests.support.database import execute, insert_connection, read_connection
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn
from tests.support.watcher import Watcher, require_proc

BEFORE = "the password that was there before"
PLAIN = 'exec "$@"'
# Mounts that only the run sees. A user who is not root needs a user namespace for them.
UNSHARE = ["unshare", "-m", "--propagation", "private"]
if os.getuid() != 0:
    UNSHARE = ["unshare", "-Urm"]
MOMENTS = int(os.environ.get("FAULT_MOMENTS", "0"))
SEED = int(os.environ.get("FAULT_SEED", str(time.time_ns() % 1_000_000)))

Held = Callable[[], "str | None"]
Way = Tuple[signal.Signals, str]
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
WAYS: list[Way] = [
    (KILL, "alone"),
    (KILL, "all"),
    (TERM, "alone"),
    (TERM, "all"),
    (INT, "alone"),
]
# It may be done already.
ENDS = {KILL: (0, -KILL), TERM: (0, -TERM, 128 + TERM), INT: (0, -INT, 1)}


@dataclass
class Scene:
    """A run of the command to strike. ``held`` tells docker_default's password.

    ``store`` is a fake Airflow's, where a token belongs, and beside it as it is saved.
    ``in_flight`` is how many writes a server may still do for a client that is gone,
    even after the next one's.
    """

    command: Command
    ecr: EcrStandIn
    folder: Path
    held: Held
    store: Path | None = None
    in_flight: int = 0
    mark: str = ""

    def start(
        self, *options: str, script: str = PLAIN, mounts: bool = False, **env: str
    ) -> subprocess.Popen[str]:
        """The command within a script of the shell, all its processes marked."""
        require_proc()
        self.mark = uuid.uuid4().hex
        prefix = UNSHARE if mounts else []
        command = self.command.arguments("-r", "us-east-1", *options)
        return self.command.launch(
            [*prefix, "sh", "-c", script, "sh", *command],
            {**self.command.env, "MARK": self.mark, **env},
            self.folder,
        )

    def end(self, process: subprocess.Popen[str]) -> Ran:
        """What the user sees. Then all that the run has started has ended."""
        ran = self.command.end(process)
        deadline = time.monotonic() + 60
        while processes(self.mark):
            assert time.monotonic() < deadline, "a process outlives the run"
            time.sleep(0.01)
        return ran

    def __call__(
        self, *options: str, script: str = PLAIN, mounts: bool = False, **env: str
    ) -> Ran:
        return self.end(self.start(*options, script=script, mounts=mounts, **env))

    def strike_all(self, number: signal.Signals) -> None:
        """Send a signal to every process of the run, as systemd does."""
        for pid in processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == KILL and processes(self.mark):  # one that was started meanwhile
            self.strike_all(number)

    def assert_kept(self) -> None:
        there = self.held() in {BEFORE, *self.command.secrets()}
        assert there, "the connection is lost"

    def assert_newest(self) -> None:
        newest = self.ecr.tokens["us-east-1", ACCOUNT][-1 - self.in_flight :]
        is_newest = self.held() in newest
        assert is_newest, "not the newest token"

    def assert_no_token(self) -> None:
        """None in a file or an argument.

        After kill -9 of all, a pipe without an end may be left.
        """
        watcher = Watcher(self.command.secrets, self.folder, Path("/dev/shm"))
        watcher.look()
        seen = [at for at in watcher.seen if not at.startswith(str(self.store))]
        assert seen == []
        left = self.folder.glob("**/ecr-airflow-sync-*/**/*")
        assert [path for path in left if path.is_file() and not path.is_symlink()] == []

    def assert_heals(self) -> None:
        ran = self()
        assert (ran.status, ran.stderr) == (0, "")
        self.assert_newest()


def processes(mark: str) -> list[int]:
    """Those that have the mark in their environment, in whatever session."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if mark.encode() in Path(entry.path, "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def in_store(store: Path) -> Held:
    """A connection that a fake Airflow holds from the start."""
    store.write_text(json.dumps({"docker_default": {"password": BEFORE}}))

    def held() -> str | None:
        fields: dict[str, str] = json.loads(store.read_text()).get("docker_default", {})
        return fields.get("password") or fields.get("conn_password")

    return held


def in_database(url: str) -> Held:
    """A connection that a metadata database holds from the start."""
    execute(url, "DELETE FROM connection WHERE conn_id = 'docker_default'")
    insert_connection(url, "docker_default", BEFORE, conn_type="docker")

    def held() -> str | None:
        row = read_connection(url, "docker_default")
        return row["password"] if row else None

    return held


def strike(scene: Scene, way: Way, moments: int) -> None:
    """Strike so many runs, each at another moment of its time, and look after each."""
    number, whom = way
    chance = random.Random(SEED)  # noqa: S311 - no secret
    began = time.monotonic()
    scene.assert_heals()
    length = time.monotonic() - began
    print(f"{moments} moments in {length:.2f} s, FAULT_SEED={SEED}")
    for moment in range(moments):
        process = scene.start()
        time.sleep((moment + chance.random()) / moments * length)
        alone = whom == "alone" or (whom == "by turns" and moment % 2 == 0)
        if alone:
            process.send_signal(number)
        else:
            scene.strike_all(number)
        ran = scene.end(process)
        if not python_was_starting(ran):
            assert ran.status in ENDS[number], ran.stderr
            assert ran.stderr.strip() in ("", "Aborted!")
        scene.assert_no_token()
        temporary = scene.folder / "tmp"
        if alone:  # else nobody is left who could tidy up
            assert list(temporary.glob("ecr-airflow-sync-*")) == []
        shutil.rmtree(temporary)  # tempfile tries a folder out with a file
        temporary.mkdir()
        scene.assert_kept()
        scene.assert_heals()


def python_was_starting(ran: Ran) -> bool:
    """Whether a signal came before the command's own code: what is said is Python's."""
    words = (
        r"Fatal Python error: init_|[\s\S]*\nKeyboardInterrupt\n$|KeyboardInterrupt\n$"
    )
    return bool(re.match(words, ran.stderr))


Strange = Callable[[Scene], ContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """What is wrong. The user reads one line with all that it ``says``, or nothing."""

    name: str
    says: tuple[str, ...] = ()
    status: int = 1
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    script: str = PLAIN
    version: str = "2.11.2"
    around: Strange = lambda _: contextlib.nullcontext()
    mounts: bool = False

    def strike(self, scene: Scene) -> None:
        if self.mounts:
            require_mounts()
        with self.around(scene):
            ran = scene(
                *self.options, script=self.script, mounts=self.mounts, **self.env
            )
        assert ran.status == self.status, ran.stderr
        assert ran.stderr.count("\n") == bool(self.says), ran.stderr
        for piece in self.says:
            assert piece in ran.stderr, ran.stderr
        scene.assert_no_token()
        if self.status:
            scene.assert_kept()
        else:
            scene.assert_newest()


def require_mounts() -> None:
    """Skip the test where nobody may mount anything for himself."""
    tried = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    can_unshare = shutil.which("unshare")
    if not can_unshare or subprocess.run(tried, capture_output=True).returncode:
        pytest.skip("needs root, or user namespaces, for a mount of its own")
