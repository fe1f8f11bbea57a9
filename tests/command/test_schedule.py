"""What a schedule needs: --splay, --renew-before with its state, --metrics-file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.command import MODULE, Command, FakeAirflow
from tests.support.ecr_stand_in import ACCOUNT, BUILDER, EcrStandIn, Fault

Place = Callable[..., FakeAirflow]
A, B = "111111111111", "222222222222"
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def state(command: Command, tmp_path: Path) -> Path:
    """Where the command keeps its state."""
    folder = tmp_path / "state"
    command.env["STATE_DIRECTORY"] = str(folder)
    return folder / "written.json"


def starts(airflow: FakeAirflow) -> int:
    """How many processes ran commands of Airflow's; and sets the count back."""
    log = Path(f"{airflow.store}.starts")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return len({line.split()[0] for line in lines})


@pytest.fixture
def airflow(fake: Place, command: Command) -> FakeAirflow:
    return fake()


@pytest.fixture(autouse=True)
def _renewing(command: Command, airflow: FakeAirflow, state: Path) -> None:
    """Every test here renews, and keeps its state in a folder of its own."""
    command.options += ["-r", "us-east-1", "--renew-before", "6h"]


def test_nothing_due(command: Command, airflow: FakeAirflow, ecr: EcrStandIn) -> None:
    assert command().status == 0
    assert (starts(airflow), len(ecr.calls)) == (1, 1)
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
    assert (starts(airflow), len(ecr.calls)) == (0, 1)
    assert command("--quiet").stdout == ""


def test_nothing_due_imports_no_boto3(command: Command, airflow: FakeAirflow) -> None:
    assert command().status == 0
    arguments = [sys.executable, "-X", "importtime", str(MODULE), *command.options]
    done = subprocess.run(
        arguments, env=command.env, capture_output=True, text=True, check=True
    )
    assert "Nothing is due" in done.stdout
    assert "boto" not in done.stderr


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["--force"], {}),
        (["--renew-before", "12h"], {}),
        (["--conn-extra", '{"email": "x@example.com"}'], {}),
        (["--conn-id", "another"], {}),
        (["--registry", A], {}),
        ([], {"AIRFLOW_HOME": "/srv/another"}),
        ([], {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////another.db"}),
        ([], {"AIRFLOW__CORE__FERNET_KEY": "another"}),
        ([], {"AWS_DEFAULT_REGION": "eu-west-1"}),
        ([], {"ECR_AIRFLOW_SYNC_FORCE": "1"}),
    ],
)
def test_what_must_be_written_all_the_same(
    command: Command, airflow: FakeAirflow, options: list[str], env: dict[str, str]
) -> None:
    assert command().status == 0
    starts(airflow)
    assert command(*options, **env).status == 0
    assert starts(airflow) == 1


def test_another_airflow_on_path(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    command.options = command.options[2:]
    path = f"{airflow.script.parent}:/usr/bin:/bin"
    assert command(PATH=path).status == 0
    shutil.copytree(airflow.script.parent, tmp_path / "new")
    starts(airflow)
    assert command(PATH=path).status == 0
    assert starts(airflow) == 0
    assert command(PATH=f"{tmp_path}/new:{path}").status == 0
    assert starts(airflow) == 1


def test_only_what_is_due_is_written(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    assert command("--registry", A, "--conn-id", "e_{registry}").status == 0
    ran = command("--registry", A, "--registry", B, "--conn-id", "e_{registry}")
    assert ran.status == 0
    assert [line.split()[1] for line in ran.stdout.splitlines()[1:]] == [
        "fresh",
        "written",
    ]
    assert ecr.calls[-1].registries == (B,)
    assert command("--registry", B, "--conn-id", "e_{registry}").stdout.startswith(
        "Nothing is due"
    )


def test_a_failure_is_not_taken_for_fresh(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    assert command().status == 0
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="no", times=1)
    assert command("--force").status == 1
    starts(airflow)
    assert command().status == 0
    assert starts(airflow) == 1


def age(state: Path, **entry_fields: timedelta) -> None:
    """Set times of the one entry back, as a clock that goes on does."""
    (entry,) = json.loads(state.read_text())["connections"]
    for name, ago in entry_fields.items():
        entry[name] = str(datetime.fromisoformat(entry[name]) - ago)
    state.write_text(json.dumps({"connections": [entry]}))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[[1, 2]]",
        '{"connections": {}}',
        '{"connections": 1}',
        '{"connections": [1]}',
        '{"connections": [[1, 2]]}',
        '{"connections": [{}]}',
        '{"connections": [{"conn_id": "docker_default"}]}',
        "[" * 100_000,
        "\xff\x00",
    ],
)
def test_a_state_that_is_not_ours(
    command: Command, airflow: FakeAirflow, state: Path, content: str
) -> None:
    state.parent.mkdir()
    state.write_text(content, encoding="latin-1")
    ran = command()
    assert (ran.status, ran.stderr, starts(airflow)) == (0, "", 1)
    assert command().stdout.startswith("Nothing is due")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", 1),
        ("conn_id", None),
        ("expires_at", "soon"),
        ("expires_at", 9999999999),
        ("written_at", "0001-01-01T00:00:00+23:59"),
        ("last_success", None),
        ("password", "x"),
    ],
)
def test_an_entry_that_is_not_ours(
    command: Command, airflow: FakeAirflow, state: Path, name: str, value: object
) -> None:
    assert command().status == 0
    (entry,) = json.loads(state.read_text())["connections"]
    state.write_text(json.dumps({"connections": [{**entry, name: value}]}))
    starts(airflow)
    ran = command()
    assert (ran.status, ran.stderr, starts(airflow)) == (0, "", 1)


