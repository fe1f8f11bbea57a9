"""`make install` and `make uninstall` on a booted systemd, with a real Airflow and sudo."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
import uv

from tests.support import airflows
from tests.support.booted_systemd import Machine, Unavailable, boot, wait_until
from tests.support.ecr_stand_in import EcrStandIn, environment
from tests.support.worker import (
    AIRFLOW,
    SYNC,
    UID,
    Worker,
    add_airflow,
    airflow_alone,
    copy_tree,
)

pytestmark = [
    pytest.mark.skipif(not shutil.which("sudo"), reason="needs sudo"),
    pytest.mark.skipif(not shutil.which("git"), reason="needs git"),
]

ADMIN = 50001
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
DEFAULT = f"/etc/default/{SYNC}"
OURS = f"/opt/{SYNC}"
IN_SHARE = f"{OURS}/share/{SYNC}/install.sh"
IN_PROJECT = "/srv/project/systemd/install.sh"
VALUES = "REGION=us-east-1 AIRFLOW=/opt/airflow/bin/airflow AIRFLOW_HOME=/srv/airflow"
ENABLE = f"sudo systemctl enable --now {SYNC}.timer"
AIRFLOW_CFG = f"""
[core]
fernet_key = {airflows.FERNET_KEY}
load_examples = False
[database]
sql_alchemy_conn = sqlite:////srv/airflow/airflow.db
"""
EVERY_THREE_SECONDS = """[Timer]
OnCalendar=
OnCalendar=*:*:0/3
RandomizedDelaySec=0
AccuracySec=1ms
"""


@dataclass(frozen=True)
class Host:
    """A host with an Airflow, and an administrator who is new to the command."""

    worker: Worker
    project: Path

    @property
    def machine(self) -> Machine:
        return self.worker.machine

    def attempt(self, line: str) -> tuple[int, str]:
        """What the administrator types, at home: exit status, and both streams."""
        admin = ["setpriv", "--reuid=admin", "--regid=admin", "--init-groups"]
        home = ["env", "HOME=/home/admin", "USER=admin", "sh", "-c", f"cd; {line}"]
        done = self.machine.attempt(*admin, *home)
        leaked = any(token[200:260] in done.stdout for token in self.worker.tokens())
        assert not leaked, "a token was printed"
        return done.returncode, done.stdout

    def run(self, line: str) -> str:
        status, told = self.attempt(line)
        assert status == 0, f"{line} ended with {status}: {told}"
        return told

    def default(self) -> str:
        return self.machine.path(DEFAULT).read_text()

    def installed(self) -> list[str]:
        """The files of the command, but for the clone and the test's own drop-ins."""
        places = ["/etc", "/opt", "/tmp", "/usr/local", "/var", "-xdev"]
        named = ["-name", f"*{SYNC}*", "-o", "-name", "docker-prune*"]
        return self.machine.run("find", *places, *named).splitlines()


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """That host before anything is installed. Its AWS is a stand-in."""
    folder = tmp_path_factory.mktemp("install")
    (folder / "empty").mkdir()
    try:
        airflow = airflows.environment(AIRFLOW).resolve()
        airflows.home(AIRFLOW, folder / "home")
        (folder / "home/airflow.cfg").write_text(AIRFLOW_CFG)
        make_repository(folder / "project")
        own(folder / "home", UID)
        own(folder / "project", ADMIN)
        mounts = {
            **airflow_alone(airflow, folder),
            "/srv/airflow": [folder / "home"],
            "/srv/project": [folder / "project"],
        }
        with boot(folder / "empty", mounts) as machine, EcrStandIn() as ecr:
            threading.Thread(target=ecr.serve_forever, daemon=True).start()
            worker = Worker(machine, folder / "home", ecr)
            add_airflow(machine)
            machine.run("useradd", f"--uid={ADMIN}", "--create-home", "admin")
            sudoers = "admin ALL=(ALL) NOPASSWD: ALL\n"
            machine.write("/etc/sudoers.d/admin", sudoers, 0o440)
            aws = [f"Environment={k}={v}" for k, v in environment(ecr.url).items()]
            worker.drop_in(f"{SYNC}.service", "[Service]", *aws)
            worker.drop_in(f"{SYNC}.timer", EVERY_THREE_SECONDS)
            yield Host(worker, folder / "project")
            ecr.shutdown()
    except (Unavailable, airflows.Unavailable) as unavailable:
        pytest.skip(str(unavailable))


