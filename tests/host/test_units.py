"""The shipped units on a booted systemd, with a real Airflow and an ECR on loopback."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import time

from tests.support.command import HOST, ROOT, wait_for
from tests.support.ecr_stand_in import Call, Fault
from tests.support.worker import HOME, SERVICE, SYNC, TIMER, UID, UNITS, Worker


def test_systemd_has_nothing_to_say(worker: Worker) -> None:
    units = [f"/etc/systemd/system/{unit.name}" for unit in UNITS]
    assert len(units) == 4
    assert worker.machine.run("systemd-analyze", "verify", *units) == ""


def test_exposure(worker: Worker) -> None:
    analyze = "systemd-analyze security --no-pager --offline=yes --threshold=11"
    for name in (SERVICE, "docker-prune.service"):
        worker.machine.run(*analyze.split(), f"/etc/systemd/system/{name}")


def test_timers_as_shipped(worker: Worker) -> None:
    spread = ("Persistent", "RandomizedDelayUSec", "FixedRandomDelay", "AccuracyUSec")
    times = worker.machine.show(TIMER, "TimersCalendar", "TimersMonotonic", *spread)
    assert "OnCalendar=*-*-* *:00/30:00 " in times.pop("TimersCalendar")
    assert "OnBootUSec=1min " in times.pop("TimersMonotonic")
    assert times == dict(zip(spread, ("yes", "10min", "yes", "1s")))
    times = worker.machine.show("docker-prune.timer", "TimersCalendar", *spread)
    assert "OnCalendar=*-*-* 03:00:00 " in times.pop("TimersCalendar")
    assert times == dict(zip(spread, ("yes", "2h", "yes", "1min")))


def test_the_first_run_comes_within_ten_minutes(worker: Worker) -> None:
    worker.machine.run("systemctl", "start", TIMER)
    show = ("systemctl", "list-timers", "--output=json", TIMER)
    (timer,) = json.loads(worker.machine.run(*show))
    assert 0 < timer["next"] / 1e6 - time.time() < 11 * 60


def test_environment_file_is_the_same_to_systemd_and_sh(worker: Worker) -> None:
    shipped = (ROOT / f"systemd/{SYNC}.default").read_text()
    expected = dict(re.findall("^#?([A-Z_]+)='([^']*)'$", shipped, re.MULTILINE))
    assert len(expected) > 20
    settings = re.findall("^(?:#?[A-Z_]+=|[^#\n])", shipped, re.MULTILINE)
    assert len(expected) == len(settings)
    url = r"mysql://a:%24\$HOME\"p w\"@h/d?x=1;#y"
    expected["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
    lines = [f"{name}='{value}'\n" for name, value in expected.items()]
    worker.machine.write("/etc/trial", "".join(lines))
    run = "systemd-run --quiet --wait --pipe --property=EnvironmentFile=/etc/trial env"
    for command in (run.split(), ["sh", "-c", "set -a; . /etc/trial; env"]):
        told = dict(
            line.split("=", 1) for line in worker.machine.run(*command).splitlines()
        )
        assert expected == {name: told[name] for name in told if name in expected}


def test_by_hand(worker: Worker) -> None:
    """A run, and the folders that Airflow makes for all who read its logs."""
    shutil.rmtree(worker.home / "logs", ignore_errors=True)  # as midnight does
    worker.machine.run("systemctl", "start", SERVICE)
    assert worker.is_fresh()
    held = worker.held()
    found = [held[field] for field in ("conn_type", "host", "login")]
    assert found == ["docker", HOST, "AWS"]
    told = worker.machine.journal("--unit", SERVICE)
    how = f"Airflow 2.11.2, /opt/airflow/bin/airflow, AIRFLOW_HOME {HOME}, by import"
    assert how in told
    assert f"docker_default  written  {HOST}, until " in told
    folders = list(worker.home.glob("logs/**"))
    assert len(folders) > 1
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o755}


def test_what_only_this_command_may_read(worker: Worker) -> None:
    """Its state, and what it has in memory; and a core dump, which would hold the token, of nobody."""
    worker.machine.run("rm", "-rf", f"/var/lib/{SYNC}")
    worker.configure(ECR_AIRFLOW_SYNC_RENEW_BEFORE="6h")
    worker.ecr.faults["us-east-1"] = Fault(delay=2, times=1)
    worker.machine.run("systemctl", "start", "--no-block", SERVICE)
    wait_for(lambda: worker.ecr.calls)
    for pid in [process.split()[0] for process in worker.processes()]:
        limits = worker.machine.path(f"/proc/{pid}/limits").read_text()
        assert re.search("^Max core file size +0 +0 ", limits, re.MULTILINE)
    memory = worker.machine.path(f"/run/{SYNC}").stat()
    wait_for(worker.is_idle)
    assert worker.is_fresh()
    state = worker.machine.path(f"/var/lib/{SYNC}")
    assert state.stat().st_uid == UID
    modes = [path.stat().st_mode & 0o777 for path in (state, *state.iterdir())]
    assert [memory.st_mode & 0o777, *modes] == [0o700, 0o700, 0o600]
    worker.machine.run("rm", "-rf", f"/var/lib/{SYNC}")


def last_fired(worker: Worker, when: str) -> None:
    """What systemd is to believe of the timer's last time."""
    stamps = "/var/lib/systemd/timers"
    worker.machine.run("mkdir", "-p", stamps)
    worker.machine.run("touch", "--date", when, f"{stamps}/stamp-{TIMER}")


