"""The command as it lies in a clone, without an installation."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import uv

from tests.support.command import MODULE, PACKAGE


def test_the_command_runs_with_nothing_installed(tmp_path: Path) -> None:
    """uv reads in the file what it needs, and brings that."""
    shutil.copy(MODULE, tmp_path)
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name)
    done = subprocess.run(
        [uv.find_uv_bin(), "run", "--quiet", "--no-project", MODULE.name, "--help"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("Usage: ecr-airflow-sync [OPTIONS]\n"), done.stderr
