"""A real Docker daemon in a booted machine, and images that are made here."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Iterator

from tests.support.booted_systemd import Machine, require
from tests.support.command import wait_for
from tests.support.worker import UID

NEEDS = {"dockerd": "docker.io", "busybox": "busybox-static"}
DOCKERD = (
    "dockerd --host=unix:///run/docker.sock --group=docker --data-root=/var/lib/trial "
    "--exec-root=/run/trial --pidfile=/run/trial.pid --storage-driver=vfs --bridge=none "
    "--iptables=false --ip6tables=false --ip-forward=false"
)
BUSYBOX = ("cat", "env", "id", "ls", "sh", "sleep")
IMAGE = "/mnt/image.tar"
NOW = datetime.now(timezone.utc)


class Docker:
    """The daemon, and its client. It has no network, but for a proxy to its registries."""

    def __init__(self, machine: Machine, proxy: str) -> None:
        self.machine = machine
        self.proxy = proxy
        # Another client than the daemon's would come first in PATH.
        machine.sh("groupadd --force docker; rm -f /usr/local/bin/docker")
        self.start()

    def __call__(self, *arguments: str) -> str:
        return self.machine.run("docker", *arguments).strip()

    def start(self) -> None:
        run = ["systemd-run", "--quiet", "--unit=trial-docker"]
        if self.proxy:
            run.append(f"--setenv=HTTPS_PROXY={self.proxy}")
        else:
            run.append("--property=PrivateNetwork=yes")
        self.machine.run(*run, *DOCKERD.split())
        wait_for(lambda: self.machine.attempt("docker", "info").returncode == 0)

    def stop(self) -> None:
        self.machine.run("systemctl", "stop", "trial-docker")

    def load(self, name: str, *command: str, age: timedelta = timedelta()) -> None:
        """Make an image with busybox in it that was built that long ago."""
        archive = _archive(name, command, NOW - age, _layer())
        self.machine.path(IMAGE).write_bytes(archive)
        self("load", "--input", IMAGE)
        self.machine.path(IMAGE).unlink()

    def backdate(self, container: str, age: timedelta) -> None:
        """Give a container another date of creation, while the daemon rests."""
        containers = self.machine.path("/var/lib/trial/containers")
        for path in containers.glob("*/config.v2.json"):
            config = json.loads(path.read_text())
            if config["Name"] == f"/{container}":
                path.write_text(json.dumps({**config, "Created": _time(NOW - age)}))

    def names(self) -> dict[str, set[str]]:
        """What is there, by kind."""
        return {
            "containers": set(self("ps", "--all", "--format", "{{.Names}}").split()),
            "images": set(self("images", "--format", "{{.Repository}}").split()),
            "volumes": set(self("volume", "ls", "--format", "{{.Name}}").split()),
        }


@contextlib.contextmanager
def docker_in(machine: Machine, *, proxy: str = "") -> Iterator[Docker]:
    """A daemon for the block, or skip the test where there is none."""
    require(NEEDS)
    docker = Docker(machine, proxy)
    try:
        yield docker
    finally:
        docker.stop()


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _layer() -> bytes:
    """The files of an image."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("bin", "etc", "tmp"):
            (root / name).mkdir()
        (root / "tmp").chmod(0o1777)
        (root / "etc/passwd").write_text(f"airflow:x:{UID}:{UID}::/tmp:/bin/sh\n")
        shutil.copy("/bin/busybox", root / "bin")
        for name in BUSYBOX:
            (root / "bin" / name).symlink_to("busybox")
        return _tar(root)


def _archive(
    name: str, command: tuple[str, ...], built: datetime, layer: bytes
) -> bytes:
    """What `docker load` takes."""
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": _time(built),
        "config": {"Cmd": command, "Labels": {"name": name}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = {"Config": "config", "RepoTags": [f"{name}:latest"], "Layers": ["layer"]}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "layer").write_bytes(layer)
        (root / "config").write_text(json.dumps(config))
        (root / "manifest.json").write_text(json.dumps([manifest]))
        return _tar(root)


def _tar(folder: Path) -> bytes:
    """What is in a folder."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in folder.iterdir():
            tar.add(path, path.name)
    return archive.getvalue()
