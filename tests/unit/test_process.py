"""What ends the command, wherever a signal meets it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.command import ROOT

ENDS = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: -signal.SIGINT}


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_is_not_lost_in_an_import(number: signal.Signals) -> None:
    program = [sys.executable, "-m", "tests.support.signal_in_import", str(int(number))]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, timeout=30)
    assert ended.returncode == ENDS[number]
