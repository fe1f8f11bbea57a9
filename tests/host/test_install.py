"""`make install` and the commands of the pages, on a booted systemd with a real Airflow."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
import uv

from tests.support import airflows
from tests.support.booted_systemd import Machine, boot, require
from tests.support.command import HOST, wait_for
from tests.support.container import INSIDE, container_in
from tests.support.cron import LINE
from tests.support.ecr_stand_in import EcrStandIn, environment, serving_here
from tests.support.pages import commands
from tests.support.worker import (
    AIRFLOW,
    DEFAULT,
    HOME,
    SERVICE,
    SYNC,
    TIMER,
    UID,
    Worker,
    add_airflow,
    copy_project,
    make_home,
    mount_airflow,
    own,
)

pytestmark = pytest.mark.timeout(900)  # pip takes its time, and the network

ADMIN = 50001
AT_HOME = "/home/airflow/airflow"  # another AIRFLOW_HOME
OURS = f"/opt/{SYNC}"
SHARE = f"{OURS}/share/{SYNC}"
IN_SHARE = f"{SHARE}/install.sh"
IN_PROJECT = "/srv/project/systemd/install.sh"
IN_A_HOME = "/home/python/bin/python3"
NO_PYTHON = (
    "is older than 3.8, or in a home directory, hidden from services: give PYTHON="
)
VALUES = f"REGION=us-east-1 AIRFLOW=/opt/airflow/bin/airflow AIRFLOW_HOME={HOME}"

WHAT_IS_SHARED = (
    "systemd/*",
    "crontab.example",
    "examples/*.ini",
    "examples/dags/*",
    "examples/systemd/*",
    "docs/*",
)

# As the pages print them.
MAKE_INSTALL, ENABLE, ADD_DOCKER, INSTALL_FOR_DOCKER = commands(
    "docs/install.md", "With make"
)
BY_HAND = commands("docs/install.md", "By hand, into a virtual environment")
*AS_TOOL, WITHOUT_INSTALLING = commands(
    "docs/install.md", "With pipx, uv tool, or not at all"
)
TOOLS = (f"/opt/pipx/venvs/{SYNC}", f"/opt/uv/{SYNC}")
PULL, UPGRADE, UPGRADE_BY_HAND = commands("docs/install.md", "Upgrade")
UNINSTALL, *REMOVE_BY_HAND = commands("docs/install.md", "Remove")
UNITS_BY_HAND = commands("docs/schedule.md", "systemd")
QUICK_INSTALL, RUN, CHECK, QUICK_ENABLE = commands("README.md", "Quick start")
CRON_BY_HAND = commands("docs/schedule.md", "cron")

AIRFLOW_CFG = f"""
[core]
fernet_key = {airflows.FERNET_KEY}
load_examples = False
[database]
sql_alchemy_conn = sqlite:///{HOME}/airflow.db
"""
SUDOERS = """admin ALL=(ALL) NOPASSWD: ALL
Defaults env_file=/etc/environment
"""
EVERY_THREE_SECONDS = """[Timer]
OnCalendar=
OnCalendar=*:*:0/3
RandomizedDelaySec=0
AccuracySec=1ms
"""
# What pip and uv may need here on their way to an index.
THIS_NETWORKS = ("HTTPS_PROXY", "PIP_INDEX_URL", "SSL_CERT_FILE", "UV_DEFAULT_INDEX")
# What is done in the editor: for a crontab that, and for the environment file nothing. crontab
# tells by the second whether its file was changed.
EDITOR = f"""#!/bin/sh
case $1 in *crontab*) sleep 1.1; cat {SHARE}/crontab.example >>"$1" ;; esac
"""
PIPX = """#!/bin/sh
exec uv --quiet tool run pipx "$@"
"""


@dataclass(frozen=True)
class Host:
    """A host with an Airflow, and an administrator who is new to the command."""

    worker: Worker
    project: Path
    variables: list[str]

    @property
    def machine(self) -> Machine:
        return self.worker.machine

    def attempt(self, *lines: str) -> tuple[int, str]:
        """What the administrator types, at home: exit status, and both streams."""
        home = ["HOME=/home/admin", "USER=admin", *self.variables]
        script = "\n".join(["cd", *lines])
        done = self.machine.attempt("env", *home, "sh", "-ec", script, user="admin")
        leaked = any(token[200:260] in done.stdout for token in self.worker.tokens())
        assert not leaked, "a token was printed"
        return done.returncode, done.stdout

    def run(self, *lines: str) -> str:
        status, told = self.attempt(*lines)
        assert status == 0, f"{lines} ended with {status}: {told}"
        return told

    def in_clone(self, *lines: str) -> str:
        if not self.machine.path(f"/home/admin/{SYNC}").exists():
            self.run(f"git clone --quiet /srv/project {SYNC}")
        return self.run(f"cd {SYNC}", *lines)

    def commit(self) -> None:
        """Have all that is in the project in its repository."""
        me = "git -c user.name=test -c user.email=test@example.com"
        self.run("cd /srv/project", "git add --all", f"{me} commit -qm all")

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
    require({"git": "git", "sudo": "sudo"})
    folder = tmp_path_factory.mktemp("install")
    mounts = mount_airflow(AIRFLOW, folder)
    make_home(folder / "home", AIRFLOW_CFG)
    copy_project(folder / "project")
    own(folder / "project", ADMIN)
    mounts.update({HOME: [folder / "home"], "/srv/project": [folder / "project"]})
    mounts["/home/python"] = mounts["/opt/python"]
    mounts["/opt/of-uv"] = [Path(uv.find_uv_bin()).parent]
    with boot(mounts) as machine, serving_here(EcrStandIn()) as ecr:
        worker = Worker(machine, folder / "home", ecr)
        add_airflow(machine)
        machine.run("useradd", f"--uid={ADMIN}", "--create-home", "admin")
        machine.write("/etc/sudoers.d/admin", SUDOERS, 0o440)
        variables = environment(ecr.url)
        aws = [f"Environment={name}={value}" for name, value in variables.items()]
        worker.drop_in(SERVICE, "[Service]", *aws)
        worker.drop_in(TIMER, EVERY_THREE_SECONDS)
        for name in THIS_NETWORKS:
            if name in os.environ:
                variables[name] = os.environ[name]
        variables["EDITOR"] = "/usr/local/bin/editor"
        all_have = [f"{name}={value}" for name, value in variables.items()]
        machine.write("/etc/environment", "\n".join([*all_have, ""]))
        # No token of ours is to go to AWS.
        machine.sh(f"echo 127.0.0.1 {HOST} >>/etc/hosts")
        machine.write("/usr/local/bin/editor", EDITOR, 0o755)
        machine.path("/usr/local/bin/uv").symlink_to("/opt/of-uv/uv")
        machine.write("/usr/local/bin/pipx", PIPX, 0o755)
        host = Host(worker, folder / "project", all_have)
        host.run("git init --quiet /srv/project")
        host.commit()
        yield host
        ecr.shutdown()


@pytest.fixture
def bare(booted: Host) -> Host:
    """The same host without what another test has installed."""
    if booted.installed():
        booted.run(
            f"sudo sh {IN_PROJECT} uninstall",
            f"sudo rm -rf {DEFAULT} {OURS} /usr/local/bin/{SYNC}",
        )
    booted.run(f"sudo rm -rf {SYNC} ~airflow/airflow /opt/pipx /opt/uv")
    return booted


@pytest.fixture
def host(booted: Host) -> Host:
    """The same host after the first two of the three commands."""
    if not booted.installed():
        booted.in_clone(MAKE_INSTALL)
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
        (f"install {VALUES} PYTHON=/bin/false", f"/bin/false {NO_PYTHON}"),
        (f"install {VALUES} PYTHON={IN_A_HOME}", f"{IN_A_HOME} {NO_PYTHON}"),
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
    assert (QUICK_INSTALL, QUICK_ENABLE) == (MAKE_INSTALL, ENABLE)
    told = bare.in_clone(MAKE_INSTALL)
    assert f"docker_default  planned  {HOST}" in told
    assert told.endswith(f"\nInstalled. Now:  {ENABLE}\n")
    has_written = worker.password() != ""
    assert not has_written
    is_enabled = f"systemctl is-enabled {TIMER} docker-prune.timer"
    assert bare.attempt(is_enabled) == (1, "disabled\ndisabled\n")
    bare.run(ENABLE)
    wait_for(worker.password)
    bare.run(f"sudo systemctl stop {TIMER}")
    wait_for(worker.is_idle)
    assert worker.result() == ("inactive", "success")
    assert worker.is_fresh()
    assert worker.traces() == []
    assert f"docker_default  written  {HOST}" in bare.run(RUN)
    status, told = bare.attempt(CHECK)
    assert f", AIRFLOW_HOME {HOME}, by import\n" in told, told
    assert (status, "docker_default  unreachable" in told) == (1, True), told
    file = bare.machine.path(DEFAULT).stat()
    assert (file.st_uid, file.st_gid, file.st_mode & 0o777) == (0, UID, 0o640)
    built = f"find {SYNC} ! -user admin; git -C {SYNC} status --porcelain"
    assert bare.run(built) == ""


def test_for_an_airflow_in_a_container(host: Host) -> None:
    """By what is in share/, which has no packages to look for."""
    install = INSTALL_FOR_DOCKER.replace("make", IN_SHARE)
    with container_in(host.machine):
        told = host.in_clone(ADD_DOCKER, install)
    assert f"AIRFLOW_HOME {INSIDE}, " in told
    assert f"docker_default  planned  {HOST}" in told
    host.run(f"sudo rm /etc/systemd/system/{SERVICE}.d/docker.conf")


def test_a_wrong_value_is_told_and_a_right_one_takes_its_place(host: Host) -> None:
    """By what is in share/, with no need for the clone, and whatever root's umask is."""
    install = f"umask 077; sudo {IN_SHARE} install {VALUES}"
    status, told = host.attempt(f"{install} AIRFLOW=/opt/nowhere/airflow")
    assert status == 1
    assert "docker_default: /opt/nowhere/airflow: no such script" in told
    mend = f"mend what it says, in {DEFAULT}, and run this again."
    assert told.endswith(f"\nInstalled, but that failed: {mend}\n")
    assert f"docker_default  planned  {HOST}" in host.run(install)
    assert "\nECR_AIRFLOW_SYNC_AIRFLOW='/opt/airflow/bin/airflow'\n" in host.default()