def test_a_truncated_state(command: Command, airflow: FakeAirflow, state: Path) -> None:
    assert command().status == 0
    content = state.read_bytes()
    for length in range(0, len(content), 80):
        state.write_bytes(content[:length])
        starts(airflow)
        assert (command().status, starts(airflow)) == (0, 1)


def test_a_clock_set_back(command: Command, airflow: FakeAirflow, state: Path) -> None:
    assert command().status == 0
    age(state, written_at=timedelta(hours=-1))  # it was written an hour from now
    starts(airflow)
    assert (command().status, starts(airflow)) == (0, 1)


def test_what_a_failure_means(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, state: Path
) -> None:
    """Whether somebody has to get up at night."""
    assert command().status == 0
    age(state, written_at=timedelta(hours=5), expires_at=timedelta(hours=5))
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="no")
    for held in (
        r"the token written there at \d\d:\d\d UTC is valid for 7 h more",
        r"the token written there at \d\d:\d\d UTC is valid for (29|30) min more",
        r"the token written there expired at 20\d\d-\d\d-\d\d \d\d:\d\d UTC",
    ):
        ran = command("--force", "--json")
        assert re.search(rf"; {held}\n$", ran.stderr)
        (told,) = json.loads(ran.stdout)["connections"]
        assert re.search(held, told["error"])
        assert told["expires_at"].startswith("20")
        age(state, expires_at=timedelta(hours=6, minutes=30))
    ran = command("-r", "eu-west-1", "--conn-id", "other")
    assert "written there" not in ran.stderr.partition("other: ")[2]


def test_expired_entries_of_others_go(
    command: Command, airflow: FakeAirflow, state: Path
) -> None:
    assert command("--conn-id", "old").status == 0
    age(state, expires_at=timedelta(days=1))
    assert command().status == 0
    entries = json.loads(state.read_text())["connections"]
    assert [entry["conn_id"] for entry in entries] == ["docker_default"]


def test_the_state_is_private_and_holds_no_secret(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, state: Path, tmp_path: Path
) -> None:
    assert command("--conn-extra", '{"email": "s3cret@example.com"}').status == 0
    content = state.read_text()
    assert ecr.tokens["us-east-1", ACCOUNT][0][:60] not in content
    assert "s3cret" not in content
    assert (state.stat().st_mode & 0o777, state.parent.stat().st_mode & 0o777) == (
        0o600,
        0o700,
    )
    assert [path.name for path in state.parent.iterdir()] == ["written.json"]
    del command.env["STATE_DIRECTORY"]
    assert command(XDG_STATE_HOME=str(tmp_path / "xdg")).status == 0
    assert (tmp_path / "xdg/ecr-airflow-sync/written.json").exists()
    assert command().status == 0
    assert (tmp_path / ".local/state/ecr-airflow-sync/written.json").exists()


