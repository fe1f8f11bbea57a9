"""What a schedule needs: --splay, --renew-before with its state, --metrics-file."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.command import HOST, MODULE, Command, FakeAirflow, wait_for
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, Fault

DENIED = Fault(code="AccessDeniedException", message="no")


@pytest.fixture(autouse=True)
def state(command: Command, airflow: FakeAirflow, tmp_path: Path) -> Path:
    """Every test here renews, and keeps its state in a folder of its own."""
    command.options += ["-r", "us-east-1", "--renew-before", "6h"]
    command.env["STATE_DIRECTORY"] = str(tmp_path / "state")
    return tmp_path / "state/written.json"


def test_nothing_due(command: Command, airflow: FakeAirflow, ecr: EcrStandIn) -> None:
    assert command().status == 0
    assert (airflow.count_starts(), len(ecr.calls)) == (1, 1)
    ran = command()
    assert (ran.status, ran.stderr) == (0, "")
    first, second = ran.stdout.splitlines()
    assert first == "Nothing is due, so Airflow was left alone."
    assert second.startswith(f"docker_default  fresh    {HOST}, until ")
    assert second.endswith(" UTC (12 h)")
    report = json.loads(command("--json").stdout)
    assert report["airflow"] == {"executable": None, "version": None, "method": None}
    assert report["connections"][0]["status"] == "fresh"
    assert report["connections"][0]["registry"] == ACCOUNT
    assert command("--quiet").stdout == ""
    assert (airflow.count_starts(), len(ecr.calls)) == (0, 1)


def test_nothing_due_imports_no_boto3(command: Command) -> None:
    assert command().status == 0
    command.program = ("-X", "importtime", str(MODULE))
    ran = command()
    assert "Nothing is due" in ran.stdout
    assert "click" in ran.stderr
    assert "boto" not in ran.stderr


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["--force"], {}),
        ([], {"ECR_AIRFLOW_SYNC_FORCE": "1"}),
        (["--conn-extra", '{"email": "x@example.com"}'], {}),
        ([], {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////another.db"}),
    ],
)
def test_what_must_be_written_all_the_same(
    command: Command, options: list[str], env: dict[str, str]
) -> None:
    assert command().status == 0
    assert "  fresh  " in command().stdout
    assert "  written  " in command(*options, **env).stdout


def test_another_database_in_airflow_cfg_is_written(
    command: Command, tmp_path: Path
) -> None:
    settings = tmp_path / "airflow/airflow.cfg"
    settings.parent.mkdir()
    for database, status in (("one", "written"), ("one", "fresh"), ("two", "written")):
        settings.write_text(f"[database]\nsql_alchemy_conn = pg://{database}/a\n")
        assert f"  {status}  " in command().stdout


def test_what_was_cut_short_is_not_fresh(
    command: Command, airflow: FakeAirflow
) -> None:
    """Nor is the connection lost."""
    assert command().status == 0
    before = airflow.connections()
    airflow.count_starts()
    slow = {"FAKE_AIRFLOW_TROUBLE": "slow add", "FAKE_AIRFLOW_SLOW": "7"}
    process = command.start("--force", "--method", "delete-add", **slow)
    wait_for(lambda: "delete" in dict(airflow.log).values())
    process.terminate()
    assert command.end(process).status == 143
    unchanged = airflow.connections() == before
    assert unchanged
    assert "  written  " in command().stdout


# --- the state ---


def test_the_state_is_private_and_holds_no_secret(
    command: Command, ecr: EcrStandIn, state: Path, tmp_path: Path
) -> None:
    assert command("--conn-extra", '{"email": "s3cret@example.com"}').status == 0
    content = state.read_text()
    has_token = ecr.tokens["us-east-1", ACCOUNT][0][:60] in content
    assert not has_token
    assert "s3cret" not in content
    assert state.stat().st_mode & 0o777 == 0o600
    assert state.parent.stat().st_mode & 0o777 == 0o700
    assert list(state.parent.iterdir()) == [state]
    del command.env["STATE_DIRECTORY"]
    assert command(XDG_STATE_HOME=str(tmp_path / "xdg")).status == 0
    assert (tmp_path / "xdg/ecr-airflow-sync/written.json").exists()
    assert command().status == 0
    assert (tmp_path / ".local/state/ecr-airflow-sync/written.json").exists()


def test_a_state_that_is_not_ours(command: Command, state: Path) -> None:
    state.parent.mkdir()
    state.write_bytes(b"[" * 100_000)
    ran = command()
    assert (ran.status, ran.stderr) == (0, "")
    assert "  written  " in ran.stdout
    assert command().stdout.startswith("Nothing is due")


def test_a_state_that_cannot_be_kept(command: Command) -> None:
    """Which is nobody's concern without --renew-before."""
    command.env["STATE_DIRECTORY"] = "/dev/null/state"
    why = "Not a directory; until it can be kept, each run writes"
    for _ in range(2):
        ran = command()
        assert "  written  " in ran.stdout
        assert ran.stderr == f"state /dev/null/state/written.json: {why}\n"
        assert ran.status == 0
    command.options = command.options[:-2]
    assert command().stderr == ""