def test_the_dry_run_is_as_closed_as_the_service(host: Host) -> None:
    closed = f"/run/systemd/system/{SERVICE}.d/closed.conf"
    host.machine.write(closed, "[Service]\nInaccessiblePaths=/opt/airflow\n")
    status, told = host.attempt(f"sudo {IN_SHARE} install")
    host.machine.path(closed).unlink()
    assert status == 1
    assert "docker_default: /opt/airflow/bin/airflow: " in told


def test_an_upgrade_without_values(host: Host) -> None:
    """Changes of one's own stay, but for those to the units."""
    unit, drop_ins = (
        f"/etc/systemd/system/{SERVICE}",
        f"/etc/systemd/system/{SERVICE}.d",
    )
    host.run(
        f"printf '# My own\n' | sudo tee -a {unit}",
        f"printf '# My own\n' | sudo tee {drop_ins}/override.conf",
    )
    kept = host.run(f"sudo cat {DEFAULT} {drop_ins}/*")
    source = host.project / "ecr_airflow_sync.py"
    version = re.compile('^__version__ = ".*"$', re.MULTILINE)
    source.write_text(version.sub('__version__ = "99.0"', source.read_text()))
    shipped = host.project / f"systemd/{SERVICE}"
    shipped.write_text(f"# Of 99.0\n{shipped.read_text()}")
    host.commit()
    told = host.in_clone(PULL, UPGRADE)
    assert f"docker_default  planned  {HOST}" in told
    assert host.run(f"{OURS}/bin/{SYNC} --version").endswith(" 99.0\n")
    assert host.run(f"cat {unit}") == shipped.read_text()
    assert host.run(f"sudo cat {DEFAULT} {drop_ins}/*") == kept


