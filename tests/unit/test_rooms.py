"""How the source is laid out: imports run one way, and each room has its job."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "_ecr_airflow_sync"
COMMAND = ROOT / "ecr_airflow_sync.py"

# From the ground up: a room imports from those above it in this table only.
IMPORTS: dict[str, set[str]] = {
    "model": set(),
    "masking": set(),
    "errors": {"model"},
    "leftovers": set(),
    "side_by_side": {"errors", "leftovers"},
    "targets": {"errors", "model"},
    "config_file": {"errors", "model", "targets"},
    "aws_errors": {"errors", "masking"},
    "identities": {"errors", "model"},
    "tokens": {"aws_errors", "errors", "identities", "model", "side_by_side"},
    "in_airflow": set(),
    "describe_airflow": set(),
    "transaction": set(),
    "airflow_syntax": {"errors", "model"},
    "airflow_errors": {"airflow_syntax", "errors", "masking"},
    "interpreter": {"airflow_syntax", "errors", "masking", "side_by_side"},
    "ownership": {"errors", "model"},
    "running_airflow": {
        "airflow_errors",
        "airflow_syntax",
        "errors",
        "interpreter",
        "masking",
        "model",
    },
    "airflow": {
        "airflow_errors",
        "airflow_syntax",
        "errors",
        "interpreter",
        "masking",
        "model",
        "running_airflow",
    },
    "check": {"errors", "masking", "model", "side_by_side"},
    "state": {"errors", "model"},
    "metrics": {"errors", "model"},
    "report": {"model"},
    "help_page": set(),
    "options": {
        "airflow_syntax",
        "config_file",
        "errors",
        "help_page",
        "model",
        "targets",
    },
    "process": set(),
}
STANDARD = {
    *(
        "atexit",
        "contextlib",
        "gc",
        "importlib",
        "json",
        "os",
        "re",
        "resource",
        "runpy",
    ),
    *("functools", "urllib.parse"),
    *("shutil", "signal", "sys", "tempfile", "threading", "traceback", "typing"),
}
OF_AIRFLOW = {"airflow", "airflow.bin.cli", "airflow.utils"}
AWS = {"aws_errors", "identities", "tokens"}
AIRFLOW = {
    *("airflow", "airflow_errors", "airflow_syntax", "running_airflow"),
    *("describe_airflow", "in_airflow", "interpreter", "transaction"),
}


def list_imports(path: Path) -> set[str]:
    """The modules that a file names in its imports, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def list_rooms(imports: set[str]) -> set[str]:
    return {name.lstrip(".") for name in imports if name.startswith(".")}


def test_every_room_is_in_the_table() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms == set(IMPORTS)


@pytest.mark.parametrize("room", IMPORTS)
def test_imports_run_one_way(room: str) -> None:
    imports = list_imports(PACKAGE / f"{room}.py")
    assert list_rooms(imports) == IMPORTS[room]
    rooms = list(IMPORTS)
    assert all(rooms.index(other) < rooms.index(room) for other in IMPORTS[room])
    assert not any("ecr_airflow_sync" in name for name in imports)


def test_aws_and_airflow_know_nothing_of_each_other() -> None:
    for room in AWS:
        assert not IMPORTS[room] & AIRFLOW
    for room in AIRFLOW:
        assert not IMPORTS[room] & AWS
        imports = list_imports(PACKAGE / f"{room}.py")
        assert not any(name.startswith("boto") for name in imports)


@pytest.mark.parametrize("program", ["in_airflow", "describe_airflow", "transaction"])
def test_what_airflow_runs_needs_the_standard_library_only(program: str) -> None:
    imports = list_imports(PACKAGE / f"{program}.py")
    # pkg_resources before Python 3.8; Airflow itself, where the program is for it.
    assert imports - STANDARD <= {"pkg_resources", *OF_AIRFLOW}


def test_the_command_runs_from_a_clone() -> None:
    command = [sys.executable, str(COMMAND), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ecr-airflow-sync [OPTIONS]\n")


def test_the_command_runs_with_nothing_installed(tmp_path: Path) -> None:
    """uv reads in the file what it needs, and brings that."""
    shutil.copy(COMMAND, tmp_path)
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name)
    command = [uv.find_uv_bin(), "run", "--quiet", "--no-project", COMMAND.name]
    done = subprocess.run(
        [*command, "--help"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("Usage: ecr-airflow-sync [OPTIONS]\n"), done.stderr