# --- splay ---


def test_splay_is_waited_for(command: Command) -> None:
    """Until SIGTERM. Of a day, less than a second is not to be had by chance."""
    process = command.start("--splay", "86400")
    time.sleep(2)
    assert process.poll() is None
    process.terminate()
    assert command.end(process).status == 143


def test_nobody_waits_in_a_terminal(command: Command) -> None:
    parent, child = pty.openpty()
    subprocess.run(
        command.arguments("--splay", "86400"),
        env=command.env,
        stdin=child,
        check=True,
        capture_output=True,
        timeout=60,
    )
    os.close(parent)
    os.close(child)


# --- metrics ---


def read_metrics(path: Path) -> dict[str, float]:
    """Their values by their names, of one connection."""
    values = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            if "conn_id" in sample.labels:
                assert sample.labels["conn_id"] == f"d_{ACCOUNT}"
            values[sample.name.replace("ecr_airflow_sync_", "")] = sample.value
    return values


def test_metrics(command: Command, ecr: EcrStandIn, tmp_path: Path) -> None:
    """Those of a failed run tell what the connection still holds."""
    path = tmp_path / "ecr.prom"
    command.options += ["--metrics-file", str(path), "--conn-id", "d_{registry}"]
    os.umask(0o077)
    try:
        assert command().status == 0
    finally:
        os.umask(0o022)
    assert path.stat().st_mode & 0o777 == 0o644
    first = read_metrics(path)
    now = time.time()
    assert first["success"] == first["build_info"] == 1
    assert now - 60 < first["last_run_timestamp_seconds"] <= now
    assert first["last_success_timestamp_seconds"] <= now
    assert abs(first["token_expiry_timestamp_seconds"] - now - 12 * 3600) < 60
    assert 0 < first["duration_seconds"] < 60

    ecr.faults["us-east-1"] = DENIED
    assert command("--force").status == 1
    second = read_metrics(path)
    assert second["success"] == 0
    for name in ("last_success_timestamp_seconds", "token_expiry_timestamp_seconds"):
        assert second[name] == first[name]
    name = "last_run_timestamp_seconds"
    assert second[name] > first[name]

    ecr.faults.clear()
    assert command().status == 0
    assert command().stdout.startswith("Nothing is due")
    assert read_metrics(path)["success"] == 1
    assert list(tmp_path.glob("ecr.prom*")) == [path]
    has_token = ecr.tokens["us-east-1", ACCOUNT][0][:60] in path.read_text()
    assert not has_token


def test_metrics_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "nowhere/ecr.prom"
    ran = command("--metrics-file", str(path), "--quiet")
    told = f"metrics file {path}: No such file or directory\n"
    assert (ran.status, ran.stderr) == (0, told)
