"""A worker with Airflow 2.11.2 and ecr-airflow-sync, installed as the README says."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

import uv
from cryptography.fernet import Fernet

from tests.support import airflows
from tests.support.booted_systemd import Machine
from tests.support.ecr_stand_in import EcrStandIn, environment

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = "2.11.2"
UID = 50000
SYNC = "ecr-airflow-sync"
UNITS = sorted(
    path
    for path in (ROOT / "systemd").iterdir()
    if path.suffix in (".service", ".timer")
)


@dataclass(frozen=True)
class Worker:
    """A booted worker that asks ``ecr``. Its AIRFLOW_HOME is ``home`` on the host."""

    machine: Machine
    home: Path
    ecr: EcrStandIn

    def configure(self, **more: str) -> None:
        """The shipped environment file, with what this Airflow and this ECR need."""
        variables = {
            "AIRFLOW__CORE__FERNET_KEY": airflows.FERNET_KEY,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////srv/airflow/airflow.db",
            **environment(self.ecr.url),
            **more,
        }
        lines = [f"{name}='{value}'" for name, value in variables.items()]
        text = (ROOT / f"systemd/{SYNC}.default").read_text() + "\n".join(lines) + "\n"
        self.machine.write(f"/etc/default/{SYNC}", text, 0o640)
        self.machine.run("chgrp", "airflow", f"/etc/default/{SYNC}")

    def drop_in(self, unit: str, *lines: str) -> None:
        self.machine.write(
            f"/run/systemd/system/{unit}.d/test.conf", "\n".join(lines) + "\n"
        )
        self.machine.run("systemctl", "daemon-reload")

    def tokens(self) -> list[str]:
        return [token for tokens in self.ecr.tokens.values() for token in tokens]

    def password(self) -> str:
        """What docker_default holds, decrypted."""
        with sqlite3.connect(self.home / "airflow.db") as database:
            rows = database.execute("SELECT password FROM connection").fetchall()
        return Fernet(airflows.FERNET_KEY).decrypt(rows[0][0]).decode() if rows else ""

    def is_fresh(self) -> bool:
        """Whether docker_default holds ECR's last token. (An assert of its own would print it.)"""
        return self.password() == self.tokens()[-1]

    def processes(self) -> list[str]:
        """The arguments of what runs as airflow."""
        return self.machine.attempt(
            "pgrep", "--list-full", "--uid", "airflow"
        ).stdout.splitlines()

    def open_files(self) -> str:
        """What those processes have open."""
        pids = [line.split()[0] for line in self.processes()]
        return self.machine.attempt(
            "ls", "-l", *(f"/proc/{pid}/fd" for pid in pids)
        ).stdout

    def result(self) -> tuple[str, str]:
        """The service's state, and how its last run ended."""
        told = self.machine.show(f"{SYNC}.service", "ActiveState", "Result")
        return told["ActiveState"], told["Result"]

    def is_idle(self) -> bool:
        """Whether no run is going on."""
        return self.result()[0] in ("inactive", "failed")

    def traces(self) -> list[str]:
        """The files with part of a token in them, and the journal if it has one."""
        forms = [form for t in self.tokens() for form in (t, _base64(f"AWS:{t}"))]
        pieces = [form[200:260] for form in forms]
        self.machine.write(
            "/media/pieces", "".join(f"{piece}\n" for piece in pieces), 0o600
        )
        places = "/dev/shm /etc /home /mnt /opt /run /srv /srv/airflow /tmp /var"
        search = "-xdev -type f -newer /etc/fstab -exec grep -lF -f /media/pieces {} +"
        files = self.machine.attempt("find", *places.split(), *search.split())
        journal = self.machine.journal()
        return files.stdout.splitlines() + ["journal"] * any(
            p in journal for p in pieces
        )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def airflow_alone(airflow: Path, folder: Path) -> dict[str, list[Path]]:
    """Where in the machine Airflow and its Python are.

    Not where they are here: home directories are hidden from the service.
    """
    base = _base(airflow)
    return {
        "/opt/python": [Path(base)],
        "/opt/airflow": [
            _moved(airflow, "/opt/airflow", "airflow", base, folder),
            airflow,
        ],
    }


def installed(airflow: Path, folder: Path) -> dict[str, list[Path]]:
    """The same, with the command beside it."""
    ours = folder / "venv"
    source = folder / "source"  # because building leaves files beside it
    copy_tree(source)
    python = str(airflow / "bin/python")
    install = ["pip", "install", "--quiet", "--compile-bytecode", "--python", str(ours)]
    for command in (
        ["venv", "--quiet", "--python", python, str(ours)],
        [*install, "."],
    ):
        subprocess.run([uv.find_uv_bin(), *command], check=True, cwd=source)
    moved = _moved(ours, f"/opt/{SYNC}", SYNC, _base(airflow), folder)
    return {**airflow_alone(airflow, folder), f"/opt/{SYNC}": [moved, ours]}


def copy_tree(to: Path) -> None:
    """Copy the project without what is made in it."""
    shutil.copytree(
        ROOT,
        to,
        ignore=shutil.ignore_patterns(
            ".*", "*.egg-info", "build", "dist", "__pycache__"
        ),
    )


def _base(environment: Path) -> str:
    """The folder of the Python that a virtual environment is made with."""
    show_base = [
        str(environment / "bin/python"),
        "-c",
        "import sys; print(sys.base_prefix)",
    ]
    return subprocess.run(
        show_base, check=True, capture_output=True, text=True
    ).stdout.strip()


def _moved(environment: Path, to: str, script: str, base: str, folder: Path) -> Path:
    """What in a virtual environment has its own path in it, or its Python's, for a new place."""
    layer = folder / f"{script}-moved"
    (layer / "bin").mkdir(parents=True)
    for name in ("pyvenv.cfg", f"bin/{script}"):
        text = (environment / name).read_text()
        (layer / name).write_text(
            text.replace(str(environment), to).replace(base, "/opt/python")
        )
        (layer / name).chmod(0o755)
    python = (environment / "bin/python").resolve().name
    (layer / "bin/python").symlink_to(f"/opt/python/bin/{python}")
    return layer


def add_airflow(machine: Machine) -> None:
    """A user airflow, and a Python that finds its library."""
    machine.run(
        "useradd",
        "--uid",
        str(UID),
        "--create-home",
        "--shell",
        "/bin/false",
        "airflow",
    )
    # An interpreter may look for its own library where it was before.
    machine.write("/etc/ld.so.conf.d/python.conf", "/opt/python/lib\n")
    machine.run("ldconfig")


def set_up(machine: Machine) -> None:
    """What the README says to do as root, and a user airflow."""
    add_airflow(machine)
    for unit in UNITS:
        machine.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
    machine.run("systemctl", "daemon-reload")
