"""What the tests share: an ECR to ask, and the real command to run."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Generator, Iterator

import pytest

from tests.support.command import FAKE, Command, FakeAirflow, Place
from tests.support.ecr_stand_in import EcrStandIn, environment, serving_here
from tests.support.registry_stand_in import RegistryStandIn

# What a script's & ignores, children would ignore too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Why a test may be skipped in CI, where else a skip is a failure.
SKIPS_IN_CI = ("this machine allows none anyway",)  # core dumps


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    _forbid_skip((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, None]:
    """Of a file that is skipped as a whole."""
    _forbid_skip((yield).get_result())


def _forbid_skip(report: Any) -> None:
    reason = str(report.longrepr)
    is_allowed = any(allowed in reason for allowed in SKIPS_IN_CI)
    if report.skipped and os.environ.get("CI") == "true" and not is_allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {reason}"


@pytest.fixture
def ecr() -> Iterator[EcrStandIn]:
    with serving_here(EcrStandIn()) as server:
        yield server


@pytest.fixture
def command(ecr: EcrStandIn, tmp_path: Path) -> Command:
    """The command, with credentials for the stand-in and no Airflow yet."""
    (tmp_path / "tmp").mkdir()
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        **environment(ecr.url),
    }
    env.update(
        {
            name: value
            for name, value in os.environ.items()
            if name.startswith("COVERAGE_")
        }
    )
    return Command(env, lambda: [t for tokens in ecr.tokens.values() for t in tokens])


@pytest.fixture
def registry(ecr: EcrStandIn, command: Command) -> Iterator[RegistryStandIn]:
    """The registries for which the stand-in gives tokens. The command comes there by proxy."""
    with serving_here(RegistryStandIn(ecr)) as server:
        command.env.update(server.environment())
        yield server


@pytest.fixture
def fake(command: Command, tmp_path: Path) -> Place:
    """Puts a fake airflow of some version in place, and points the command at it."""

    def place(version: str = "2.11.2", trouble: str = "") -> FakeAirflow:
        script = tmp_path / "venv/bin/airflow"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        script.chmod(0o755)
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        package = tmp_path / f"site/apache_airflow-{version}.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text(f"Name: apache-airflow\nVersion: {version}\n")
        store = tmp_path / "connections-store"
        command.env.update(
            PYTHONPATH=str(package.parent),
            FAKE_AIRFLOW_STORE=str(store),
            FAKE_AIRFLOW_VERSION=version,
            FAKE_AIRFLOW_TROUBLE=trouble,
        )
        command.options = ["--airflow", str(script)]
        return FakeAirflow(script, store)

    return place