def test_a_folder_that_cannot_be_written(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    command.env["STATE_DIRECTORY"] = str(tmp_path / "file/state")
    for _ in range(2):
        ran = command()
        assert ran.status == 0
        assert ran.stderr == (
            f"state {tmp_path}/file/state/written.json: Not a directory; until it can be kept, each run writes\n"
        )
    assert starts(airflow) == 2


def test_what_others_wrote_into_the_connection_is_not_fresh(
    command: Command, airflow: FakeAirflow
) -> None:
    assert command().status == 0
    command.options.remove("us-east-1")
    command.options.remove("-r")
    for region in ("eu-west-1", "us-east-1", "eu-west-1"):
        assert "  written  " in command("-r", region).stdout
        assert "  fresh  " in command("-r", region).stdout
        assert region in airflow.connections()["docker_default"]["host"]


def test_a_run_without_the_option_is_remembered_where_others_renew(
    command: Command, airflow: FakeAirflow
) -> None:
    command.options = [*command.options[:-2], "--method", "delete-add"]
    assert command("--renew-before", "6h").status == 0
    command.env["FAKE_AIRFLOW_TROUBLE"] = "rolled back"  # so it is gone
    assert command().status == 1
    command.env["FAKE_AIRFLOW_TROUBLE"] = ""
    assert "  written  " in command("--renew-before", "6h").stdout
    assert command().status == 0
    assert "  fresh  " in command("--renew-before", "6h").stdout


def test_what_was_cut_short_is_not_fresh(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    """Nor is the connection lost."""
    assert command().status == 0
    before = airflow.connections()
    starts(airflow)
    slow = {"FAKE_AIRFLOW_TROUBLE": "slow add", "FAKE_AIRFLOW_SLOW": "7"}
    process = command.start("--force", "--method", "delete-add", **slow)
    log = Path(f"{airflow.store}.starts")
    deadline = time.monotonic() + 30
    while not (log.exists() and "delete" in log.read_text()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    process.terminate()
    assert command.end(process).status == 143
    assert airflow.connections() == before
    assert "  written  " in command().stdout


@pytest.mark.parametrize(
    "variable",
    [
        "AIRFLOW_CONFIG",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD",
        "DOCKER_HOST",
        "AWS_DEFAULT_PROFILE",
    ],
)
def test_another_airflow_or_identity(
    command: Command, airflow: FakeAirflow, tmp_path: Path, variable: str
) -> None:
    (tmp_path / "config").write_text("[profile other]\nregion = us-east-1\n")
    command.env["AWS_CONFIG_FILE"] = str(tmp_path / "config")
    assert command().status == 0
    assert "  fresh  " in command().stdout
    assert "  written  " in command(**{variable: "other"}).stdout


def test_the_same_airflow_by_another_name(
    command: Command, airflow: FakeAirflow
) -> None:
    assert command().status == 0
    command.options = ["-r", "eu-west-1"]
    assert command(PATH=f"{airflow.script.parent}:/usr/bin:/bin").status == 0
    command.options = [
        "-r",
        "us-east-1",
        "--renew-before",
        "6h",
        "--airflow",
        str(airflow.script),
    ]
    assert "  written  " in command().stdout


def test_other_keys_are_another_account(command: Command, airflow: FakeAirflow) -> None:
    assert command().status == 0
    assert "  fresh  " in command().stdout
    assert (
        "  written  "
        in command(
            AWS_ACCESS_KEY_ID=BUILDER.access_key,
            AWS_SECRET_ACCESS_KEY=BUILDER.secret_key,
        ).stdout
    )


def test_without_the_option_all_is_written(
    command: Command, airflow: FakeAirflow, state: Path
) -> None:
    command.options = command.options[:-2]
    for _ in range(2):
        assert command().status == 0
    assert starts(airflow) == 2
    assert state.exists()  # for what a failure means
    command.env["STATE_DIRECTORY"] = "/dev/null/state"
    assert command().stderr == ""  # which is nobody's concern


@pytest.mark.parametrize(
    "text", ["6", "h", "0h", "6 h", "-6h", "6h-", "1d", "six", "30m1h", "1h1h"]
)
def test_durations(command: Command, airflow: FakeAirflow, text: str) -> None:
    ran = command("--renew-before", text)
    assert ran.status == 2
    assert ran.stderr.endswith(f"{text!r} is not a duration such as 6h, 90m or 1h30m\n")


def test_a_day_at_six_hours(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, state: Path
) -> None:
    """48 runs, half an hour apart: the state is aged, which is what a clock would do."""
    total = 0
    for _ in range(48):
        assert command("--quiet").status == 0
        total += starts(airflow)
        half_an_hour = timedelta(minutes=30)
        age(state, written_at=half_an_hour, expires_at=half_an_hour)
    print(f"\nAirflow starts in a day of 48 runs: {total}")
    assert 2 <= total <= 4
    assert len(ecr.calls) == total


# --- splay ---


def test_splay_waits_when_nobody_looks(command: Command, airflow: FakeAirflow) -> None:
    waits = []
    for _ in range(5):
        began = time.monotonic()
        assert command("--splay", "2").status == 0
        waits.append(time.monotonic() - began)
    fast = min(waits)
    assert max(waits) < 2 + fast + 1
    assert max(waits) - fast > 0.2  # five equal draws of two seconds do not happen


def test_splay_does_not_wait_in_a_terminal(
    command: Command, airflow: FakeAirflow
) -> None:
    import pty

    parent, child = pty.openpty()
    began = time.monotonic()
    arguments = [sys.executable, str(MODULE), *command.options, "--splay", "86400"]
    subprocess.run(
        arguments,
        env=command.env,
        stdin=child,
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert time.monotonic() - began < 30
    os.close(parent)
    os.close(child)


def test_splay_is_over_at_sigterm(command: Command, airflow: FakeAirflow) -> None:
    process = command.start("--splay", "86400")
    time.sleep(1)
    process.terminate()
    assert command.end(process).status == 143


# --- metrics ---


def metrics(path: Path) -> dict[tuple[str, str], float]:
    return {
        (
            sample.name.replace("ecr_airflow_sync_", ""),
            sample.labels.get("conn_id", ""),
        ): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_metrics(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, tmp_path: Path
) -> None:
    file = tmp_path / "ecr.prom"
    options = ("--metrics-file", str(file))
    os.umask(0o077)
    try:
        assert command(*options).status == 0
    finally:
        os.umask(0o022)
    first, conn_id, now = metrics(file), "docker_default", time.time()
    assert file.stat().st_mode & 0o777 == 0o644
    assert first["success", conn_id] == 1
    assert now - 10 < first["last_run_timestamp_seconds", conn_id] <= now
    assert first["last_success_timestamp_seconds", conn_id] <= now
    assert abs(first["token_expiry_timestamp_seconds", conn_id] - now - 12 * 3600) < 10
    assert 0 < first["duration_seconds", ""] < 10
    assert first["build_info", ""] == 1

    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="no")
    time.sleep(0.1)
    assert command(*options, "--force").status == 1
    second = metrics(file)
    assert second["success", conn_id] == 0
    for name in ("last_success_timestamp_seconds", "token_expiry_timestamp_seconds"):
        assert second[name, conn_id] == first[name, conn_id]
    name = "last_run_timestamp_seconds"
    assert second[name, conn_id] > first[name, conn_id]

    ecr.faults.clear()
    assert command(*options).status == 0
    assert command(*options).stdout.startswith("Nothing is due")
    assert metrics(file)["success", conn_id] == 1
    assert [path.name for path in tmp_path.glob("ecr.prom*")] == ["ecr.prom"]
    assert ecr.tokens["us-east-1", ACCOUNT][0][:60] not in file.read_text()


def test_metrics_that_never_succeeded(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, tmp_path: Path
) -> None:
    (tmp_path / "ecr.prom").write_text("not { a metric\n")
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="no")
    assert command("--metrics-file", str(tmp_path / "ecr.prom")).status == 1
    told = metrics(tmp_path / "ecr.prom")
    assert told["success", "docker_default"] == 0
    assert ("last_success_timestamp_seconds", "docker_default") not in told


def test_metrics_keep_what_a_template_meant(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, tmp_path: Path
) -> None:
    options = (
        "--metrics-file",
        str(tmp_path / "ecr.prom"),
        "--conn-id",
        "d_{registry}",
    )
    assert command(*options).status == 0
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="no")
    assert command(*options, "--force").status == 1
    told = metrics(tmp_path / "ecr.prom")
    assert {conn_id for _, conn_id in told if conn_id} == {f"d_{ACCOUNT}"}
    assert told["success", f"d_{ACCOUNT}"] == 0
    assert (
        told["token_expiry_timestamp_seconds", f"d_{ACCOUNT}"] > time.time() + 11 * 3600
    )


def test_metrics_that_cannot_be_written(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    ran = command("--metrics-file", str(tmp_path / "nowhere/ecr.prom"), "--quiet")
    assert ran.status == 0
    assert (
        ran.stderr
        == f"metrics file {tmp_path}/nowhere/ecr.prom: No such file or directory\n"
    )


def test_metrics_without_the_extra(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\nsys.modules['prometheus_client'] = None\n"
    )
    path = f"{hidden}:{command.env['PYTHONPATH']}"
    ran = command("--metrics-file", str(tmp_path / "ecr.prom"), PYTHONPATH=path)
    assert ran.status == 2
    assert ran.stderr.endswith(
        "Error: --metrics-file needs the extra [metrics]: pip install prometheus_client\n"
    )


# --- a token that does not last ---


@pytest.mark.parametrize("lifetime", [-60, 50 * 60])
def test_a_short_life_is_warned_of(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, lifetime: int
) -> None:
    ecr.lifetime = lifetime
    ran = command()
    assert ran.status == 0
    assert ran.stderr.startswith("docker_default: its token is valid until 20")
    assert ran.stderr.endswith(" UTC only; is this host's clock right?\n")
    assert list(airflow.connections()) == ["docker_default"]


def test_a_dry_run_leaves_the_state_alone(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, state: Path
) -> None:
    assert command("--dry-run").status == 0
    assert not state.exists()
    assert command().status == 0
    before = state.read_bytes()
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="no")
    assert command("--dry-run", "--force").status == 1
    assert state.read_bytes() == before


def test_a_unit_with_several_state_directories(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    assert command(STATE_DIRECTORY=f"{tmp_path}/one:{tmp_path}/two").status == 0
    assert (tmp_path / "one/written.json").exists()
    assert not (tmp_path / "two").exists()
