"""The shipped crontab.example in Debian's cron, under faketime, as the user airflow."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.support.booted_systemd import Machine
from tests.support.command import wait_for
from tests.support.cron import (
    CRON_D,
    EXAMPLE,
    LINE,
    MAIL,
    PRUNE,
    VARIABLES,
    cron,
    install,
    prepare_cron,
)
from tests.support.ecr_stand_in import Call, Fault
from tests.support.worker import SYNC, TIMER, Worker


@pytest.fixture
def machine(worker: Worker) -> Iterator[Machine]:
    """The worker's machine, with no wait for a splay."""
    worker.configure(ECR_AIRFLOW_SYNC_SPLAY="0")
    prepare_cron(worker.machine)
    yield worker.machine
    worker.machine.sh("rm -f /var/spool/cron/crontabs/* /etc/cron.d/*")


def test_syntax(machine: Machine) -> None:
    prunes_too = EXAMPLE.replace(f"#{PRUNE}", PRUNE)
    for crontab in (EXAMPLE, prunes_too):
        machine.write("/etc/crontab.trial", crontab)
        told = machine.run("crontab", "-n", "/etc/crontab.trial")
        assert "successfully checked" in told
    assert CRON_D.replace("* airflow ", "* ") == LINE
    assert "%" not in LINE + PRUNE
    assert EXAMPLE.endswith("\n")


def test_fires_from_a_crontab_and_an_overlapping_one_is_skipped(
    worker: Worker, machine: Machine
) -> None:
    worker.ecr.faults["us-east-1"] = Fault(delay=8, times=1)
    install(machine, "airflow", EXAMPLE)
    with cron(machine, "00:29:58", speed=300) as said:  # half an hour in six seconds
        wait_for(lambda: said("CMD") == 2 and said("END") == 1)
        assert worker.ecr.calls == [Call("us-east-1", ())]
        ours = f"python /opt/{SYNC}/"
        assert sum(ours in process for process in worker.processes()) == 1
        wait_for(worker.is_fresh)
    assert machine.path(MAIL).read_text() == ""


def test_failure_is_mailed(worker: Worker, machine: Machine) -> None:
    """From /etc/cron.d, where the line has a user in it."""
    denied = Fault(code="AccessDeniedException", message="Not you")
    worker.ecr.faults["us-east-1"] = denied
    machine.write(f"/etc/cron.d/{SYNC}", VARIABLES + CRON_D)
    with cron(machine, "00:29:58") as said:
        wait_for(lambda: said("END"))
    _, _, told = machine.path(MAIL).read_text().partition("\n\n")
    assert told.startswith(
        "docker_default: ECR in us-east-1: AccessDeniedException: Not you; "
        "allow this identity ecr:GetAuthorizationToken on resource *"
    )
    assert told.count("\n") == 1


def test_rests_where_the_timer_is_active(worker: Worker, machine: Machine) -> None:
    worker.drop_in(TIMER, "[Timer]", "OnCalendar=", "OnCalendar=2100-01-01")
    machine.run("systemctl", "start", TIMER)
    install(machine, "airflow", EXAMPLE)
    with cron(machine, "00:29:58") as said:
        wait_for(lambda: said("END"))
    assert worker.ecr.calls == []
    assert machine.path(MAIL).read_text() == ""
