"""Airflow of another user behind a real sudo, and in a container behind docker exec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest

from tests.support.booted_systemd import Machine, require
from tests.support.command import ROOT, wait_for
from tests.support.container import HANGING, INSIDE, container_in
from tests.support.docker import Docker
from tests.support.pages import blocks, commands
from tests.support.watcher import Watcher
from tests.support.worker import DEFAULT, HOME, SERVICE, SYNC, Worker

PAGE = "docs/containers-and-sudo.md"
BY_SUDO, IN_DOCKER = "Run by another user", "In a container on this host"
SUDO = "sudo -n -u airflow /opt/airflow/bin/airflow"
DOCKER = "docker exec -i worker airflow"
MAKE_USER, GIVE_FILE = commands(PAGE, BY_SUDO)
(SUDOERS,) = [block for block in blocks(PAGE, BY_SUDO) if block.startswith("ecr-sync")]
CONF = {
    name: (ROOT / f"examples/systemd/{name}.conf").read_text()
    for name in ("docker", "sudo")
}
HANGS = """#!/opt/airflow/bin/python
import signal, subprocess, time
{how}
subprocess.Popen(["sleep", "600"])
time.sleep(600)
"""
# The words after it are the command's.
WITH_DEFAULTS = f'set -a; . {DEFAULT}; exec /opt/{SYNC}/bin/{SYNC} "$@"'
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@dataclass(frozen=True)
class Asker:
    """The user ecr-sync on that worker, who asks ECR, and has no part in its Airflow."""

    worker: Worker

    @property
    def machine(self) -> Machine:
        return self.worker.machine

    def run(self, airflow: str, *options: str) -> tuple[int, str]:
        return self.sh(WITH_DEFAULTS, "cron", "--airflow", airflow, *options)

    def sh(self, script: str, *words: str) -> tuple[int, str]:
        """As cron does it: exit status, and both streams. No token may be seen by anybody."""
        bare = ["env", "-i", "HOME=/home/ecr-sync", "PATH=/usr/local/bin:/usr/bin:/bin"]
        command = ["sh", "-c", script, *words]
        with Watcher(self.worker.tokens) as watcher:
            done = self.machine.attempt(*bare, *command, user="ecr-sync")
        assert watcher.rounds > 3
        assert watcher.seen == set()
        leaked = any(token[200:260] in done.stdout for token in self.worker.tokens())
        assert not leaked, "a token was printed"
        return done.returncode, done.stdout

    def serve(self, drop_in: str, airflow: str) -> None:
        """Run the service with a drop-in."""
        self.worker.configure(ECR_AIRFLOW_SYNC_AIRFLOW=airflow)
        self.worker.drop_in(SERVICE, drop_in)
        assert self.machine.run("systemd-analyze", "verify", SERVICE) == ""
        self.machine.attempt("systemctl", "start", SERVICE)

    def fire(self, drop_in: str) -> None:
        """Run the line for cron that a drop-in has in a comment. It mails nothing."""
        (line,) = re.findall(r"^#(?:[*/\d]+ ){5}(.*)$", drop_in, re.MULTILINE)
        assert self.sh(line) == (0, "")
        assert self.worker.is_fresh()

    def hang(self, how: str, prefix: str, *inside: str) -> None:
        """Assert that an Airflow without an end is ended, with its child and its folder."""
        airflow = f"{prefix} {HANGING}/airflow"
        self.machine.write(f"{HANGING}/airflow", HANGS.format(how=how), 0o755)
        status, told = self.run(airflow, "--timeout=3", "--check", "--quiet")
        killed = (
            f"{airflow}: killed after 3 s, while running connections get; see --timeout"
        )
        assert (status, told) == (1, f"docker_default: {killed}\n")
        try:
            wait_for(lambda: self.worker.processes() == [], 5)
        finally:
            kill = ["pkill", "--signal=KILL", "--uid=airflow", "--full"]
            self.machine.attempt(*kill, "sleep 600|hanging")
        assert SYNC not in self.machine.run(*inside, "ls", "/tmp")


@pytest.fixture(scope="session")
def ecr_sync(booted: tuple[Machine, Path]) -> None:
    """The user, as the page makes it, who may use Docker too."""
    machine, _ = booted
    require({"sudo": "sudo"})
    machine.sh(f"{MAKE_USER}; groupadd --force docker; usermod -aG docker ecr-sync")


@pytest.fixture
def asker(worker: Worker, ecr_sync: None) -> Iterator[Asker]:
    """That user may read what cron and systemd read."""
    worker.machine.sh(GIVE_FILE)
    yield Asker(worker)
    # With what a drop-in's User= has made its own.
    state = f"/home/ecr-sync/.local /var/lib/{SYNC} /var/lib/private/{SYNC}"
    worker.machine.sh(f"rm -rf /etc/sudoers.d/{SYNC} {state}")


@pytest.fixture(params=["use_pty"])
def by_sudo(asker: Asker, request: pytest.FixtureRequest) -> Asker:
    """With the rules that the page prints. sudo makes a terminal, if no test says else."""
    rules = f"{SUDOERS}Defaults {request.param}\n"
    asker.machine.write(f"/etc/sudoers.d/{SYNC}", rules, 0o440)
    asker.machine.run("visudo", "-c")
    return asker


@pytest.fixture(scope="module")
def container(booted: tuple[Machine, Path]) -> Iterator[Docker]:
    """A container called worker, in which AIRFLOW_HOME is /inside."""
    machine, _ = booted
    with container_in(machine) as docker:
        yield docker


@pytest.fixture
def contained(asker: Asker, container: Docker) -> Asker:
    return asker


@pytest.mark.parametrize("by_sudo", ["!use_pty"], indirect=True)
def test_sudo_without_a_terminal(by_sudo: Asker) -> None:
    by_sudo.fire(CONF["sudo"])


@pytest.mark.parametrize("change", ["-u root", "-u airflow -i"])
def test_sudo_refuses(by_sudo: Asker, change: str) -> None:
    airflow = SUDO.replace("-u airflow", change)
    words = "a password is required (exit status 1)"
    told = f"docker_default: {airflow}: sudo: {words}\n"
    assert by_sudo.run(airflow, "--quiet") == (1, told)


@pytest.mark.parametrize(
    ("by_sudo", "how"), [("use_pty", ""), ("!use_pty", STUBBORN)], indirect=["by_sudo"]
)
def test_timeout_ends_what_sudo_has_started(by_sudo: Asker, how: str) -> None:
    by_sudo.hang(how, "sudo -n -u airflow")


def test_sudo_records_no_token(by_sudo: Asker) -> None:
    """Not even where a file that is read later says that all is to be recorded."""
    records, site = "/var/log/sudo-io", "/etc/sudoers.d/zz-site"
    machine = by_sudo.machine
    machine.write(site, "Defaults log_input, log_output, !compress_io\n", 0o440)
    careless = SUDOERS.replace("NOLOG_INPUT: NOLOG_OUTPUT: ", "")
    assert careless != SUDOERS
    try:
        for rules, is_recorded in ((careless, True), (SUDOERS, False)):
            machine.write(f"/etc/sudoers.d/{SYNC}", rules, 0o440)
            machine.run("visudo", "-c")
            by_sudo.fire(CONF["sudo"])
            traces = by_sudo.worker.traces()
            assert any(trace.startswith(records) for trace in traces) == is_recorded
            machine.run("rm", "-rf", records)
    finally:
        machine.run("rm", "-rf", records, site)


def test_sudo_unit(by_sudo: Asker) -> None:
    by_sudo.serve(CONF["sudo"], SUDO)
    how = f"Airflow 2.11.2, /opt/airflow/bin/airflow, AIRFLOW_HOME {HOME}, by import"
    assert how in by_sudo.machine.journal("--unit", SERVICE)
    assert by_sudo.worker.result() == ("inactive", "success")
    assert by_sudo.worker.is_fresh()
    analyze = "systemd-analyze security --no-pager --threshold=59"
    by_sudo.machine.run(*analyze.split(), SERVICE)


def test_sudo_unit_opens_no_more_than_it_must(by_sudo: Asker) -> None:
    """Without any of its lines, not even this goes through sudo."""
    only_sudo = "\nExecStart=\nExecStart=/usr/bin/sudo -n -u airflow /bin/sh -c true\n"
    lines = (CONF["sudo"] + only_sudo).splitlines()
    needed = [line for line in lines if re.match("[A-Z].*=", line)][:-2]
    if not by_sudo.machine.run("systemctl", "--version").startswith("systemd 252 "):
        needed = [line for line in needed if re.match("User|NoNew|Cap|PrivateU", line)]
    for left_out in ("", *needed):
        kept = [line for line in lines if line != left_out or not line]
        by_sudo.worker.drop_in(SERVICE, *kept)
        by_sudo.machine.attempt("systemctl", "start", SERVICE)
        expected = ("failed", "exit-code") if left_out else ("inactive", "success")
        assert (left_out, by_sudo.worker.result()) == (left_out, expected)


def test_docker_exec(contained: Asker) -> None:
    contained.fire(CONF["docker"])
    assert contained.worker.traces() == []
    inside = contained.machine.run(*DOCKER.split()[:-1], "ls", "/tmp")
    assert SYNC not in inside


def test_what_docker_says(contained: Asker, container: Docker) -> None:
    container("stop", "--time=0", "worker")
    stopped = contained.run(DOCKER, "--quiet")
    container("start", "worker")
    nobody = DOCKER.replace("worker", "nobody")
    nothing = DOCKER.replace("airflow", "nothing")
    by_daemon = r"Error( response from daemon)?:"  # or by the client, before Docker 25
    path = r"not found, with PATH /opt/airflow/bin:/bin \(cron's is short\);"
    for airflow, ran, words in (
        (
            DOCKER,
            stopped,
            rf"{by_daemon} [Cc]ontainer \S+ is not running \(exit status 1\)\n",
        ),
        (nobody, None, rf"{by_daemon} No such container: nobody \(exit status 1\)\n"),
        (nothing, None, path),
    ):
        status, told = ran or contained.run(airflow, "--quiet")
        assert (status, told.count("\n")) == (1, 1)
        assert re.match(f"docker_default: {airflow}: {words}", told)


@pytest.mark.parametrize("how", ["", STUBBORN], ids=["gentle", "stubborn"])
def test_timeout_ends_what_is_inside(contained: Asker, how: str) -> None:
    inside = "docker exec -i worker"
    contained.hang(how, inside, *inside.split())


@pytest.mark.parametrize(
    "user", ["", "User=in-the-image\nDynamicUser=yes\n"], ids=["", "dynamic"]
)
def test_docker_unit(contained: Asker, user: str) -> None:
    contained.serve(CONF["docker"] + user, DOCKER)
    how = f"Airflow 2.11.2, /opt/airflow/bin/airflow, AIRFLOW_HOME {INSIDE}, by import"
    assert how in contained.machine.journal("--unit", SERVICE)
    assert contained.worker.is_fresh()
    analyze = "systemd-analyze security --no-pager --threshold=12"
    contained.machine.run(*analyze.split(), SERVICE)
