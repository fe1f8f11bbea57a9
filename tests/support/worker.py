"""A worker host with an Airflow, and ecr-airflow-sync installed on it."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uv

from tests.support import airflows
from tests.support.booted_systemd import Machine
from tests.support.command import ROOT
from tests.support.database import read_connection
from tests.support.ecr_stand_in import EcrStandIn, environment

AIRFLOW = "2.11.2"
HOME = "/srv/airflow"  # AIRFLOW_HOME
SYNC = "ecr-airflow-sync"
SERVICE, TIMER = f"{SYNC}.service", f"{SYNC}.timer"
DEFAULT = f"/etc/default/{SYNC}"
UID = 50000
UNITS = sorted(
    path
    for path in (ROOT / "systemd").iterdir()
    if path.suffix in (".service", ".timer")
)
IN_CONTAINER = "sleep infinity"  # what a container of the user airflow's runs itself


@dataclass(frozen=True)
class Worker:
    """A booted worker that asks ``ecr``. Its AIRFLOW_HOME is ``home`` on the host."""

    machine: Machine
    home: Path
    ecr: EcrStandIn

    def configure(self, **more: str) -> None:
        """The shipped environment file, with what this Airflow and this ECR need."""
        variables = {
            **airflows.variables(Path(HOME)),
            **environment(self.ecr.url),
            **more,
        }
        lines = [f"{name}='{value}'\n" for name, value in variables.items()]
        shipped = (ROOT / f"systemd/{SYNC}.default").read_text()
        self.machine.write(DEFAULT, "\n".join([shipped, *lines]), 0o640)
        self.machine.run("chgrp", "airflow", DEFAULT)

    def drop_in(self, unit: str, *lines: str) -> None:
        """Add these lines to a unit, until the next start of the machine."""
        path = f"/run/systemd/system/{unit}.d/test.conf"
        self.machine.write(path, "\n".join(lines) + "\n")
        self.machine.run("systemctl", "daemon-reload")

    def tokens(self) -> list[str]:
        return list(self.ecr.issued)

    @property
    def database(self) -> str:
        """The URL of Airflow's, on the host."""
        return f"sqlite:///{self.home}/airflow.db"

    def held(self) -> dict[str, Any]:
        """What docker_default holds."""
        return read_connection(self.database, "docker_default") or {}

    def password(self) -> str:
        return str(self.held().get("password", ""))

    def is_fresh(self) -> bool:
        """Whether docker_default holds ECR's last token. (An assert of its own would print it.)"""
        return [self.password()] == self.tokens()[-1:]

    def processes(self) -> list[str]:
        """What runs as airflow, by process id: not a container, nor what is dead in it."""
        show = "ps --user=airflow --format=stat=,pid=,args="
        rows = self.machine.attempt(*show.split()).stdout.splitlines()
        living = [row.split(None, 1)[1] for row in rows if row[0] != "Z"]
        return [row for row in living if not row.endswith(IN_CONTAINER)]

    def open_files(self) -> str:
        """What those processes have open."""
        folders = [f"/proc/{row.split()[0]}/fd" for row in self.processes()]
        return self.machine.attempt("ls", "-l", *folders).stdout

    def result(self) -> tuple[str, str]:
        """The service's state, and how its last run ended."""
        told = self.machine.show(SERVICE, "ActiveState", "Result")
        return told["ActiveState"], told["Result"]

    def is_idle(self) -> bool:
        """Whether no run is going on."""
        return self.result()[0] in ("inactive", "failed")

    def traces(self) -> list[str]:
        """The files with part of a token in them, and the journal if it has one."""
        forms = [form for t in self.tokens() for form in (t, _base64(f"AWS:{t}"))]
        pieces = [form[200:260] for form in forms]
        lines = "".join(f"{piece}\n" for piece in pieces)
        self.machine.write("/media/pieces", lines, 0o600)
        places = f"/dev/shm /etc /home /mnt /opt /run /srv {HOME} /tmp /var"
        search = "-xdev -type f -newer /etc/fstab -exec grep -slF -f /media/pieces {} +"
        files = self.machine.attempt("find", *places.split(), *search.split())
        journal = self.machine.journal()
        leaked = ["journal"] * any(piece in journal for piece in pieces)
        return files.stdout.splitlines() + leaked


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def own(folder: Path, uid: int) -> None:
    """Give a folder to a user, with all that is in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid)


def make_home(folder: Path, airflow_cfg: str) -> None:
    """An AIRFLOW_HOME for the user airflow, with that text in its file."""
    airflows.home(AIRFLOW, folder)
    (folder / "airflow.cfg").write_text(airflow_cfg)
    own(folder, UID)


def mount_airflow(version: str, folder: Path) -> dict[str, list[Path]]:
    """Where in the machine that Airflow and its Python are, or skip the test.

    Not where they are here: home directories are hidden from the service.
    """
    try:
        airflow = airflows.environment(version).resolve()
    except airflows.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    moved = _move(airflow, "/opt/airflow", "airflow", folder)
    return {"/opt/python": [_base(airflow)], "/opt/airflow": [moved, airflow]}


def mount_all(version: str, folder: Path) -> dict[str, list[Path]]:
    """The same, with the command beside it."""
    mounts = mount_airflow(version, folder)
    ours = folder / "venv"
    source = folder / "source"  # because building leaves files beside it
    copy_project(source)
    python = str(mounts["/opt/airflow"][1] / "bin/python")
    make = ["venv", "--quiet", "--python", python, str(ours)]
    install = ["pip", "install", "--quiet", "--compile-bytecode", "--python", str(ours)]
    for command in (make, [*install, ".[metrics]"]):
        subprocess.run([uv.find_uv_bin(), *command], check=True, cwd=source)
    moved = _move(ours, f"/opt/{SYNC}", SYNC, folder)
    return {**mounts, f"/opt/{SYNC}": [moved, ours]}


def mount_client(folder: Path) -> list[Path]:
    """The layers of airflowctl in /opt/airflowctl, with the Python of Airflow 3."""
    client = airflows.environment(airflows.AIRFLOWCTL).resolve()
    return [_move(client, "/opt/airflowctl", "airflowctl", folder), client]


def copy_project(to: Path) -> None:
    """Copy the project without what is made in it."""
    made = (".*", "*.egg-info", "build", "dist", "__pycache__")
    shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*made))


def _base(environment: Path) -> Path:
    """The folder of the Python that a virtual environment is made with."""
    python = str(environment / "bin/python")
    show = [python, "-c", "import sys; print(sys.base_prefix)"]
    return Path(subprocess.check_output(show, text=True).strip())


def _move(environment: Path, to: str, script: str, folder: Path) -> Path:
    """What in a virtual environment has its own path in it, or its Python's, for a new place."""
    layer = folder / f"{script}-moved"
    (layer / "bin").mkdir(parents=True)
    configuration = (environment / "pyvenv.cfg").read_text()
    configuration = configuration.replace(str(_base(environment)), "/opt/python")
    (layer / "pyvenv.cfg").write_text(configuration)
    _, _, program = (environment / f"bin/{script}").read_text().partition("\n")
    (layer / f"bin/{script}").write_text(f"#!{to}/bin/python\n{program}")
    (layer / f"bin/{script}").chmod(0o755)
    python = (environment / "bin/python").resolve().name
    (layer / "bin/python").symlink_to(f"/opt/python/bin/{python}")
    return layer


def add_airflow(machine: Machine) -> None:
    """A user airflow, and a Python that finds its library."""
    machine.sh(f"useradd --uid {UID} --create-home --shell /bin/false airflow")
    # An interpreter may look for its own library where it was before.
    machine.write("/etc/ld.so.conf.d/python.conf", "/opt/python/lib\n")
    machine.run("ldconfig")


def install_units(machine: Machine) -> None:
    """Put the shipped units in place."""
    for unit in UNITS:
        machine.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
    machine.run("systemctl", "daemon-reload")
