"""A worker with Docker, Airflow and ecr-airflow-sync, and a registry that it takes for ECR.

It is a booted machine, in which /etc and ~/.docker may be written. Docker's daemon comes to
the registry's stand-in by a proxy, and behind that is a real registry.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import uv

from tests.support import airflows
from tests.support.api_server import serving
from tests.support.booted_systemd import boot, require
from tests.support.command import HOST, ROOT, wait_for
from tests.support.database import execute, find_port
from tests.support.docker import NEEDS, Docker, docker_in
from tests.support.ecr_stand_in import (
    TWELVE_HOURS,
    EcrStandIn,
    environment,
    serving_here,
)
from tests.support.registry_stand_in import RegistryStandIn
from tests.support.worker import HOME, SYNC, Worker, mount_all, mount_client

SAYS = "scraped all of it"
# Airflow 1.10 waits forever for what a container says that ended before it could listen.
SCRAPE = ("sh", "-c", f"sleep 1; echo {SAYS}")
CTL = "/opt/airflowctl"
DAGS = "/opt/dags"
LIBRARY = "/opt/library"
CLIENT_CONFIG = "/root/.docker/config.json"
REGISTRY = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: /var/lib/e2e-registry}}}}
http: {{addr: "{address}"}}
"""

HELPERS = "/opt/helpers"
# Asks ECR each time, as docker-credential-ecr-login does with an empty cache.
ECR_LOGIN = f"""#!/opt/{SYNC}/bin/python
import base64, json, sys
import boto3

assert sys.argv[1:] == ["get"], sys.argv
host = sys.stdin.read()
region = host.split(".")[3]
answer = boto3.client("ecr", region_name=region).get_authorization_token()
token = answer["authorizationData"][0]["authorizationToken"]
login, _, password = base64.b64decode(token).decode().partition(":")
print(json.dumps({{"ServerURL": host, "Username": login, "Secret": password}}))
"""


@dataclass(frozen=True)
class Task:
    """How a task ended, and its log."""

    succeeded: bool
    log: str


