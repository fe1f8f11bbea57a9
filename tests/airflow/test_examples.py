"""The DAGs of examples/dags, in real Airflows: they load, and what needs no Docker runs.

With Docker and a registry, tests/host/test_e2e.py runs all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import pytest
import uv

from tests.support import airflows
from tests.support.command import MODULE, PACKAGE, ROOT, Command
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn
from tests.support.real_airflow import Real, RealAirflow

DAGS = ROOT / "examples/dags"
TASKS = {
    "docker_from_ecr": ["clean_up", "scrape"],
    "refresh_ecr_connection": ["refresh"],
    "refresh_then_scrape": ["refresh", "scrape"],
    "sync_then_run": ["scrape"],
}
# Says what it was asked and, as the real one, asks whoever does not say --force.
FAKE_DOCKER = """#!/bin/sh
echo "asked: docker $*"
case "$*" in *--force*) ;; *) read -r answer ;; esac
"""
PRUNES = (
    "asked: docker container prune --force --filter until=24h",
    "asked: docker image prune --all --force --filter until=24h",
)
PROGRAM = Path(__file__).with_name("run_examples.py")


@dataclass(frozen=True)
class Worker:
    """A real Airflow with the examples, and the command on its PATH."""

    airflow: RealAirflow
    env: dict[str, str] = field(repr=False)

    def try_out(self, *tasks: str) -> list[str]:
        """The log of each; before them, what was found in the DAGs."""
        python = Path(self.airflow.script).with_name("python")
        done = subprocess.run(
            [str(python), str(PROGRAM), self.airflow.script, str(DAGS), *tasks],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
        return done.stdout.split("\n=== end ===\n")[:-1]


Place = Callable[[str], Worker]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Installs beside an Airflow, once, what its workers have for these examples."""
    folder = tmp_path_factory.mktemp("packages")

    def install(version: str) -> Path:
        target = folder / version
        if not target.exists():
            python = str(airflows.environment(version))
            # DockerOperator is part of Airflow 1.10, its library is not.
            wanted = ("boto3", "click>=8", *["docker<5"] * version.startswith("1."))
            where = ("--python", python, "--target", str(target))
            install = [uv.find_uv_bin(), "pip", "install", "--quiet", *where, *wanted]
            subprocess.run(install, check=True)
            for source in (MODULE, PACKAGE):
                (target / source.name).symlink_to(source)
        return target

    return install


@pytest.fixture
def place(
    command: Command, real: Real, packages: Callable[[str], Path], tmp_path: Path
) -> Place:
    """Makes a worker with that Airflow."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("ecr-airflow-sync", f'#!/bin/sh\nexec "{sys.executable}" "{MODULE}" "$@"\n'),
        ("docker", FAKE_DOCKER),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def make(version: str) -> Worker:
        airflow = real(version)
        bins = [folder, Path(airflow.script).parent]
        if version.startswith("3."):
            bins.append(airflows.environment(airflows.AIRFLOWCTL) / "bin")
        env = {
            **command.env,
            "PATH": ":".join([*map(str, bins), command.env["PATH"]]),
            "PYTHONPATH": str(packages(version)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "DOCKER_HOST": f"unix://{tmp_path}/no-docker.sock",
        }
        return Worker(airflow, env)

    return make


def assert_succeeded(log: str) -> None:
    known = "new_state=success" in log or "Marking task as SUCCESS" in log
    assert known, log[-4000:]


@pytest.mark.parametrize(
    "version",
    [
        "1.10.15",
        *["2.5.3"] * airflows.NIGHTLY,  # which is as 2.11.2
        "2.11.2",
        pytest.param("3.3.2", id="3.3.2 by airflowctl"),
    ],
)
def test_clean_up_and_refresh(
    request: pytest.FixtureRequest,
    place: Place,
    ecr: EcrStandIn,
    tmp_path: Path,
    version: str,
) -> None:
    """All load. Clean-up is not asked. A refresh ahead of a container is when it is needed."""
    worker = place(version)
    read = worker.airflow.connection
    if version.startswith("3."):
        api_server = request.getfixturevalue("api_server")
        worker.env.update(api_server.client(tmp_path / "airflow"))
        read = api_server.connection
    found, cleaned, first, second, by_schedule = worker.try_out(
        "docker_from_ecr clean_up",
        "refresh_then_scrape refresh",
        "refresh_then_scrape refresh",
        "refresh_ecr_connection refresh",
    )
    assert json.loads(found.splitlines()[-1]) == [{}, TASKS]
    assert_succeeded(cleaned)
    assert [prune for prune in PRUNES if prune in cleaned] == list(PRUNES)
    tokens = ecr.tokens["us-east-1", ACCOUNT]
    for log, status in (
        (first, "written"),
        (second, "fresh"),  # it has twelve hours to live
        (by_schedule, "written"),
    ):
        assert_succeeded(log)
        assert f"docker_default  {status} " in log
        assert not any(token[200:260] in log for token in tokens), "a token was printed"
    held = read("docker_default") or {}
    newest = held["password"] == tokens[-1]
    assert newest, "another token"
    assert len(tokens) == 2


def test_sync_then_run(place: Place, ecr: EcrStandIn) -> None:
    """Without Docker, it comes as far as that: the connection is there."""
    worker = place("2.11.2")
    _, log = worker.try_out("sync_then_run scrape")
    assert "Failed to establish connection to any given Docker" in log
    held = worker.airflow.connection("docker_default") or {}
    newest = held["password"] == ecr.tokens["us-east-1", ACCOUNT][-1]
    assert newest, "another token"