def test_what_was_edited_outlives_upgrade_and_removal(host: Host) -> None:
    """And it decides what the service may read and write."""
    host.run("sudo cp -a /srv/airflow ~airflow/airflow")
    host.run(f"sudo sed -i '/_CONN_ID=.docker_/s/^#//; s|{HOME}|{AT_HOME}|' {DEFAULT}")
    edited = host.default()
    told = host.run(f"sudo {IN_SHARE} install {VALUES} REGION=eu-west-1")
    assert f"Keeping {DEFAULT} as it is, for it was edited.\n" in told
    assert f", AIRFLOW_HOME {AT_HOME}, " in told
    assert "docker_123456789012_us-east-1  planned" in told
    assert host.default() == edited
    drop_ins = f"/etc/systemd/system/{SERVICE}.d"
    may_write = host.run(f"grep -h ReadWritePaths {drop_ins}/*")
    assert may_write == f'ReadWritePaths="-{AT_HOME}"\n'
    host.run(f"sudo systemctl start {SYNC} docker-prune.timer", ENABLE)
    assert len(host.installed()) > 10
    made = [f"/etc/{SYNC}", f"/etc/{SYNC}.ini", f"/etc/sudoers.d/{SYNC}"]
    host.run(f"sudo touch {drop_ins}/mine.conf {' '.join(made)}")
    left = [DEFAULT, drop_ins, *made]
    told = "".join(f"Left {path}, which you made or edited.\n" for path in left)
    assert host.in_clone(UNINSTALL) == told
    assert host.default() == edited
    host.run(f"sudo rm -r {' '.join(left)}")
    assert host.installed() == []
    assert SYNC not in host.run("systemctl list-units --all; systemctl list-timers")
    assert host.in_clone(UNINSTALL) == ""