def own(folder: Path, uid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid)


def make_repository(folder: Path) -> None:
    """The project as it is here, committed or not, for the administrator to clone."""
    copy_tree(folder)
    me = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    commands = (["init", "-q"], ["add", "--all"], [*me, "commit", "-q", "-m", "all"])
    for command in commands:
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.fixture
def bare(booted: Host) -> Host:
    """The same host without what another test has installed."""
    if booted.installed():
        booted.run(f"sudo sh {IN_PROJECT} uninstall; sudo rm -rf {DEFAULT} {OURS}")
    booted.run(f"rm -rf {SYNC}")
    return booted


@pytest.fixture
def host(booted: Host) -> Host:
    """The same host after the first two of the three commands."""
    if not booted.installed():
        booted.run(f"git clone --quiet /srv/project {SYNC}")
        booted.run(f"cd {SYNC} && sudo make install {VALUES}")
    return booted


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("install", f"REGION= is missing: give {VALUES}"),
        ("install REGION=us-east-1", f"AIRFLOW= is missing: give {VALUES}"),
        ("install Region=us-east-1", f"what is Region=us-east-1? It takes {VALUES}"),
        ("", f"it takes install {VALUES}, or uninstall"),
        (f"install {VALUES} REGION=\\'", "REGION= has a quote in it"),
        (f"install {VALUES} AIRFLOW_HOME=here", "AIRFLOW_HOME=here begins with no /"),
        (
            f"install {VALUES} AIRFLOW_USER=deploy",
            "there is no user deploy: "
            "give AIRFLOW_USER= the one that owns AIRFLOW_HOME",
        ),
        (
            f"install {VALUES} PREFIX=/usr",
            "PREFIX=/usr has other things in it: give a folder of its own",
        ),
        (
            f"install {VALUES} PYTHON=/bin/false",
            "/bin/false is older than 3.8, or in a home directory, "
            "hidden from services: give PYTHON=",
        ),
    ],
)
def test_a_usage_error_is_one_line(bare: Host, words: str, told: str) -> None:
    line = f"sudo sh {IN_PROJECT} {words}"
    assert bare.attempt(line) == (2, f"install.sh: {told}\n")
    assert bare.installed() == []


def test_without_sudo(bare: Host) -> None:
    told = "install.sh: needs root: put sudo before it\n"
    assert bare.attempt(f"sh {IN_PROJECT} install {VALUES}") == (2, told)


def test_from_clone_to_timer_in_three_commands(bare: Host) -> None:
    worker = bare.worker
    bare.run(f"git clone --quiet /srv/project {SYNC}")
    told = bare.run(f"cd {SYNC} && sudo make install {VALUES}")
    assert f"docker_default  planned  {HOST}" in told
    assert told.endswith(f"\nInstalled. Now:  {ENABLE}\n")
    assert worker.password() == "" or pytest.fail("the dry run wrote")
    bare.run(ENABLE)
    wait_until(worker.password)
    bare.run(f"sudo systemctl stop {SYNC}.timer")
    wait_until(worker.is_idle)
    assert worker.result() == ("inactive", "success")
    assert worker.is_fresh()
    assert worker.traces() == []
    file = bare.machine.path(DEFAULT).stat()
    assert (file.st_uid, file.st_gid, file.st_mode & 0o777) == (0, UID, 0o640)
    built = f"find {SYNC} ! -user admin; git -C {SYNC} status --porcelain"
    assert bare.run(built) == ""


