"""The shipped prune units: on a real Docker daemon, and with a strict fake docker."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Iterator

import pytest
from booted_systemd import Machine, Unavailable, boot, wait_until
from fake_docker import FAKE_DOCKER, PRUNES
from worker import ROOT

pytestmark = pytest.mark.host

SERVICE = "docker-prune.service"
DOCKERD = (
    "dockerd --host=unix:///run/docker.sock --group=docker --data-root=/var/lib/trial "
    "--exec-root=/run/trial --pidfile=/run/trial.pid --storage-driver=vfs --bridge=none "
    "--iptables=false --ip6tables=false --ip-forward=false"
)
NOW = datetime.now(timezone.utc)
HOUR = timedelta(hours=1)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine of its own, where the units are installed."""
    try:
        with boot(tmp_path, {}) as machine:
            for unit in (ROOT / "systemd").glob("docker-prune.*"):
                machine.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
            machine.run("systemctl", "daemon-reload")
            machine.run("groupadd", "--force", "docker")
            yield machine
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))


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


@pytest.mark.skipif(not shutil.which("/usr/sbin/dockerd"), reason="needs docker.io")
@pytest.mark.skipif(not shutil.which("/bin/busybox"), reason="needs busybox-static")
def test_on_real_docker(machine: Machine) -> None:
    docker = Docker(machine)
    for name, age in (
        ("of_old", 72 * HOUR),
        ("of_young", 72 * HOUR),
        ("of_running", 72 * HOUR),
        ("nobodys_old", 25 * HOUR),
        ("nobodys_young", 23 * HOUR),
    ):
        docker.load(name, age)
    for name in ("old", "young", "running"):
        docker("create", "--name", name, "--network=none", f"of_{name}")
    docker("volume", "create", "nobodys_volume")
    docker.stop()
    docker.backdate("old", 25 * HOUR)
    docker.backdate("young", 23 * HOUR)
    docker.backdate("running", 25 * HOUR)
    docker.start()
    docker("start", "running")
    machine.run("systemctl", "start", SERVICE)
    assert docker.names() == {
        "containers": {"young", "running"},
        "images": {"of_young", "of_running", "nobodys_young"},
        "volumes": {"nobodys_volume"},
    }
    assert "Total reclaimed space" in machine.journal("--unit", SERVICE)


def test_what_docker_is_asked(machine: Machine) -> None:
    machine.write("/usr/bin/docker", FAKE_DOCKER, 0o755)
    machine.write("/run/docker.sock", "", 0o660)
    machine.run("chgrp", "docker", "/run/docker.sock")
    machine.run("systemctl", "start", SERVICE)
    told = machine.journal(f"--unit={SERVICE}", "--identifier=docker").splitlines()
    assert told == [f"docker-prune: {prune}" for prune in PRUNES]


@pytest.mark.parametrize("missing", ["/usr/bin/docker", "/run/docker.sock"])
def test_rests_without_docker(machine: Machine, missing: str) -> None:
    machine.write("/usr/bin/docker", FAKE_DOCKER, 0o755)
    machine.write("/run/docker.sock", "")
    machine.path(missing).unlink()
    machine.run("systemctl", "start", SERVICE)
    assert machine.show(SERVICE, "ConditionResult", "Result") == {
        "ConditionResult": "no",
        "Result": "success",
    }
