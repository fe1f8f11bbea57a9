"""docs/monitoring.md on a booted systemd: its drop-ins, its metrics file, its rules."""

from __future__ import annotations

import re

import yaml

from tests.support.command import wait_for
from tests.support.ecr_stand_in import Fault
from tests.support.pages import blocks
from tests.support.worker import SERVICE, Worker

PAGE = "docs/monitoring.md"
(ON_FAILURE,) = blocks(PAGE, "Mail", "ini")
(MAY_WRITE,) = blocks(PAGE, "Prometheus", "ini")
(SETTING,) = blocks(PAGE, "Prometheus", "sh")
(RULES,) = blocks(PAGE, "Prometheus", "yaml")
(QUERY,) = blocks(PAGE, "Prometheus")
(ON_SUCCESS,) = blocks(PAGE, "A dead man's switch", "ini")
NAME, METRICS_FILE = SETTING.strip().replace("'", "").split("=")

# The reader's own unit, and curl where there is no such host as checks.example.com.
NOTIFY = "[Service]\nType=oneshot\nExecStart=/bin/echo %i has failed\n"
CURL = "#!/bin/sh\necho called: curl $*\n"
DENIED = (
    "docker_default: ECR in us-east-1: AccessDeniedException: No; allow this identity "
    "ecr:GetAuthorizationToken on resource *"
)
CALLED = "called: curl -fsS -m 10 https://checks.example.com/ecr-airflow-sync"


def test_who_is_told_of_a_success_and_of_a_failure(worker: Worker) -> None:
    machine = worker.machine
    machine.write("/etc/systemd/system/notify@.service", NOTIFY)
    machine.write("/usr/bin/curl", CURL, 0o755)
    folder = METRICS_FILE.rpartition("/")[0]
    machine.sh(f"mkdir -p {folder}; chown airflow {folder}")
    worker.configure(**{NAME: METRICS_FILE})
    worker.drop_in(SERVICE, ON_FAILURE, MAY_WRITE, ON_SUCCESS)
    assert machine.run("systemd-analyze", "verify", SERVICE) == ""

    machine.run("systemctl", "start", SERVICE)
    assert machine.journal().count(CALLED) == 1
    assert machine.path(METRICS_FILE).stat().st_mode & 0o777 == 0o644
    metrics = read_metrics(worker)
    assert metrics["ecr_airflow_sync_success"] == ("conn_id", 1)

    before = worker.password()
    worker.ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="No")
    assert machine.attempt("systemctl", "start", SERVICE).returncode == 1
    assert worker.result() == ("failed", "exit-code")
    assert DENIED in machine.journal("--unit", SERVICE)
    is_unchanged = worker.password() == before
    assert is_unchanged
    wait_for(lambda: f"{SERVICE} has failed" in machine.journal())
    assert machine.journal().count(CALLED) == 1
    failed = read_metrics(worker)
    assert failed["ecr_airflow_sync_success"] == ("conn_id", 0)
    expiry = "ecr_airflow_sync_token_expiry_timestamp_seconds"
    assert failed[expiry] == metrics[expiry]

    assert_rules_know(metrics)


def read_metrics(worker: Worker) -> dict[str, tuple[str, float]]:
    """The label, if there is one, and the value of each metric in the file."""
    text = worker.machine.path(METRICS_FILE).read_text()
    row = re.compile(r'^(\w+)(?:\{(\w+)="[^"]*"\})? (\S+)$', re.MULTILINE)
    return {name: (label, float(value)) for name, label, value in row.findall(text)}


def assert_rules_know(metrics: dict[str, tuple[str, float]]) -> None:
    """Prometheus can read the rules, and they name what is written, and its labels."""
    (group,) = yaml.safe_load(RULES)["groups"]
    assert set(group) == {"name", "rules"}
    for rule in group["rules"]:
        assert {"alert", "expr", "annotations"} <= set(rule)
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        (name,) = re.findall(r"ecr_airflow_sync\w+", rule["expr"])
        label, _ = metrics[name]
        used = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        assert set(used) <= {label, "instance"}
    assert set(re.findall(r"ecr_airflow_sync\w+", QUERY)) <= set(metrics)
