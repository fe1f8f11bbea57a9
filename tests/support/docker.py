"""A real Docker daemon in a booted machine, and images that are made here."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tests.support.booted_systemd import Machine, wait_until

DOCKERD = (
    "dockerd --host=unix:///run/docker.sock --group=docker --data-root=/var/lib/trial "
    "--exec-root=/run/trial --pidfile=/run/trial.pid --storage-driver=vfs --bridge=none "
    "--iptables=false --ip6tables=false --ip-forward=false"
)
NOW = datetime.now(timezone.utc)


class Docker:
    """A real daemon in the machine, without a network, and its client."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.start()

    def start(self) -> None:
        run = "systemd-run --quiet --unit=trial-docker --property=PrivateNetwork=yes"
        self.machine.run(*run.split(), *DOCKERD.split())
        wait_until(
            lambda: self.machine.attempt("/usr/bin/docker", "info").returncode == 0
        )

    def stop(self) -> None:
        self.machine.run("systemctl", "stop", "trial-docker")

    def __call__(self, *arguments: str) -> str:
        return self.machine.run("/usr/bin/docker", *arguments).strip()

    def load(self, name: str, age: timedelta) -> None:
        """An image with busybox in it that was built that long ago."""
        archive = _image(name, NOW - age)
        self.machine.path("/mnt/image.tar").write_bytes(archive)
        self("load", "--input", "/mnt/image.tar")

    def backdate(self, container: str, age: timedelta) -> None:
        """Give a container another date of creation, while the daemon rests."""
        for path in self.machine.path("/var/lib/trial/containers").glob(
            "*/config.v2.json"
        ):
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


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _tar(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _image(name: str, built: datetime) -> bytes:
    """What `docker load` takes: one layer with busybox, and the date that was asked for."""
    busybox = Path("/bin/busybox").read_bytes()
    layer = _tar({"bin/sleep": busybox})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": _time(built),
        "config": {"Cmd": ["/bin/sleep", "1000"], "Labels": {"name": name}},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
        },
    }
    manifest = [
        {
            "Config": "config.json",
            "RepoTags": [f"{name}:latest"],
            "Layers": ["layer.tar"],
        }
    ]
    files = {"config.json": json.dumps(config), "manifest.json": json.dumps(manifest)}
    return _tar({"layer.tar": layer, **{k: v.encode() for k, v in files.items()}})
