"""The shipped crontab.example in Debian's cron, under faketime, as the user airflow."""

from __future__ import annotations

import re
import shutil
from typing import Iterator

import pytest

from tests.support.booted_systemd import Machine, wait_until
from tests.support.cron import EXAMPLE, VARIABLES, cron
from tests.support.ecr_stand_in import Call, Fault
from tests.support.fake_docker import CALLS, FAKE_DOCKER, PRUNES
from tests.support.worker import SYNC, Worker

pytestmark = [
    pytest.mark.skipif(not shutil.which("cron", path="/usr/sbin"), reason="needs cron"),
    pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime"),
]

LINE, CRON_D, PRUNE = re.findall(r"^#?((?:[*\d/]+ ){5}.*\n)", EXAMPLE, re.MULTILINE)
MAIL = "/mnt/mail"

# Plays sendmail as Debian's cron calls it, and refuses all else.
SENDMAIL = f"""#!/bin/sh
[ "$*" = "-FCronDaemon -i -B8BITMIME -oem root" ] || {{ echo "refused: $*" >>{MAIL}; exit 64; }}
cat >>{MAIL}
"""


@pytest.fixture
def machine(worker: Worker) -> Iterator[Machine]:
    """The worker's machine with none of the host's cron lines, and no wait for a splay."""
    worker.configure(ECR_AIRFLOW_SYNC_SPLAY="0")
    worker.machine.run("sh", "-c", f"rm -f /etc/crontab /etc/cron.d/* {CALLS}")
    worker.machine.write("/usr/sbin/sendmail", SENDMAIL, 0o755)
    worker.machine.write(MAIL, "", 0o666)
    yield worker.machine
    worker.machine.run("sh", "-c", "rm -f /var/spool/cron/crontabs/* /etc/cron.d/*")


def install(machine: Machine, user: str, crontab: str) -> None:
    machine.write("/etc/crontab.trial", crontab)
    machine.run(
        "setpriv", f"--reuid={user}", "--clear-groups", "crontab", "/etc/crontab.trial"
    )


def test_syntax(worker: Worker) -> None:
    prunes_too = EXAMPLE.replace(f"#{PRUNE}", PRUNE)
    for crontab in (EXAMPLE, prunes_too):
        worker.machine.write("/etc/crontab.trial", crontab)
        assert "successfully checked" in worker.machine.run(
            "crontab", "-n", "/etc/crontab.trial"
        )
    assert CRON_D.replace("* airflow ", "* ") == LINE
    assert "%" not in LINE + PRUNE
    assert EXAMPLE.endswith("\n")


@pytest.mark.parametrize("form", ["crontab", "cron.d"])
def test_fires(worker: Worker, machine: Machine, form: str) -> None:
    if form == "crontab":
        install(machine, "airflow", EXAMPLE)
    else:
        machine.write(f"/etc/cron.d/{SYNC}", "".join([*VARIABLES, CRON_D]))
    with cron(machine, "00:29:58") as said:
        wait_until(lambda: said("END"))
    assert worker.ecr.calls == [Call("us-east-1", ())]
    assert worker.is_fresh()
    assert machine.path(MAIL).read_text() == ""


def test_overlapping_one_is_skipped(worker: Worker, machine: Machine) -> None:
    worker.ecr.faults["us-east-1"] = Fault(delay=8, times=1)
    install(machine, "airflow", EXAMPLE)
    with cron(machine, "00:29:58", speed=300) as said:  # half an hour in six seconds
        wait_until(lambda: said("CMD") == 2 and said("END") == 1)
        assert len(worker.ecr.calls) == 1
        assert (
            sum(
                "python /opt/ecr-airflow-sync/" in process
                for process in worker.processes()
            )
            == 1
        )
        wait_until(worker.is_fresh)
    assert machine.path(MAIL).read_text() == ""


def test_failure_is_mailed(worker: Worker, machine: Machine) -> None:
    worker.ecr.faults["us-east-1"] = Fault(
        code="AccessDeniedException", message="Not you"
    )
    install(machine, "airflow", EXAMPLE)
    with cron(machine, "00:29:58") as said:
        wait_until(lambda: said("END"))
    _, _, told = machine.path(MAIL).read_text().partition("\n\n")
    assert told.startswith(
        "docker_default: ECR in us-east-1: AccessDeniedException: Not you; "
        "allow this identity ecr:GetAuthorizationToken on resource *"
    )
    assert told.count("\n") == 1


def test_rests_where_the_timer_is_active(worker: Worker, machine: Machine) -> None:
    worker.drop_in(f"{SYNC}.timer", "[Timer]", "OnCalendar=", "OnCalendar=2100-01-01")
    machine.run("systemctl", "start", f"{SYNC}.timer")
    install(machine, "airflow", EXAMPLE)
    with cron(machine, "00:29:58") as said:
        wait_until(lambda: said("END"))
    assert worker.ecr.calls == []
    assert machine.path(MAIL).read_text() == ""


def test_prune_line(machine: Machine) -> None:
    machine.write("/usr/local/bin/docker", FAKE_DOCKER, 0o755)
    machine.write("/run/docker.sock", "", 0o600)
    install(machine, "root", "".join([*VARIABLES, PRUNE]))
    with cron(machine, "03:16:58") as said:
        wait_until(lambda: said("END"))
    assert machine.path(CALLS).read_text().splitlines() == [
        f"root: {prune}" for prune in PRUNES
    ]
    assert machine.path(MAIL).read_text() == ""