def test_by_hand(bare: Host) -> None:
    """Each command of the pages, from the virtual environment to the removal."""
    make, install, dry_run, install_units, install_metrics = BY_HAND
    assert install.startswith(install_metrics.replace("'.[metrics]'", ". "))
    told = bare.in_clone(make, install_metrics, dry_run)
    assert f"docker_default  planned  {HOST}" in told
    assert_shared(bare)

    told = bare.run(*UNITS_BY_HAND)
    assert f"docker_default  written  {HOST}, until " in told
    bare.run(f"sudo systemctl stop {TIMER}")
    wait_for(bare.worker.is_idle)
    assert bare.worker.is_fresh()

    bare.run(*CRON_BY_HAND)
    assert LINE in bare.run("sudo crontab -u airflow -l")
    bare.run("sudo crontab -u airflow -r")

    with_metrics = dry_run.replace("--dry-run", "--metrics-file /tmp/of-a-run.prom")
    told = bare.in_clone(UPGRADE_BY_HAND, install_units, with_metrics)
    assert f"docker_default  written  {HOST}, until " in told
    assert "ecr_airflow_sync_success" in bare.run("cat /tmp/of-a-run.prom")

    bare.in_clone(*REMOVE_BY_HAND)
    assert bare.installed() == []


def assert_shared(host: Host) -> None:
    """What the page says of the share folder is there, in the places of the clone.

    Only what is in systemd/ there lies at the top.
    """
    share = host.machine.path(SHARE)
    files = [path for path in share.rglob("*.*") if path.is_file()]
    shared = [path for path in files if path.suffix != ".pyc"]
    for pattern in WHAT_IS_SHARED:
        named = {path.name for path in host.project.glob(pattern)}
        assert named, pattern
        assert named <= {path.name for path in shared}
    for path in shared:
        source = host.project / path.relative_to(share)
        if path.parent == share and not source.exists():
            source = host.project / "systemd" / path.name
        assert path.read_text() == source.read_text(), path


@pytest.mark.parametrize(("install", "place"), list(zip(AS_TOOL, TOOLS)), ids=TOOLS)
def test_as_a_tool_and_an_airflow_home_in_a_home(
    bare: Host, install: str, place: str
) -> None:
    bare.in_clone(install)
    assert "Usage: " in bare.run(f"{SYNC} --help")
    install_sh = f"{place}/share/{SYNC}/install.sh"
    bare.run("sudo cp -a /srv/airflow ~airflow/airflow")
    told = bare.run(f"sudo {install_sh} install {VALUES} AIRFLOW_HOME={AT_HOME}")
    assert f"AIRFLOW_HOME {AT_HOME}" in told
    assert f"\nExecStart={place}/bin/{SYNC}\n" in bare.run(f"systemctl cat {SERVICE}")
    told = bare.run(f"sudo {install_sh} uninstall")
    assert told == f"Left {place}, which you made or edited.\n"


def test_without_installing(bare: Host) -> None:
    assert "Usage: " in bare.in_clone(WITHOUT_INSTALLING)
    assert bare.installed() == []


def test_staged_for_a_package(bare: Host) -> None:
    others = "REGION='us-east-1 eu-west-1' AIRFLOW_HOME='/data/R&D|x'"
    values = f"{VALUES} {others} AIRFLOW_USER=deploy"
    staging = "PREFIX=/usr/lib/ecr DESTDIR=staging"
    bare.run("cp -R /srv/project project")
    told = bare.run(f"cd project && sudo make install {values} {staging}")
    assert told.endswith("\nInstalled. Nothing was tried or started.\n")
    assert bare.installed() == []
    staged = bare.machine.path("/home/admin/project/staging")
    default = (staged / f"etc/default/{SYNC}").read_text()
    assert "\nAIRFLOW_HOME='/data/R&D|x'\n" in default
    assert "\nECR_AIRFLOW_SYNC_REGION='us-east-1 eu-west-1'\n" in default
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
