"""Airflow of another user behind a real sudo, and in a container behind docker exec."""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from typing import Iterator

import pytest

from tests.support import container
from tests.support.booted_systemd import Machine, wait_until
from tests.support.cron import VARIABLES, cron
from tests.support.watcher import Watcher
from tests.support.worker import ROOT, SYNC, Worker

SERVICE = f"{SYNC}.service"
SUDO = "sudo -n -u airflow /opt/airflow/bin/airflow"
DOCKER = "docker exec -i worker airflow"
HANGING = "/opt/hanging/airflow"
HANGS = """#!/opt/airflow/bin/python
import signal, subprocess, time
{how}
subprocess.Popen(["sleep", "600"])
time.sleep(600)
"""
CONF = {
    n: (ROOT / f"examples/systemd/{n}.conf").read_text() for n in ("docker", "sudo")
}
SUDOERS = "".join(
    re.findall(r"^#     ((?:ecr-sync|Defaults).*\n)", CONF["sudo"], re.MULTILINE)
)
needs_cron = pytest.mark.skipif(
    not (shutil.which("cron", path="/usr/sbin") and shutil.which("faketime")),
    reason="needs cron and faketime",
)
once = pytest.mark.parametrize("by_sudo", ["use_pty"], indirect=True)
real = pytest.mark.parametrize("contained", ["docker"], indirect=True)
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
each_hang = pytest.mark.parametrize("how", ["", STUBBORN], ids=["gentle", "stubborn"])


@dataclass(frozen=True)
class Asker:
    """Who asks ECR on that worker, and has no part in its Airflow."""

    worker: Worker
    name: str

    @property
    def machine(self) -> Machine:
        return self.worker.machine

    def run(self, airflow: str, *options: str) -> tuple[int, str]:
        """As cron would: exit status, and both streams. No token may be seen by anybody."""
        line = f'set -a; . /etc/default/{SYNC}; exec /opt/{SYNC}/bin/{SYNC} "$@"'
        become = [
            "setpriv",
            f"--reuid={self.name}",
            f"--regid={self.name}",
            "--init-groups",
        ]
        bare = ["env", "-i", "HOME=/home/ecr-sync", "PATH=/usr/local/bin:/usr/bin:/bin"]
        command = ["sh", "-c", line, "cron", "--airflow", airflow, *options]
        with Watcher(self.worker.tokens) as watcher:
            done = self.machine.attempt(*become, *bare, *command)
        assert watcher.rounds > 3
        assert watcher.seen == set()
        leaked = any(token[200:260] in done.stdout for token in self.worker.tokens())
        assert not leaked, "a token was printed"
        return done.returncode, done.stdout

    def serve(self, drop_in: str, airflow: str) -> None:
        """Run the service with a drop-in as it is shipped."""
        self.worker.configure(ECR_AIRFLOW_SYNC_AIRFLOW=airflow)
        self.worker.drop_in(SERVICE, drop_in)
        verify = ("systemd-analyze", "verify", f"/etc/systemd/system/{SERVICE}")
        assert self.machine.run(*verify) == ""
        self.machine.attempt("systemctl", "start", SERVICE)

    def left(self) -> list[str]:
        """What runs as airflow, but for the container itself, and what it has not reaped."""
        told = self.machine.attempt(
            "ps", "--user=airflow", "--format=stat=,args="
        ).stdout
        rows = [line.split(None, 1) for line in told.splitlines()]
        return [
            args for state, args in rows if state[0] != "Z" and args != "sleep infinity"
        ]

    def hang(self, how: str, prefix: str, *inside: str) -> None:
        """Assert that an Airflow without an end is ended, with its child and its folder."""
        self.machine.write(HANGING, HANGS.format(how=how), 0o755)
        status, told = self.run(f"{prefix} {HANGING}", "--timeout=3", "--quiet")
        killed = f"docker_default: {prefix} {HANGING}: killed after 3 s, while importing Airflow;"
        assert (status, told.splitlines()) == (1, [f"{killed} see --timeout"])
        try:
            wait_until(lambda: self.left() == [], 5)
        finally:
            self.machine.attempt(
                "pkill", "--signal=KILL", "--uid=airflow", "--full", "sleep 600|hanging"
            )
        assert self.machine.run(*inside, "ls", "/tmp").count(SYNC) == 0


