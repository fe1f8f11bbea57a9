"""A container called worker with the machine's Airflow: Docker's, or what stands for it.

Both answer to `docker exec -i worker`. In both, who kills that command leaves alone what
it has started inside.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import Iterator

from tests.support import airflows
from tests.support.booted_systemd import Machine, wait_until
from tests.support.docker import Docker
from tests.support.worker import AIRFLOW, UID

HOME = "/inside"  # AIRFLOW_HOME, for which the machine has another name
VARIABLES = {
    "AIRFLOW_CONFIG": "/tmp/airflow.cfg",  # the machine's own has paths of the machine
    "AIRFLOW_HOME": HOME,
    "AIRFLOW__CORE__FERNET_KEY": airflows.FERNET_KEY,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "LD_LIBRARY_PATH": "/opt/python/lib",
    "PATH": "/opt/airflow/bin:/bin",
}
VOLUMES = (
    *(f"/opt/{name}:/opt/{name}:ro" for name in ("airflow", "hanging", "python")),
    f"/srv/airflow:{HOME}",
)
BUSYBOX = ("cat", "env", "id", "ls", "sh", "sleep")
CLIENT = "/usr/local/bin/docker"
STOP = (
    "sh",
    "-c",
    "docker stop --time=0 worker 2>&1 || systemctl stop trial-container",
)

# Plays `docker exec` with namespaces, and refuses all else.
NAMESPACES = """#!/bin/sh
[ "$1 $2 $3" = "exec -i worker" ] || exit 64
shift 3
unit=$(systemctl show --property=MainPID --value trial-container)
pid=$([ "$unit" != 0 ] && pgrep --parent "$unit") || {
  echo "Error response from daemon: Container worker is not running" >&2
  exit 1
}
exec setsid --wait nsenter --target "$pid" --mount --pid \\
  setpriv --reuid=airflow --regid=airflow --clear-groups env -i VARIABLES "$@"
"""
INSIDE = f"""
mount -t tmpfs -o mode=1777 tmp /tmp
mount --bind /srv/airflow {HOME}
exec sleep infinity
"""


@contextlib.contextmanager
def of_docker(machine: Machine) -> Iterator[None]:
    """A real daemon, and a container of an image that is made here."""
    for path in (CLIENT, "/run/docker.sock"):
        machine.path(path).unlink(missing_ok=True)  # of other tests
    machine.run("groupadd", "--force", "docker")
    docker = Docker(machine)
    try:
        machine.path("/mnt/image.tar").write_bytes(_image())
        docker("import", "/mnt/image.tar", "worker")
        options = ["--detach", "--name=worker", "--network=none", f"--user={UID}:{UID}"]
        options += [f"--volume={volume}" for volume in VOLUMES]
        options += [f"--env={name}={value}" for name, value in VARIABLES.items()]
        docker("run", *options, "worker", "sleep", "infinity")
        yield
    finally:
        machine.path("/mnt/image.tar").unlink(missing_ok=True)
        machine.attempt("/usr/bin/docker", "rm", "--force", "worker")
        docker.stop()
        machine.run("rm", "-rf", "/var/lib/trial")


@contextlib.contextmanager
def of_namespaces(machine: Machine) -> Iterator[None]:
    """What stands for it where there is no Docker."""
    variables = " ".join(f"'{name}={value}'" for name, value in VARIABLES.items())
    machine.write(CLIENT, NAMESPACES.replace("VARIABLES", variables), 0o755)
    machine.run("mkdir", "-p", HOME)
    start = "systemd-run --quiet --unit=trial-container --property=KillSignal=SIGKILL"
    unshare = "unshare --fork --kill-child --pid --mount --mount-proc"
    machine.run(*start.split(), *unshare.split(), "sh", "-ec", INSIDE)
    try:
        wait_until(
            lambda: (
                machine.attempt("pgrep", "--full", "^sleep infinity").returncode == 0
            )
        )
        yield
    finally:
        machine.attempt("systemctl", "stop", "trial-container")
        machine.attempt("systemctl", "reset-failed", "trial-container")
        machine.path(CLIENT).unlink()


def _image() -> bytes:
    """What `docker import` takes: busybox, and the libraries that Airflow's Python wants."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        libraries = _libraries()
        folders = {
            parent for path in libraries for parent in path.parents if parent.name
        }
        for folder in sorted({*folders, Path("/bin"), Path("/etc"), Path("/tmp")}):
            _add(
                tar,
                str(folder),
                tarfile.DIRTYPE,
                mode=0o1777 if folder.name == "tmp" else 0o755,
            )
        for library in libraries:
            _add(tar, str(library), content=library.read_bytes())
        _add(tar, "bin/busybox", content=Path("/bin/busybox").read_bytes())
        for name in BUSYBOX:
            _add(tar, f"bin/{name}", tarfile.SYMTYPE, link="busybox")
        _add(
            tar,
            "etc/passwd",
            content=f"airflow:x:{UID}:{UID}::{HOME}:/bin/sh\n".encode(),
        )
    return archive.getvalue()


def _add(
    tar: tarfile.TarFile,
    name: str,
    kind: bytes = tarfile.REGTYPE,
    content: bytes = b"",
    mode: int = 0o755,
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.type, entry.size, entry.mode, entry.linkname = kind, len(content), mode, link
    tar.addfile(entry, io.BytesIO(content))


def _libraries() -> set[Path]:
    """The machine's shared libraries that Airflow's interpreter and packages are linked to."""
    environment = airflows.environment(AIRFLOW)
    python = (environment / "bin/python").resolve()
    folders = (environment, next(python.parent.parent.glob("lib/python*/lib-dynload")))
    linked = [str(path) for folder in folders for path in folder.rglob("*.so*")]
    told = subprocess.run(
        ["ldd", str(python), *linked], capture_output=True, text=True
    ).stdout
    words = {word for line in told.splitlines() for word in line.split()}
    return {Path(word) for word in words if word.startswith(("/lib", "/usr/lib"))}
