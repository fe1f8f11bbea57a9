"""The DAGs of examples/dags, in real Airflows: they load, and what needs no Docker runs.

With Docker and a registry, tests/host/test_e2e.py runs all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import pytest
import uv

from tests.support import airflows
from tests.support.api_server import ApiServer
from tests.support.command import MODULE, PACKAGE, ROOT, Command, RealAirflow
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn

DAGS = ROOT / "examples/dags"
VERSIONS = ["1.10.15", "2.5.3", "2.11.2", "3.3.2"]
TASKS = {
    "docker_from_ecr": ["clean_up", "scrape"],
    "refresh_ecr_connection": ["refresh"],
    "refresh_then_scrape": ["refresh", "scrape"],
    "sync_then_run": ["scrape"],
}
LOAD = """
import json, sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:
    from airflow.models import DagBag
bag = DagBag(sys.argv[1])
tasks = {name: sorted(dag.task_ids) for name, dag in bag.dags.items()}
print("\\n::" + json.dumps([bag.import_errors, tasks]))
"""
# Says what it was asked and, as the real one, asks whoever does not say --force.
FAKE_DOCKER = """#!/bin/sh
echo "asked: docker $*"
case "$*" in *--force*) ;; *) read -r answer ;; esac
"""
PRUNES = (
    "asked: docker container prune --force --filter until=24h",
    "asked: docker image prune --all --force --filter until=24h",
)


@dataclass(frozen=True)
class Worker:
    """A real Airflow with the examples, and the command on its PATH."""

    airflow: RealAirflow
    env: dict[str, str] = field(repr=False)

    def python(self, code: str, *arguments: str) -> str:
        """What Airflow's own interpreter prints."""
        python = Path(self.airflow.script).with_name("python")
        return self._run(str(python), "-c", code, *arguments)

    def learn(self) -> None:
        """Airflow 3 runs a task of what its database knows of the DAGs."""
        if self.airflow.version.startswith("3."):
            self._run(self.airflow.script, "dags", "reserialize")

    def task(self, dag: str, task: str) -> tuple[bool, str]:
        """Whether a task succeeds, and its log."""
        log = self._run(self.airflow.script, "tasks", "test", dag, task, "2026-01-02")
        return any(
            end in log for end in ("new_state=success", "Marking task as SUCCESS")
        ), log

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        return done.stdout


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
            install = [
                "pip",
                "install",
                "--quiet",
                "--python",
                python,
                "--target",
                str(target),
            ]
            subprocess.run([uv.find_uv_bin(), *install, *wanted], check=True)
            for source in (MODULE, PACKAGE):
                (target / source.name).symlink_to(source)
        return target

    return install


@pytest.fixture
def place(
    command: Command,
    real: Callable[[str], RealAirflow],
    packages: Callable[[str], Path],
    tmp_path: Path,
) -> Callable[[str], Worker]:
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
        worker = Worker(airflow, env)
        worker.learn()
        return worker

    return make


@pytest.mark.parametrize("version", VERSIONS)
def test_load(place: Callable[[str], Worker], version: str) -> None:
    printed = place(version).python(LOAD, str(DAGS))
    found: list[dict[str, Any]] = json.loads(
        printed.rpartition("\n::")[2].splitlines()[0]
    )
    assert found == [{}, TASKS]


@pytest.mark.parametrize("version", VERSIONS)
def test_clean_up_is_not_asked(place: Callable[[str], Worker], version: str) -> None:
    succeeded, log = place(version).task("docker_from_ecr", "clean_up")
    assert succeeded, log[-4000:]
    assert [prune for prune in PRUNES if prune in log] == list(PRUNES)


@pytest.mark.parametrize("version", ["1.10.15", "2.11.2"])
def test_refresh(place: Callable[[str], Worker], ecr: EcrStandIn, version: str) -> None:
    worker = place(version)
    assert_refreshes(worker, ecr, worker.airflow.connection)


def assert_refreshes(
    worker: Worker, ecr: EcrStandIn, connection: Callable[[str], dict[str, Any] | None]
) -> None:
    """Ahead of a container when that is needed; by schedule always."""
    for dag, calls in (
        ("refresh_then_scrape", 1),
        ("refresh_then_scrape", 1),  # which has twelve hours to live
        ("refresh_ecr_connection", 2),
    ):
        succeeded, log = worker.task(dag, "refresh")
        assert succeeded, log[-4000:]
        held = connection("docker_default") or {}
        tokens = ecr.tokens["us-east-1", ACCOUNT]
        assert held.pop("password") == tokens[-1] or pytest.fail("another token")
        assert len(tokens) == calls
        assert not any(token[200:260] in log for token in tokens), "a token was printed"


def test_refresh_through_the_api(
    place: Callable[[str], Worker],
    ecr: EcrStandIn,
    api_server: ApiServer,
    tmp_path: Path,
) -> None:
    worker = place("3.3.2")
    client = api_server.client(tmp_path / "airflow")
    worker.env.update(client)
    assert_refreshes(worker, ecr, api_server.connection)


def test_sync_then_run(place: Callable[[str], Worker], ecr: EcrStandIn) -> None:
    """Without Docker, it comes as far as that: the connection is there."""
    worker = place("2.11.2")
    succeeded, log = worker.task("sync_then_run", "scrape")
    assert not succeeded
    assert "Failed to establish connection to any given Docker" in log
    held = worker.airflow.connection("docker_default") or {}
    assert held.pop("password") == ecr.tokens["us-east-1", ACCOUNT][-1] or pytest.fail(
        "another"
    )
