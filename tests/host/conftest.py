"""The worker that the tests share: booted once, with an ECR of its own for each test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from tests.support import airflows
from tests.support.booted_systemd import Machine, Unavailable, boot
from tests.support.ecr_stand_in import EcrStandIn
from tests.support.worker import AIRFLOW, SYNC, UID, Worker, installed, set_up


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Path]]:
    """The machine without an ECR, and its AIRFLOW_HOME on the host."""
    folder = tmp_path_factory.mktemp("worker")
    try:
        airflow = airflows.environment(AIRFLOW)
        mounts = installed(airflow.resolve(), folder)
        airflows.home(AIRFLOW, folder / "home")
        (
            folder / "home/airflow.cfg"
        ).unlink()  # it names the folder; Airflow writes a new one
        for path in (folder / "home", *(folder / "home").rglob("*")):
            os.chown(path, UID, UID)
        (folder / "empty").mkdir()
        with boot(
            folder / "empty", {**mounts, "/srv/airflow": [folder / "home"]}
        ) as machine:
            set_up(machine)
            yield machine, folder / "home"
    except (Unavailable, airflows.Unavailable) as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture
def worker(booted: tuple[Machine, Path], ecr: EcrStandIn) -> Iterator[Worker]:
    """A worker that asks this test's ECR. Whatever the test does, no token may stay."""
    machine, home = booted
    worker = Worker(machine, home, ecr)
    worker.configure()
    yield worker
    machine.run("systemctl", "stop", f"{SYNC}.timer", f"{SYNC}.service")
    machine.run("sh", "-c", "rm -rf /run/systemd/system/*.d; systemctl daemon-reload")
    machine.attempt("systemctl", "reset-failed")
    assert worker.processes() == []
    assert worker.traces() == []
