"""`make demo`, as a newcomer runs it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support import airflows
from tests.support.command import ROOT


def test_the_demo_installs_once_and_shows_a_write_a_check_and_a_failure() -> None:
    newest = list(airflows.RECIPES)[-1]
    try:
        airflows.environment(newest)
    except airflows.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    done = subprocess.run(
        ["make", "demo", f"VENV={sys.prefix}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    assert "Installing" not in done.stdout
    statuses = re.findall(r"^docker_default  (\w+)", done.stdout, re.MULTILINE)
    assert statuses == ["written", "fine", "failed"]
    assert re.search(
        r"^docker_default: ECR in us-east-1: ExpiredTokenException: .*; renew the AWS "
        r"credentials .*; the token written there at .* is valid for 1[12] h more$",
        done.stdout,
        re.MULTILINE,
    )
