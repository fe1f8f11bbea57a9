"""What the tests in process share: an environment of their own, and an ECR to ask."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import botocore.compat
import botocore.loaders
import pytest

from _ecr_airflow_sync.interpreter import Interpreter
from _ecr_airflow_sync.model import Target, Token
from tests.support.command import wait_for
from tests.support.ecr_stand_in import EcrStandIn, environment

A, B = "111111111111", "222222222222"  # registries
HOST = f"{A}.dkr.ecr.us-east-1.amazonaws.com"
UNTIL = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
TRY_AGAIN = "the next run tries again"
NETWORK = "check the region, and this host's DNS, proxy and network"
NOT_ECR = "that is no answer of ECR's; check AWS_ENDPOINT_URL, and the proxy"

WriteScript = Callable[..., str]


def token_for(target: Target) -> Token:
    """What ECR might grant."""
    return Token(
        target=target,
        registry=A,
        region="us-east-1",
        registry_host=HOST,
        login="AWS",
        password="s3cret",
        expires_at=UNTIL,
    )


def catch(kind: type[Exception], call: Callable[..., object], *arguments: Any) -> str:
    """What is told where the call fails, which it must."""
    with pytest.raises(kind) as caught:
        call(*arguments)
    return str(caught.value)


def describe(interpreter: Interpreter) -> dict[str, Any]:
    """What is asked first in a run. What a prefix printed may come before it."""
    last_line = interpreter.execute("describe_airflow.py").output.splitlines()[-1]
    facts: dict[str, Any] = json.loads(last_line)
    return facts


def read_pids(file: Path) -> list[int]:
    """What is in a line of the file, or will soon be."""
    wait_for(lambda: file.exists() and file.read_text().endswith("\n"))
    return [int(pid) for pid in file.read_text().split()]


def wait_for_end(pids: Sequence[int]) -> None:
    wait_for(lambda: not any(_is_alive(pid) for pid in pids))


def _is_alive(pid: int) -> bool:
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE, text=True
    )
    return listed.stdout.strip()[:1] not in ("", "Z")


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this host's AWS, Airflow and home."""
    for name in os.environ:
        if name.startswith(("AWS_", "AIRFLOW", "ECR_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for what Airflow's Python puts into a temporary one."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _botocore_reads_once() -> Iterator[None]:
    """Its models and handlers, for all sessions: else that takes most of a test's time."""
    once = functools.lru_cache(maxsize=None)
    with pytest.MonkeyPatch.context() as patch:
        create_loader = once(botocore.loaders.create_loader)
        patch.setattr("botocore.session.create_loader", create_loader)
        accepts_kwargs = once(botocore.compat.accepts_kwargs)
        patch.setattr("botocore.hooks.accepts_kwargs", accepts_kwargs, raising=False)
        yield


@pytest.fixture
def aws(
    ecr: EcrStandIn, own_environment: None, monkeypatch: pytest.MonkeyPatch
) -> EcrStandIn:
    """The stand-in, as the environment's own AWS."""
    for name, value in environment(ecr.url).items():
        monkeypatch.setenv(name, value)
    return ecr


@pytest.fixture
def write_script(tmp_path: Path) -> WriteScript:
    """Puts a Python script in place, and returns its path."""

    def write(code: str, name: str = "airflow") -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
        return str(path)

    return write
