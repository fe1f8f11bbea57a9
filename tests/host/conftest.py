"""The worker that the tests share: booted once, with an ECR of its own for each test."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from tests.support.booted_systemd import Machine, boot
from tests.support.ecr_stand_in import EcrStandIn
from tests.support.worker import (
    AIRFLOW,
    HOME,
    SERVICE,
    TIMER,
    Worker,
    add_airflow,
    install_units,
    make_home,
    mount_all,
)


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Path]]:
    """The machine without an ECR, and its AIRFLOW_HOME on the host."""
    folder = tmp_path_factory.mktemp("worker")
    mounts = mount_all(AIRFLOW, folder)
    make_home(folder / "home", "[core]\nload_examples = False\n")
    with boot({**mounts, HOME: [folder / "home"]}) as machine:
        add_airflow(machine)
        install_units(machine)
        yield machine, folder / "home"


@pytest.fixture
def worker(booted: tuple[Machine, Path], ecr: EcrStandIn) -> Iterator[Worker]:
    """A worker that asks this test's ECR. Whatever the test does, no token may stay."""
    machine, home = booted
    worker = Worker(machine, home, ecr)
    worker.configure()
    yield worker
    machine.run("systemctl", "stop", TIMER, SERVICE)
    machine.sh("rm -rf /run/systemd/system/*.d; systemctl daemon-reload")
    machine.attempt("systemctl", "reset-failed")
    assert worker.processes() == []
    assert worker.traces() == []
