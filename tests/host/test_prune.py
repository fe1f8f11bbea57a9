"""The shipped prune units: on a real Docker daemon, and with a strict fake docker."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Iterator

import pytest

from tests.support.booted_systemd import Machine, Unavailable, boot
from tests.support.docker import Docker
from tests.support.fake_docker import FAKE_DOCKER, PRUNES
from tests.support.worker import ROOT

SERVICE = "docker-prune.service"
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
