"""How the source is laid out: imports run one way, and each room has its job."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.command import PACKAGE

# From the ground up: a room imports from those above it in this table only.
IMPORTS = {
    "model": "",
    "masking": "",
    "errors": "model",
    "leftovers": "",
    "side_by_side": "errors leftovers",
    "targets": "errors model",
    "config_file": "errors model targets",
    "aws_errors": "errors masking",
    "identities": "errors model",
    "tokens": "aws_errors errors identities model side_by_side",
    "in_airflow": "",
    "describe_airflow": "",
    "transaction": "",
    "airflow_syntax": "errors model",
    "airflow_errors": "airflow_syntax errors masking",
    "interpreter": "airflow_syntax errors masking side_by_side",
    "ownership": "errors masking model",
    "running_airflow": "airflow_errors airflow_syntax errors interpreter masking model",
    "airflow": "airflow_errors airflow_syntax errors interpreter masking model "
    "running_airflow",
    "check": "errors masking model side_by_side",
    "state": "errors model",
    "metrics": "errors model",
    "report": "model",
    "help_page": "",
    "options": "airflow_syntax config_file errors help_page model targets",
    "process": "",
}
AWS = {"aws_errors", "identities", "tokens"}
AIRFLOW = {
    *("airflow", "airflow_errors", "airflow_syntax", "running_airflow"),
    *("describe_airflow", "in_airflow", "interpreter", "transaction"),
}
# pkg_resources before Python 3.8; Airflow itself, where the program is for it.
STANDARD = """\
atexit contextlib functools gc importlib json os re resource runpy shutil signal sys
tempfile threading traceback types typing urllib.parse pkg_resources
airflow airflow.bin.cli airflow.utils airflow.models airflow.utils.log.secrets_masker
"""


def list_imports(room: str) -> set[str]:
    """The modules that a file names in its imports, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(Path(PACKAGE, f"{room}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_every_room_is_in_the_table() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms == set(IMPORTS)


@pytest.mark.parametrize("room", IMPORTS)
def test_imports_run_one_way(room: str) -> None:
    imports = list_imports(room)
    others = {name.lstrip(".") for name in imports if name.startswith(".")}
    assert others == set(IMPORTS[room].split())
    rooms = list(IMPORTS)
    assert others <= set(rooms[: rooms.index(room)])
    assert not any("ecr_airflow_sync" in name for name in imports)


def test_aws_and_airflow_know_nothing_of_each_other() -> None:
    for room in AWS:
        assert not AIRFLOW & set(IMPORTS[room].split())
    for room in AIRFLOW:
        assert not AWS & set(IMPORTS[room].split())
        assert not any(name.startswith("boto") for name in list_imports(room))


@pytest.mark.parametrize("program", ["in_airflow", "describe_airflow", "transaction"])
def test_what_airflow_runs_needs_the_standard_library_only(program: str) -> None:
    assert list_imports(program) <= set(STANDARD.split())
