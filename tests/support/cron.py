"""Debian's cron in a booted machine, with a clock of its own, and the shipped crontab."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import Callable, Iterator

from tests.support.booted_systemd import Machine, require
from tests.support.command import ROOT

EXAMPLE = (ROOT / "crontab.example").read_text()
VARIABLES = "".join(re.findall(r"^[A-Z_]+=.*\n", EXAMPLE, re.MULTILINE))
LINE, CRON_D, PRUNE = re.findall(r"^#?((?:[*\d/]+ ){5}.*\n)", EXAMPLE, re.MULTILINE)
MAIL = "/mnt/mail"
UNITS = (f"trial-cron-{number}" for number in itertools.count())

# Plays sendmail as Debian's cron calls it, and refuses all else.
SENDMAIL = f"""#!/bin/sh
[ "$*" = "-FCronDaemon -i -B8BITMIME -oem root" ] || {{ echo "refused: $*" >>{MAIL}; exit 64; }}
cat >>{MAIL}
"""


def prepare_cron(machine: Machine) -> None:
    """Leave none of the host's cron lines, and have mail kept. Skip where cron is missing."""
    require({"cron": "cron", "faketime": "faketime"})
    machine.sh("rm -f /etc/crontab /etc/cron.d/* /var/spool/cron/crontabs/*")
    machine.write("/usr/sbin/sendmail", SENDMAIL, 0o755)
    machine.write(MAIL, "", 0o666)


def install(machine: Machine, user: str, crontab: str) -> None:
    machine.write("/etc/crontab.trial", crontab)
    machine.run("crontab", "-u", user, "/etc/crontab.trial")


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
