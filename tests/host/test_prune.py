"""The shipped prune unit, and cron's line for it, on a real Docker daemon."""

from __future__ import annotations

from datetime import timedelta
from typing import Callable, Iterator

import pytest

from tests.support.booted_systemd import Machine, boot
from tests.support.command import wait_for
from tests.support.cron import MAIL, PRUNE, VARIABLES, cron, install, prepare_cron
from tests.support.docker import Docker, docker_in
from tests.support.worker import install_units

SERVICE = "docker-prune.service"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    """A machine of its own, where Docker runs and the units are installed."""
    with boot({}) as machine, docker_in(machine) as docker:
        install_units(machine)
        yield docker


def by_systemd(machine: Machine) -> None:
    machine.run("systemctl", "start", SERVICE)
    assert "Total reclaimed space" in machine.journal("--unit", SERVICE)


def by_cron(machine: Machine) -> None:
    prepare_cron(machine)
    install(machine, "root", VARIABLES + PRUNE)
    with cron(machine, "03:16:58") as said:
        wait_for(lambda: said("END"))
    assert machine.path(MAIL).read_text() == ""


@pytest.mark.parametrize("prune", [by_systemd, by_cron])
def test_what_is_older_than_a_day_and_unused_goes(
    docker: Docker, prune: Callable[[Machine], None]
) -> None:
    for name, age in (
        ("of_old", 72 * HOUR),
        ("of_young", 72 * HOUR),
        ("of_running", 72 * HOUR),
        ("nobodys_old", 25 * HOUR),
        ("nobodys_young", 23 * HOUR),
    ):
        docker.load(name, "sleep", "1000", age=age)
    for name in ("old", "young", "running"):
        docker("create", "--name", name, "--network=none", f"of_{name}")
    docker("volume", "create", "nobodys_volume")
    docker.stop()
    docker.backdate("old", 25 * HOUR)
    docker.backdate("young", 23 * HOUR)
    docker.backdate("running", 25 * HOUR)
    docker.start()
    docker("start", "running")
    prune(docker.machine)
    assert docker.names() == {
        "containers": {"young", "running"},
        "images": {"of_young", "of_running", "nobodys_young"},
        "volumes": {"nobodys_volume"},
    }
    docker("rm", "--force", "young", "running")
    docker("image", "prune", "--all", "--force")


@pytest.mark.parametrize("missing", ["/usr/bin/docker", "/run/docker.sock"])
def test_rests_without_docker(docker: Docker, missing: str) -> None:
    machine = docker.machine
    machine.run("mv", missing, f"{missing}.aside")
    machine.run("systemctl", "start", SERVICE)
    machine.run("mv", f"{missing}.aside", missing)
    assert machine.show(SERVICE, "ConditionResult", "Result") == {
        "ConditionResult": "no",
        "Result": "success",
    }
