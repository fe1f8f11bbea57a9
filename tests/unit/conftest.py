"""What the tests in process share: an environment of their own, and an ECR to ask."""

from __future__ import annotations

import functools
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Iterator

import botocore.loaders
import pytest

from _ecr_airflow_sync.model import Target, Token
from tests.support.ecr_stand_in import EcrStandIn, environment

REGISTRY = "111111111111"
HOST = f"{REGISTRY}.dkr.ecr.us-east-1.amazonaws.com"
UNTIL = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def token_for(target: Target) -> Token:
    """What ECR might grant."""
    return Token(
        target=target,
        registry=REGISTRY,
        region="us-east-1",
        registry_host=HOST,
        login="AWS",
        password="s3cret",
        expires_at=UNTIL,
    )


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this host's AWS, Airflow and home."""
    for name in os.environ:
        if name.startswith(("AWS_", "AIRFLOW", "ECR_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="session")
def _botocore_reads_once() -> Iterator[None]:
    """Its models, for all sessions: else that takes most of a test's time."""
    create_loader = functools.lru_cache(maxsize=None)(botocore.loaders.create_loader)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", create_loader)
        yield


@pytest.fixture
def aws(
    _botocore_reads_once: None,
    ecr: EcrStandIn,
    own_environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> EcrStandIn:
    """The stand-in, as the environment's own AWS."""
    for name, value in environment(ecr.url).items():
        monkeypatch.setenv(name, value)
    return ecr


@pytest.fixture
def write_script(tmp_path: Path) -> Callable[..., str]:
    """Puts a Python script in place, and returns its path."""

    def write(code: str, name: str = "airflow") -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
        return str(path)

    return write