@pytest.fixture
def asker(worker: Worker) -> Iterator[Asker]:
    """A user ecr-sync, who may read what cron and systemd read."""
    machine = worker.machine
    machine.run("groupadd", "--force", "docker")
    machine.attempt("useradd", "--create-home", "--groups=docker", "ecr-sync")
    machine.run("chgrp", "ecr-sync", f"/etc/default/{SYNC}")
    yield Asker(worker, "ecr-sync")
    # With what a drop-in's User= has made its own.
    state = f"/var/lib/{SYNC} /var/lib/private/{SYNC}"
    clean = f"rm -rf /etc/sudoers.d/{SYNC} {state} /var/spool/cron/crontabs/*"
    machine.run("sh", "-c", clean)


@pytest.fixture(params=["use_pty", "!use_pty"])
def by_sudo(asker: Asker, request: pytest.FixtureRequest) -> Asker:
    """With the rule as it is shipped, whether or not sudo makes a terminal."""
    if not shutil.which("sudo"):
        pytest.skip("needs sudo")
    rules = f"{SUDOERS}Defaults {request.param}\n"
    asker.machine.write(f"/etc/sudoers.d/{SYNC}", rules, 0o440)
    asker.machine.run("visudo", "--check")
    return asker


@pytest.fixture(params=["docker", "namespaces"])
def contained(asker: Asker, request: pytest.FixtureRequest) -> Iterator[Asker]:
    """With a container called worker, in which AIRFLOW_HOME is /inside."""
    asker.machine.write(HANGING, "")  # its folder is there when the container starts
    with contextlib.ExitStack() as stack:
        if request.param == "docker":
            missing = [
                p for p in ("/usr/sbin/dockerd", "/bin/busybox") if not shutil.which(p)
            ]
            if missing:
                pytest.skip(f"needs {missing[0]}; namespaces stand for it")
            stack.enter_context(container.of_docker(asker.machine))
            yield asker
        else:
            stack.enter_context(container.of_namespaces(asker.machine))
            yield Asker(asker.worker, "root")  # who else may enter them


def test_sudo(by_sudo: Asker) -> None:
    status, told = by_sudo.run(SUDO)
    assert (
        "Airflow 2.11.2, /opt/airflow/bin/airflow, AIRFLOW_HOME /srv/airflow, import"
        in told
    )
    assert status == 0
    assert by_sudo.worker.is_fresh()


@once
@pytest.mark.parametrize("change", ["-u root", "-u airflow -i"])
def test_sudo_refuses(by_sudo: Asker, change: str) -> None:
    airflow = SUDO.replace("-u airflow", change)
    words = "a password is required (exit status 1)"
    assert by_sudo.run(airflow, "--quiet") == (
        1,
        f"docker_default: {airflow}: sudo: {words}\n",
    )


@each_hang
def test_timeout_ends_what_sudo_has_started(by_sudo: Asker, how: str) -> None:
    by_sudo.hang(how, "sudo -n -u airflow")


@once
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
            machine.run("visudo", "--check")
            assert by_sudo.run(SUDO)[0] == 0
            assert by_sudo.worker.is_fresh()
            traces = by_sudo.worker.traces()
            assert any(trace.startswith(records) for trace in traces) == is_recorded
            machine.run("rm", "-rf", records)
    finally:
        machine.run("rm", "-rf", records, site)


@once
def test_sudo_unit(by_sudo: Asker) -> None:
    by_sudo.serve(CONF["sudo"], SUDO)
    assert by_sudo.worker.result() == ("inactive", "success")
    assert by_sudo.worker.is_fresh()