def test_a_wrong_value_is_told_and_a_right_one_takes_its_place(host: Host) -> None:
    """By what is in share/, with no need for the clone, and whatever root's umask is."""
    right = host.default()
    install = f"umask 077; sudo {IN_SHARE} install {VALUES}"
    status, told = host.attempt(f"{install} AIRFLOW=/opt/nowhere/airflow")
    assert status == 1
    assert "docker_default: /opt/nowhere/airflow: no such script" in told
    mend = f"mend what it says, in {DEFAULT}, and run this again."
    assert told.endswith(f"\nInstalled, but that failed: {mend}\n")
    assert f"docker_default  planned  {HOST}" in host.run(install)
    assert host.default() == right


def test_what_was_edited_outlives_upgrade_and_removal(host: Host) -> None:
    uncomment = f"sudo sed -i '/_CONN_ID=.docker_/s/^#//' {DEFAULT}"
    host.run(uncomment)
    edited = host.default()
    told = host.run(f"cd {SYNC} && sudo make install {VALUES} REGION=eu-west-1")
    assert f"Keeping {DEFAULT} as it is, for it was edited.\n" in told
    assert "docker_123456789012_us-east-1  planned" in told
    assert host.default() == edited
    host.run(f"{ENABLE}; sudo systemctl start {SYNC} docker-prune.timer")
    assert len(host.installed()) > 10
    uninstall = f"cd {SYNC} && sudo make uninstall"
    assert host.run(uninstall) == f"Left {DEFAULT}, which you made or edited.\n"
    assert host.default() == edited
    host.run(f"sudo rm {DEFAULT}")
    assert host.installed() == []
    assert SYNC not in host.run("systemctl list-units --all; systemctl list-timers")
    assert host.run(uninstall) == ""


def test_from_a_wheel_and_an_airflow_home_in_a_home(bare: Host) -> None:
    build = [uv.find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir=dist"]
    subprocess.run(build, cwd=bare.project, check=True)
    bare.run(f"sudo python3 -m venv {OURS}")
    bare.run(f"sudo {OURS}/bin/pip install --quiet /srv/project/dist/*.whl")
    bare.run("sudo cp -a /srv/airflow ~airflow/airflow")
    at_home = "AIRFLOW_HOME=/home/airflow/airflow"
    told = bare.run(f"sudo {IN_SHARE} install {VALUES} {at_home}")
    assert "AIRFLOW_HOME /home/airflow/airflow" in told
    bare.run(f"sudo systemctl start {SYNC}")
    assert bare.worker.result() == ("inactive", "success")
    told = bare.run(f"sudo {IN_SHARE} uninstall")
    assert told == f"Left {OURS}, which you made or edited.\n"
    bare.run(f"sudo rm -r {OURS}")
    assert bare.installed() == []


def test_staged_for_a_package(bare: Host) -> None:
    values = f"{VALUES} AIRFLOW_HOME='/data/R&D|x' AIRFLOW_USER=deploy"
    staging = "PREFIX=/usr/lib/ecr DESTDIR=staging"
    bare.run("cp -R /srv/project project")
    told = bare.run(f"cd project && sudo make install {values} {staging}")
    assert told.endswith("\nInstalled. Nothing was tried or started.\n")
    assert bare.installed() == []
    staged = bare.machine.path("/home/admin/project/staging")
    default = (staged / f"etc/default/{SYNC}").read_text()
    assert "\nAIRFLOW_HOME='/data/R&D|x'\n" in default
    units = staged / "etc/systemd/system"
    unit = (units / f"{SYNC}.service").read_text()
    assert f"\nExecStart=/usr/lib/ecr/bin/{SYNC}\n" in unit
    drop_in = (units / f"{SYNC}.service.d/10-install.conf").read_text()
    settings = drop_in.split("\n", 1)[1]
    assert settings == '[Service]\nUser=deploy\nReadWritePaths="-/data/R&D|x"\n'
    texts = [path.read_text() for path in (staged / "usr/lib/ecr/bin").glob("[!_p]*")]
    assert not any("staging" in text for text in texts)
    bare.run(f"cd project && sudo make uninstall {staging}")
    assert bare.run("find project/staging -type f") == ""
