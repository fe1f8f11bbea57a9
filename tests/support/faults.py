"""What the tests of faults share: a run to strike, and a look at what it leaves behind."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socketserver
import subprocess
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, ContextManager, Mapping, Tuple

import pytest
from cryptography.fernet import Fernet

from tests.support.airflows import FERNET_KEY
from tests.support.command import Command, Ran
from tests.support.database import connect, execute
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, new_token
from tests.support.ecr_stand_in import Fault as EcrFault
from tests.support.watcher import Watcher, require_proc

BEFORE = "the password that was there before"
# Mounts that only the run sees. A user who is not root needs a user namespace for them.
UNSHARE = (
    ["unshare", "-m", "--propagation", "private"]
    if os.getuid() == 0
    else ["unshare", "-Urm"]
)
PLAIN = 'exec "$@"'
Held = Callable[[], "str | None"]
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
MOMENTS = int(os.environ.get("FAULT_MOMENTS", "0"))
SEED = int(os.environ.get("FAULT_SEED", str(time.time_ns() % 1_000_000)))
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
NO_MOUNTS = (
    not shutil.which("unshare")
    or subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
    ).returncode
)
NO_FAKETIME = not shutil.which("faketime")


@dataclass
class Scene:
    """A run of the command to strike. ``held`` tells docker_default's password."""

    command: Command
    ecr: EcrStandIn
    folder: Path
    held: Held
    store: Path | None = (
        None  # of a fake Airflow, where a token belongs, and beside it while it is saved
    )
    mark: str = ""
    in_flight: int = 0  # what a server may still do for a client that is gone, even after the next one's

    def start(
        self, *options: str, script: str = PLAIN, mounts: bool = False, **env: str
    ) -> subprocess.Popen[str]:
        """The command within a script of the shell, all its processes marked. An empty variable is not set."""
        require_proc()
        self.mark = uuid.uuid4().hex
        command = self.command.arguments("-r", "us-east-1", *options)
        env = {
            name: value
            for name, value in {**self.command.env, "MARK": self.mark, **env}.items()
            if value
        }
        prefix = UNSHARE if mounts else ()
        return self.command.launch(
            [*prefix, "sh", "-c", script, "sh", *command], env, self.folder
        )

    def end(self, process: subprocess.Popen[str]) -> Ran:
        """What the user sees. When this returns, all that the run has started has ended."""
        ran = self.command.end(process)
        assert "Traceback" not in ran.stdout + ran.stderr or python_was_starting(ran), (
            ran.stderr
        )
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
        if number == signal.SIGKILL and processes(
            self.mark
        ):  # one that was started meanwhile
            self.strike_all(number)

    def assert_kept(self) -> None:
        there = self.held() in {BEFORE, *self.command.secrets()}
        assert there, "the connection is lost"

    def assert_newest(self) -> None:
        newest = (
            self.held() in self.ecr.tokens["us-east-1", ACCOUNT][-1 - self.in_flight :]
        )
        assert newest, "not the newest token"

    def assert_no_token(self) -> None:
        """None in a file or an argument. After kill -9 of all, a pipe without an end may be left."""
        watcher = Watcher(self.command.secrets, self.folder, Path("/dev/shm"))
        watcher.look()
        assert {
            place for place in watcher.seen if not place.startswith(str(self.store))
        } == set()
        left = self.folder.glob("**/ecr-airflow-sync-*/**/*")
        assert [path for path in left if path.is_file() and not path.is_symlink()] == []

    def assert_heals(self) -> Ran:
        ran = self()
        assert (ran.status, ran.stderr) == (0, "")
        self.assert_newest()
        return ran


def python_was_starting(ran: Ran) -> bool:
    """Whether a signal came before the command's own code: what is said is Python's."""
    words = (
        r"Fatal Python error: init_|[\s\S]*\nKeyboardInterrupt\n$|KeyboardInterrupt\n$"
    )
    return bool(re.match(words, ran.stderr))


def processes(mark: str) -> list[int]:
    """Those that have the mark in their environment, in whatever session."""
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if (
                entry.name.isdigit()
                and mark.encode() in Path(entry.path, "environ").read_bytes()
            ):
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
    fernet = Fernet(FERNET_KEY)
    values = f"'docker_default', 'docker', '{fernet.encrypt(BEFORE.encode()).decode()}', true, false"
    execute(url, "DELETE FROM connection WHERE conn_id = 'docker_default'")
    execute(
        url,
        f"INSERT INTO connection (conn_id, conn_type, password, is_encrypted, is_extra_encrypted) VALUES ({values})",
    )

    def held() -> str | None:
        with contextlib.closing(connect(url)) as database:
            cursor = database.cursor()
            cursor.execute(
                "SELECT password FROM connection WHERE conn_id = 'docker_default'"
            )
            rows = cursor.fetchall()
        assert len(rows) < 2, "two rows"
        return fernet.decrypt(rows[0][0].encode()).decode() if rows else None

    return held


class HalfAnswers(socketserver.StreamRequestHandler):
    """An ECR that hangs up in the middle of each token."""

    token = new_token(time.time() + 43200)

    def handle(self) -> None:
        self.connection.recv(65536)
        body = '{"authorizationData": [{"authorizationToken": "'
        body += base64.b64encode(f"AWS:{self.token}".encode()).decode()[:2000]
        self.wfile.write(
            f"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{body}".encode()
        )


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


Strange = Callable[[Scene], ContextManager[None]]


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
    ecr: EcrFault | None = None
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
            assert piece in ran.stderr, ran.stderr
        assert self.out is None or self.out in ran.stdout
        scene.assert_no_token()
        if self.status:
            scene.assert_kept()
        else:
            scene.assert_newest()
