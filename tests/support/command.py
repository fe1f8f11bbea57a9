"""The real command, run as a process, and the Airflow that it meets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.support.ecr_stand_in import ACCOUNT

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "ecr_airflow_sync.py"
PACKAGE = ROOT / "_ecr_airflow_sync"
FAKE = Path(__file__).with_name("fake_airflow.py")
# As the console script has it: the module's own file would be compiled anew in each run.
INSTALLED = (
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ecr_airflow_sync import main; main()",
)
# The registry whose token the stand-in gives, if no other is asked for.
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
A, B = "111111111111", "222222222222"  # other accounts' registries
ROUNDS = int(os.environ.get("ROUNDS", "3"))  # of what the figures are medians of


needs_proc = pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="this system has no /proc"
)


def has_traceback(stderr: str) -> bool:
    """One of ours. Ctrl-C before the command's own code runs has Python's.

    With -v, Airflow's own may be shown, which begin with in_airflow.py.
    """
    ours = re.search(r'File ".*ecr_airflow_sync(?!/in_airflow)\S*\.py", line', stderr)
    return bool(ours) and not stderr.endswith("\nKeyboardInterrupt\n")


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclass(frozen=True)
class Ran:
    """What a run of the command left behind."""

    status: int
    stdout: str
    stderr: str


@dataclass
class Command:
    """The real command in an environment as bare as cron's. No token may ever be printed."""

    env: dict[str, str]
    secrets: Callable[[], list[str]]
    options: list[str] = field(default_factory=list)
    program: tuple[str, ...] = (str(MODULE),)

    def arguments(self, *options: str) -> list[str]:
        return [sys.executable, *self.program, *self.options, *options]

    def start(self, *options: str, **more: str) -> subprocess.Popen[str]:
        return self.launch(self.arguments(*options), {**self.env, **more})

    def launch(
        self, arguments: list[str], env: dict[str, str], cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            arguments,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def end(self, process: subprocess.Popen[str]) -> Ran:
        try:
            stdout, stderr = process.communicate(timeout=250)
        finally:
            process.kill()  # if it hangs
        for secret in self.secrets():
            # Not in an assert of its own: pytest would print the token.
            leaked = secret in stdout + stderr or secret[200:260] in stdout + stderr
            assert not leaked, "a token was printed"
        assert not has_traceback(stderr), stderr
        return Ran(process.returncode, stdout, stderr)

    def __call__(self, *options: str, **more: str) -> Ran:
        return self.end(self.start(*options, **more))


@dataclass
class FakeAirflow:
    """A strict executable at the boundary, of any version."""

    script: Path
    store: Path

    def connections(self) -> dict[str, dict[str, str]]:
        return json.loads(self.store.read_text()) if self.store.exists() else {}

    def hold(self, **connections: dict[str, Any]) -> None:
        """Have these connections too, by their ids."""
        self.store.write_text(json.dumps({**self.connections(), **connections}))

    @property
    def log(self) -> list[tuple[int, str]]:
        """The process and the action of each command so far."""
        file = Path(f"{self.store}.starts")
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(pid), action) for pid, action in map(str.split, lines)]

    def count_starts(self) -> int:
        """How many processes ran commands since this was asked last."""
        started = {pid for pid, _ in self.log}
        Path(f"{self.store}.starts").unlink(missing_ok=True)
        return len(started)


# Puts a fake Airflow of some version, with some trouble, in place.
Place = Callable[..., FakeAirflow]