def test_fires_again_and_never_in_a_run(worker: Worker) -> None:
    worker.ecr.faults["us-east-1"] = Fault(delay=2, times=1)
    every_second = ("OnCalendar=", "OnCalendar=*:*:*")
    at_once = ("RandomizedDelaySec=0", "AccuracySec=1ms")
    worker.drop_in(TIMER, "[Timer]", *every_second, *at_once)
    last_fired(worker, "now")
    worker.machine.run("systemctl", "start", TIMER)
    wait_for(lambda: worker.ecr.calls)
    time.sleep(1.5)
    assert len(worker.ecr.calls) == 1
    wait_for(lambda: len(worker.ecr.calls) == 2)
    worker.machine.run("systemctl", "stop", TIMER)
    # Joins the one that runs, and waits for it.
    worker.machine.run("systemctl", "start", SERVICE)
    assert worker.ecr.calls == [Call("us-east-1", ())] * 2
    assert worker.is_fresh()


def test_makes_up_for_a_missed_run(worker: Worker) -> None:
    weekly = ("OnCalendar=", "OnCalendar=weekly", "RandomizedDelaySec=0")
    worker.drop_in(TIMER, "[Timer]", *weekly)
    for last, calls in (("now", 0), ("8 days ago", 1)):
        last_fired(worker, last)
        worker.machine.run("systemctl", "start", TIMER)
        time.sleep(1)
        wait_for(worker.is_idle)
        worker.machine.run("systemctl", "stop", TIMER)
        assert len(worker.ecr.calls) == calls
    assert worker.is_fresh()


def test_a_home_where_the_service_may_not_write(worker: Worker) -> None:
    worker.machine.sh("mkdir --parents /data/airflow; chown airflow /data/airflow")
    worker.configure(AIRFLOW_HOME="/data/airflow")
    assert worker.machine.attempt("systemctl", "start", SERVICE).returncode == 1
    assert "Read-only file system" in worker.machine.journal("--unit", SERVICE)


def test_a_user_who_is_not_there(worker: Worker) -> None:
    worker.drop_in(SERVICE, "[Service]", "User=nobody-of-that-name")
    assert worker.machine.attempt("systemctl", "start", SERVICE).returncode == 1
    assert "status=217/USER" in worker.machine.journal("--unit", SERVICE)


def test_takes_too_long(worker: Worker) -> None:
    worker.ecr.faults["us-east-1"] = Fault(delay=9, times=1)
    worker.drop_in(SERVICE, "[Service]", "TimeoutStartSec=2s")
    assert worker.machine.attempt("systemctl", "start", SERVICE).returncode == 1
    assert worker.result() == ("failed", "timeout")


def test_stopped_in_a_run(worker: Worker) -> None:
    before = worker.password()
    with contextlib.closing(sqlite3.connect(worker.home / "airflow.db")) as database:
        # Airflow has to wait, with the token at hand.
        database.execute("BEGIN EXCLUSIVE")
        worker.machine.run("systemctl", "start", "--no-block", SERVICE)
        wait_for(lambda: f"{HOME}/airflow.db" in worker.open_files())
        assert len(worker.processes()) == 2
        worker.machine.run("systemctl", "stop", SERVICE)
        assert worker.processes() == []
    assert worker.result() == ("inactive", "success")
    assert list(worker.machine.path("/tmp").glob(f"*{SYNC}*")) == []
    is_unchanged = worker.password() == before
    assert is_unchanged
