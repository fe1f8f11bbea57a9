"""A container called worker, with the Airflow of the machine that it runs in.

Whoever kills `docker exec -i worker` leaves alone what it has started inside.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Iterator

from tests.support import airflows
from tests.support.booted_systemd import Machine
from tests.support.docker import Docker, docker_in
from tests.support.worker import HOME, IN_CONTAINER, UID

INSIDE = "/inside"  # AIRFLOW_HOME there
VARIABLES = {
    **airflows.variables(Path(INSIDE)),
    "AIRFLOW_CONFIG": "/tmp/airflow.cfg",  # the machine's own has paths of the machine
    "LD_LIBRARY_PATH": "/opt/python/lib",
    "PATH": "/opt/airflow/bin:/bin",
}
HANGING = "/opt/hanging"  # for programs of a test
SHARED = ("/lib", "/lib64", "/usr/lib", "/opt/airflow", "/opt/python", HANGING)
VOLUMES = (*(f"{path}:{path}:ro" for path in SHARED), f"{HOME}:{INSIDE}")


@contextlib.contextmanager
def container_in(machine: Machine) -> Iterator[Docker]:
    """The container, and the daemon that runs it."""
    machine.run("mkdir", "-p", HANGING)
    with docker_in(machine) as docker:
        docker.load("worker", *IN_CONTAINER.split())
        options = ["--detach", "--name=worker", "--network=none", f"--user={UID}:{UID}"]
        options += [f"--volume={volume}" for volume in VOLUMES]
        options += [f"--env={name}={value}" for name, value in VARIABLES.items()]
        docker("run", *options, "worker")
        try:
            yield docker
        finally:
            docker("rm", "--force", "worker")
