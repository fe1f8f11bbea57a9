"""The command as it lies in a clone, without an installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import uv

from tests.support.command import MODULE, PACKAGE

USAGE = "Usage: ecr-airflow-sync [OPTIONS]\n"


def test_the_command_runs_from_a_clone() -> None:
    command = [sys.executable, str(MODULE), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(USAGE)


def test_the_command_runs_with_nothing_installed(tmp_path: Path) -> None:
    """uv reads in the file what it needs, and brings that."""
    shutil.copy(MODULE, tmp_path)
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name)
    command = [uv.find_uv_bin(), "run", "--quiet", "--no-project", MODULE.name]
    done = subprocess.run(
        [*command, "--help"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(USAGE), done.stderr
