"""The whole way, for real: ECR's token, Airflow's connection, Docker's pull, a container.

A real DockerOperator has a real Docker daemon pull from a real registry, which takes only
tokens that the ECR stand-in gave and that have not expired. The DAGs are examples/dags.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from tests.support.api_server import PASSWORD
from tests.support.command import HOST, ROOT, wait_for
from tests.support.docker_worker import CTL, SAYS, DockerWorker, docker_worker
from tests.support.worker import SERVICE, UID, add_airflow, install_units, own

HOUR = 3600
REFUSED = f"https://{HOST}/v2/ failed with status: 403"
PULLED = ("/v2/web_scraper/manifests/latest", 200)


@pytest.fixture(scope="module", params=["1.10.15", "2.11.2", "3.3.2"])
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerWorker]:
    """A worker with each Airflow. The host is to stay as it was."""
    before = of_the_host()
    with docker_worker(request.param, tmp_path_factory.mktemp("e2e")) as worker:
        yield worker
    assert of_the_host() == before


@pytest.fixture
def worker(prepared: DockerWorker) -> DockerWorker:
    prepared.forget()
    return prepared


def of_the_host() -> dict[str, tuple[int, int]]:
    """What must stay as it is: when it was changed, and its size."""
    paths = [Path(path) for path in ("/etc/hosts", "/run/docker.sock")]
    paths += [Path("/var/lib/docker")]
    for folder in (Path("/etc/docker"), Path("/root/.docker")):
        paths += [folder, *folder.rglob("*")]
    found = {}
    for path in paths:
        if path.exists():
            found[str(path)] = (path.stat().st_mtime_ns, path.stat().st_size)
    return found


def assert_scrapes(
    worker: DockerWorker, dag: str = "docker_from_ecr", **env: str
) -> None:
    """The image comes from the registry, and the container runs."""
    worker.registry.answers.clear()
    ended = worker.task(dag, "scrape", **env)
    assert ended.succeeded, ended.log[-4000:]
    assert SAYS in ended.log
    assert PULLED in worker.registry.answers


def assert_refused(worker: DockerWorker) -> None:
    worker.registry.answers.clear()
    ended = worker.task("docker_from_ecr", "scrape")
    assert not ended.succeeded
    assert REFUSED in ended.log, ended.log[-4000:]
    assert SAYS not in ended.log
    assert PULLED not in worker.registry.answers


def test_works_until_the_token_expires_and_again_after_a_sync(
    worker: DockerWorker,
) -> None:
    """And no stale login in Docker's own file is in the way."""
    worker.sync()
    assert_scrapes(worker)
    stale = worker.tokens()[-1]
    worker.ecr.ahead = 13 * HOUR
    assert_refused(worker)
    worker.log_in_by_hand(stale)
    worker.sync()
    assert_scrapes(worker)


def test_dockers_credential_helper_needs_no_connection(worker: DockerWorker) -> None:
    """It asks ECR for the pull. Without both, there is none."""
    refused = worker.task("without_connection", "scrape")
    assert not refused.succeeded
    assert PULLED not in worker.registry.answers
    assert worker.ecr.calls == []
    assert_scrapes(worker, "without_connection", **worker.use_helper())
    assert worker.ecr.calls


def test_dockers_credential_helper_wins_over_the_connection(
    worker: DockerWorker,
) -> None:
    worker.sync()
    worker.ecr.lifetime = 0  # what the helper gets is too old at once
    ended = worker.task("docker_from_ecr", "scrape", **worker.use_helper())
    assert not ended.succeeded
    assert PULLED not in worker.registry.answers
    assert 403 in [status for _, status in worker.registry.answers]


def test_clean_up_ends_by_itself(worker: DockerWorker) -> None:
    ended = worker.task("docker_from_ecr", "clean_up")
    assert ended.succeeded, ended.log[-4000:]
    assert ended.log.count("Total reclaimed space") == 2


def test_refresh_on_a_schedule(worker: DockerWorker) -> None:
    ended = worker.task("refresh_ecr_connection", "refresh")
    assert ended.succeeded, ended.log[-4000:]
    assert_scrapes(worker)


def test_refresh_ahead(worker: DockerWorker) -> None:
    """What has more than six hours is not renewed."""
    for _ in range(2):
        ended = worker.task("refresh_then_scrape", "refresh")
        assert ended.succeeded, ended.log[-4000:]
        assert len(worker.ecr.calls) == 1
    assert_scrapes(worker, "refresh_then_scrape")


def test_sync_then_run(worker: DockerWorker) -> None:
    """What has less is."""
    for lifetime, calls in ((5, 1), (12, 2)):
        worker.ecr.lifetime = lifetime * HOUR
        assert_scrapes(worker, "sync_then_run", **worker.beside_airflow())
        assert len(worker.ecr.calls) == calls


@pytest.mark.parametrize("prepared", ["3.3.2"], indirect=True)
def test_the_service_writes_by_airflowctl(worker: DockerWorker) -> None:
    """With the shipped drop-in, which fetches a token of Airflow's before each run."""
    machine = worker.machine
    shipped = (ROOT / "examples/systemd/airflowctl.conf").read_text()
    drop_in = shipped.replace("/opt/airflow/bin/airflowctl", f"{CTL}/bin/airflowctl")
    drop_in = drop_in.replace(
        "https://airflow.example.com", worker.env["AIRFLOW__API__BASE_URL"]
    )
    assert drop_in.count(CTL) == 3
    add_airflow(machine)
    install_units(machine)
    own(worker.home, UID)
    worker.configure(
        ECR_AIRFLOW_SYNC_AIRFLOW=f"{CTL}/bin/airflowctl",
        PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring",
    )
    worker.drop_in(SERVICE, drop_in)
    machine.write("/etc/ecr-airflow-sync/password", PASSWORD, 0o400)
    machine.run("chown", "-R", "airflow", "/etc/ecr-airflow-sync")
    for calls in (1, 2):
        machine.run("systemctl", "start", SERVICE)
        assert len(worker.ecr.calls) == calls
        assert worker.is_fresh()
        wait_for(lambda: not machine.path("/run/ecr-airflow-sync").exists())
    assert worker.traces() == []
