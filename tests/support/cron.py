"""Debian's cron in a booted machine, with a clock of its own, and the shipped crontab."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import Callable, Iterator

from tests.support.booted_systemd import Machine
from tests.support.worker import ROOT

EXAMPLE = (ROOT / "crontab.example").read_text()
VARIABLES = re.findall(r"^[A-Z_]+=.*\n", EXAMPLE, re.MULTILINE)
UNITS = (f"trial-cron-{number}" for number in itertools.count())


@contextlib.contextmanager
def cron(machine: Machine, at: str, speed: int = 1) -> Iterator[Callable[[str], int]]:
    """Debian's cron from that time of its own on.

    Yields how often it has said CMD (a line begins) or END.
    """
    unit = next(UNITS)
    clock = f"@2026-01-01 {at} x{speed}"
    command = ["faketime", "-f", clock, "cron", "-f", "-L", "15"]
    machine.run("systemd-run", "--quiet", f"--unit={unit}", *command)
    try:
        yield lambda what: machine.journal("--unit", unit).count(f") {what} (")
    finally:
        machine.run("systemctl", "stop", unit)