@once
def test_sudo_unit_opens_no_more_than_it_must(by_sudo: Asker) -> None:
    lines = CONF["sudo"].splitlines()
    needed = [line for line in lines if re.match("[A-Z].*=", line)]
    if not by_sudo.machine.run("systemctl", "--version").startswith("systemd 252 "):
        needed = [line for line in needed if re.match("User|NoNew|Cap|PrivateU", line)]
    for line in needed:
        by_sudo.serve("\n".join(other for other in lines if other != line), SUDO)
        assert by_sudo.worker.result() == ("failed", "exit-code"), (
            f"{line} is not needed"
        )


def test_docker_exec(contained: Asker) -> None:
    status, told = contained.run(DOCKER)
    assert (
        "Airflow 2.11.2, /opt/airflow/bin/airflow, AIRFLOW_HOME /inside, import" in told
    )
    assert status == 0
    assert contained.worker.is_fresh()
    traces = contained.worker.traces()
    assert [
        trace for trace in traces if not trace.startswith("grep: /run/trial/netns/")
    ] == []
    assert SYNC not in contained.machine.run(
        "docker", "exec", "-i", "worker", "ls", "/tmp"
    )


def test_not_running(contained: Asker) -> None:
    contained.machine.run(*container.STOP)
    status, told = contained.run(DOCKER, "--quiet")
    assert status == 1
    words = rf"docker_default: {DOCKER}: Error response from daemon: Container \S+ is not running "
    assert re.fullmatch(rf"{words}\(exit status 1\)\n", told)


@real
def test_what_docker_says(contained: Asker) -> None:
    for airflow, words in (
        (
            "docker exec -i nobody airflow",
            "Error: No such container: nobody (exit status 1)",
        ),
        (
            "docker exec -i worker nothing",
            "not found, with PATH /opt/airflow/bin:/bin (cron's is short); ",
        ),
    ):
        status, told = contained.run(airflow, "--quiet")
        assert (status, told.count("\n")) == (1, 1)
        assert told.startswith(f"docker_default: {airflow}: {words}")


@each_hang
def test_timeout_ends_what_is_inside(contained: Asker, how: str) -> None:
    inside = "docker exec -i worker"
    contained.hang(how, inside, *inside.split())


@real
@pytest.mark.parametrize(
    "user", ["", "User=in-the-image\nDynamicUser=yes\n"], ids=["", "dynamic"]
)
def test_docker_unit(contained: Asker, user: str) -> None:
    contained.serve(CONF["docker"] + user, DOCKER)
    told = contained.machine.journal("--unit", SERVICE)
    assert "AIRFLOW_HOME /inside" in told
    assert contained.worker.is_fresh()
    analyze = "systemd-analyze security --no-pager --threshold=12"
    contained.machine.run(*analyze.split(), SERVICE)


def fire(asker: Asker, name: str) -> None:
    """Install a crontab with the line that is shipped in a comment, and have it run once."""
    (line,) = re.findall(r"^#(\*/30 .*\n)", CONF[name], re.MULTILINE)
    asker.worker.configure(ECR_AIRFLOW_SYNC_SPLAY="0")
    machine = asker.machine
    machine.run("chgrp", "ecr-sync", f"/etc/default/{SYNC}")
    machine.run("sh", "-c", "rm -f /etc/crontab /etc/cron.d/*")
    machine.write("/etc/crontab.trial", "".join([*VARIABLES, line]))
    machine.run("crontab", "-u", "ecr-sync", "/etc/crontab.trial")
    with cron(machine, "00:29:58") as said:
        wait_until(lambda: said("END"))
    assert asker.worker.is_fresh()


@once
@needs_cron
def test_sudo_from_cron(by_sudo: Asker) -> None:
    fire(by_sudo, "sudo")


@real
@needs_cron
def test_docker_exec_from_cron(contained: Asker) -> None:
    fire(contained, "docker")