@dataclass(frozen=True)
class DockerWorker(Worker):
    """A worker that pulls from ``registry``."""

    docker: Docker
    version: str
    registry: RegistryStandIn
    env: dict[str, str]

    def sync(self) -> None:
        """What cron runs (Airflow 3: where the scheduler runs)."""
        command = (f"/opt/{SYNC}/bin/{SYNC}", "--region", "us-east-1")
        done = self._attempt(*command, "--airflow", "/opt/airflow/bin/airflow")
        assert done.returncode == 0, done.stdout

    def task(self, dag: str, task: str, **more: str) -> Task:
        """Run a task. Its log must hold no token."""
        test = ("/opt/airflow/bin/airflow", "tasks", "test", dag, task, "2026-01-02")
        done = self._attempt(*test, **more)
        leaked = any(token[200:260] in done.stdout for token in self.tokens())
        assert not leaked, "a token was printed"
        succeeded = done.returncode == 0
        if self.version.startswith("3."):  # there it is 0, whatever the task does
            succeeded = "new_state=success" in done.stdout
        return Task(succeeded, done.stdout)

    def beside_airflow(self) -> dict[str, str]:
        """The environment in which Airflow's own Python has ecr-airflow-sync too."""
        ours = f"/opt/{SYNC}"
        (found,) = self.machine.path(ours).glob("lib/python3*/site-packages")
        folders = [f"{ours}/lib/{found.parent.name}/site-packages"]
        folders += filter(None, [self.env.get("PYTHONPATH")])
        return {"PYTHONPATH": ":".join(folders)}

    def reserialize(self) -> None:
        """Airflow 3 runs a task of what its database knows of the DAGs."""
        if self.version.startswith("3."):
            done = self._attempt("/opt/airflow/bin/airflow", "dags", "reserialize")
            assert done.returncode == 0, done.stdout

    def log_in_by_hand(self, token: str) -> None:
        """Leave a token in ~/.docker/config.json, as `docker login` does."""
        auth = {"auth": base64.b64encode(f"AWS:{token}".encode()).decode()}
        auths = {HOST: auth, f"https://{HOST}": auth}
        self.machine.write(CLIENT_CONFIG, json.dumps({"auths": auths}), 0o600)

    def use_helper(self) -> dict[str, str]:
        """Have Docker's clients ask docker-credential-ecr-login for logins to ECR.

        Returns what the environment of a task needs besides.
        """
        config = json.dumps({"credHelpers": {HOST: "ecr-login"}})
        self.machine.write(CLIENT_CONFIG, config, 0o600)
        return {"PATH": f"{HELPERS}:{self.env['PATH']}"}

    def forget(self) -> None:
        """As before the first sync: no connection, no state, no image, no login."""
        execute(self.database, "DELETE FROM connection")
        self.machine.run("rm", "-rf", "/root/.docker", f"/root/.local/state/{SYNC}")
        self.docker("container", "prune", "--force")
        self.docker("image", "prune", "--all", "--force")
        self.ecr.calls.clear()
        self.ecr.ahead, self.ecr.lifetime = 0, TWELVE_HOURS
        self.registry.answers.clear()

    def _attempt(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        variables = [f"{name}={value}" for name, value in {**self.env, **more}.items()]
        return self.machine.attempt("env", *variables, *command)


@contextlib.contextmanager
def docker_worker(version: str, folder: Path) -> Iterator[DockerWorker]:
    """One with that Airflow, or skip the test where it cannot be had."""
    require({**NEEDS, "docker-registry": "docker-registry"})
    mounts = mount_all(version, folder)
    if version.startswith("1."):  # DockerOperator is part of it, its library is not
        mounts[LIBRARY] = [_install("docker", version, folder)]
    if version.startswith("3."):  # made with the same Python
        mounts[CTL] = mount_client(folder)
    behind = f"127.0.0.1:{find_port()}"
    with contextlib.ExitStack() as stack:
        ecr = stack.enter_context(serving_here(EcrStandIn()))
        registry = RegistryStandIn(ecr, f"http://{behind}")
        stack.enter_context(serving_here(registry))
        home, env = stack.enter_context(_airflow(version, folder))
        dags = [_dag_without_connection(folder), ROOT / "examples/dags"]
        mounts.update({HOME: [home], DAGS: dags})
        machine = stack.enter_context(boot(mounts))
        machine.write(f"/etc/docker/certs.d/{HOST}/ca.crt", registry.bundle.read_text())
        docker = stack.enter_context(docker_in(machine, proxy=registry.url))
        _start_registry(docker, behind)
        machine.write(f"{HELPERS}/docker-credential-ecr-login", ECR_LOGIN, 0o755)
        path = f"/opt/{SYNC}/bin:/opt/airflow/bin:{CTL}/bin:/usr/bin:/bin"
        env = {**env, **environment(ecr.url), "PATH": path, "HOME": "/root"}
        if LIBRARY in mounts:
            env["PYTHONPATH"] = LIBRARY
        worker = DockerWorker(machine, home, ecr, docker, version, registry, env)
        worker.reserialize()
        yield worker


def _install(package: str, version: str, folder: Path) -> Path:
    """A folder with that package and all that it needs, as old as that Airflow."""
    library = folder / "library"
    python = str(airflows.environment(version))
    as_of = airflows.RECIPES[version].as_of
    options = ["--exclude-newer", as_of, "--python", python, "--target", str(library)]
    command = [uv.find_uv_bin(), "pip", "install", "--quiet", *options, package]
    subprocess.run(command, check=True)
    return library


def _dag_without_connection(folder: Path) -> Path:
    """A folder with the example docker_from_ecr once more, without its connection."""
    example = (ROOT / "examples/dags/docker_from_ecr.py").read_text()
    text = re.sub(r"^ *docker_conn_id=.*\n", "", example, flags=re.MULTILINE)
    assert text != example
    dags = folder / "dags"
    dags.mkdir()
    text = text.replace("docker_from_ecr", "without_connection")
    (dags / "without_connection.py").write_text(text)
    return dags


@contextlib.contextmanager
def _airflow(version: str, folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """An AIRFLOW_HOME, and what leads to it in the machine. Airflow 3: and its API server."""
    inside = {**airflows.variables(Path(HOME)), "AIRFLOW__CORE__DAGS_FOLDER": DAGS}
    if not version.startswith("3."):
        airflows.home(version, folder / "home")
        yield folder / "home", inside
        return
    with serving(folder) as server:
        home = Path(server.env["AIRFLOW_HOME"])
        # From here on, airflowctl knows the URL: its file is in AIRFLOW_HOME.
        yield home, {**server.env, **server.client(home), **inside}


def _start_registry(docker: Docker, address: str) -> None:
    """A real one, which holds the image."""
    machine = docker.machine
    machine.write("/etc/e2e-registry.yml", REGISTRY.format(address=address))
    serve = "systemd-run --quiet --unit=e2e-registry docker-registry serve"
    machine.run(*serve.split(), "/etc/e2e-registry.yml")
    image = f"{address}/web_scraper"
    docker.load(image, *SCRAPE)
    push = ("docker", "push", "--quiet", image)
    wait_for(lambda: machine.attempt(*push).returncode == 0)
    docker("image", "rm", image)
