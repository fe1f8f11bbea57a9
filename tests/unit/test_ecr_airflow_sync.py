"""The run as a whole, in process: sync() for Python callers, and what main() adds to it."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ecr_airflow_sync import (
    Airflow,
    Result,
    SyncError,
    Target,
    UsageError,
    main,
    sync,
)
from tests.support.command import Command, FakeAirflow, wait_for
from tests.support.ecr_stand_in import ACCOUNT, BUILDER, Call, EcrStandIn, Fault

from .conftest import A, B

ONE = Target("one", "us-east-1", A)
TWO = Target("two", "us-east-1", B)
TEMPLATE = Target("e_{registry}", "us-east-1")
DENIED = Fault(code="AccessDeniedException", message="no")
NO = (
    "ECR in us-east-1: AccessDeniedException: no; allow this identity "
    "ecr:GetAuthorizationToken on resource *"
)
log = logging.getLogger("ecr_airflow_sync")


@pytest.fixture
def airflow(
    aws: EcrStandIn,
    command: Command,
    fake: Callable[..., FakeAirflow],
    monkeypatch: pytest.MonkeyPatch,
) -> FakeAirflow:
    """A strict fake, in this process's environment."""
    placed = fake()
    for name, value in command.env.items():
        monkeypatch.setenv(name, value)
    return placed


def there(airflow: FakeAirflow) -> Airflow:
    return Airflow(str(airflow.script), timeout=30)


def statuses(results: list[Result]) -> list[str]:
    return [result.status for result in results]


def fail(targets: list[Target], airflow: Airflow, **options: Any) -> SyncError:
    with pytest.raises(SyncError) as caught:
        sync(targets, airflow, **options)
    return caught.value


def test_tokens_are_written_and_left_alone_while_they_are_fresh(
    airflow: FakeAirflow, aws: EcrStandIn
) -> None:
    """Where nothing is due, nobody is asked, and Airflow need not be there."""
    keys = {"login": BUILDER.access_key, "password": BUILDER.secret_key}
    airflow.hold(builder=keys)
    two = replace(TWO, aws_conn_id="builder")
    results = sync([ONE, two], there(airflow), renew_before=60)
    assert statuses(results) == ["written", "written"]
    calls = sorted(aws.calls, key=str)
    assert calls == [Call("us-east-1", (A,)), Call("us-east-1", (B,), BUILDER.account)]
    stored = airflow.connections()
    for target, registry in ((ONE, A), (two, B)):
        fields = stored[target.conn_id]
        assert fields["host"] == f"{registry}.dkr.ecr.us-east-1.amazonaws.com"
        is_stored = [fields["password"]] == aws.tokens["us-east-1", registry]
        assert is_stored
        is_shown = fields["password"] in repr(results)
        assert not is_shown
    airflow.script.unlink()
    results = sync([ONE, two], there(airflow), renew_before=60)
    assert statuses(results) == ["fresh", "fresh"]
    assert len(aws.calls) == 2


def test_a_dry_run_tells_what_is_there_and_changes_nothing(
    airflow: FakeAirflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {"description": "written by ecr-airflow-sync", "host": "old.example.com"}
    airflow.hold(one={"conn_type": "docker", **written}, two={"conn_type": "http"})
    stored = airflow.connections()
    monkeypatch.setenv("AIRFLOW_CONN_FOUR", "{}")
    four = [ONE, TWO, replace(ONE, conn_id="three"), replace(ONE, conn_id="four")]
    error = fail(four, there(airflow), dry_run=True)
    assert str(error).startswith("two: there is a connection of that id already")
    assert [(result.status, result.remark) for result in error.results] == [
        ("planned", "replaces the one of type docker at old.example.com"),
        ("failed", ""),
        ("planned", "new"),
        ("planned", ""),
    ]
    assert airflow.connections() == stored
    assert list(tmp_path.rglob("written.json")) == []
    monkeypatch.setenv("FAKE_AIRFLOW_TROUBLE", "say nothing")
    error = fail([ONE], there(airflow), dry_run=True)
    assert str(error).endswith("the answer to `connections get` is not understood")


def test_somebody_elses_connection_is_replaced_only_if_asked(
    airflow: FakeAirflow,
) -> None:
    theirs = {"conn_type": "http", "host": "example.com"}
    airflow.hold(one=theirs)
    error = fail([ONE, TWO], there(airflow))
    assert str(error).startswith("one: there is a connection of that id already")
    assert statuses(error.results) == ["failed", "written"]
    assert airflow.connections()["one"] == theirs
    sync([ONE], there(airflow), replace=True)
    assert airflow.connections()["one"]["conn_type"] == "docker"


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("rolled back", "RuntimeError: server closed the connection unexpectedly"),
        ("commit fails", "IntegrityError: the server closed the connection"),
    ],
)
def test_of_two_commands_one_that_fails_leaves_what_was_there(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch, trouble: str, why: str
) -> None:
    airflow.hold(one={"conn_type": "docker"})
    there_before = airflow.connections()
    monkeypatch.setenv("FAKE_AIRFLOW_TROUBLE", trouble)
    error = fail([ONE], replace(there(airflow), method="delete-add"))
    assert why in str(error)
    assert airflow.connections() == there_before


def test_a_failure_has_all_results_and_what_is_still_held(
    airflow: FakeAirflow, aws: EcrStandIn
) -> None:
    sync([ONE], there(airflow))
    aws.faults["us-east-1"] = DENIED
    aws.faults["public"] = Fault(times=0)
    three = [ONE, TWO, Target("three", registry="public")]
    error = fail(three, there(airflow))
    assert statuses(error.results) == ["failed", "failed", "written"]
    first, second = str(error).splitlines()
    assert first.startswith(f"one: {NO}; the token written there at ")
    assert first.endswith(" is valid for 12 h more")
    assert second == f"two: {NO}"


def test_no_airflow_fails_all_and_asks_nobody(
    airflow: FakeAirflow, aws: EcrStandIn
) -> None:
    airflow.script.unlink()
    for check in (False, True):
        error = fail([ONE, TWO], there(airflow), check=check)
        assert statuses(error.results) == ["failed", "failed"]
        assert str(error).startswith(f"one, two: {airflow.script}: ")
    assert aws.calls == []


def test_an_id_that_is_in_use_in_the_same_run(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a connection that is fresh, and by one that has AWS credentials."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    fresh = Target(f"e_{ACCOUNT}", "us-east-1", ACCOUNT)
    sync([fresh], there(airflow))
    airflow.hold(**{"us-east-1": {"login": ""}})
    stored = airflow.connections()
    like_keys = Target("{region}", aws_conn_id="us-east-1")
    asked = [fresh, TEMPLATE, like_keys, ONE]
    error = fail(asked, there(airflow), renew_before=60)
    assert str(error).startswith(f"e_{ACCOUNT}, us-east-1: another connection of this")
    assert statuses(error.results) == ["fresh", "failed", "failed", "written"]
    now_there = airflow.connections()
    del now_there["one"]
    is_as_before = now_there == stored
    assert is_as_before


def test_a_check_writes_nothing(airflow: FakeAirflow, aws: EcrStandIn) -> None:
    error = fail([ONE], there(airflow), check=True)
    assert statuses(error.results) == ["missing"]
    assert airflow.connections() == {}
    assert aws.calls == []


def test_after_ctrl_c_nobody_trusts_what_was_there(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync([ONE], there(airflow))

    def interrupt() -> None:
        wait_for(Path(f"{airflow.store}.pids").exists)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setenv("FAKE_AIRFLOW_TROUBLE", "hang")
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        sync([ONE], there(airflow))
    airflow.script.unlink()
    error = fail([ONE], there(airflow), renew_before=60)
    assert statuses(error.results) == ["failed"]  # and not fresh


def test_usage_errors_come_first(airflow: FakeAirflow, aws: EcrStandIn) -> None:
    airflow.script.unlink()
    same_id = [ONE, replace(TWO, conn_id="one")]
    for targets, check in ((same_id, False), (same_id, True), ([TEMPLATE], True)):
        with pytest.raises(UsageError):
            sync(targets, there(airflow), check=check)
    assert aws.calls == []


# --- the command ---


Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def run(
    airflow: FakeAirflow,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """The command: its status, and what it prints on stdout and stderr.

    What main() sets for a process of its own is set back, or left if it cannot be.
    """
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    numbers = (signal.SIGTERM, signal.SIGINT)
    ends = {number: signal.getsignal(number) for number in numbers}
    handlers, level, mask = list(log.handlers), log.level, os.umask(0o022)

    def run(*options: str) -> tuple[int, str, str]:
        arguments = ["--airflow", str(airflow.script), *options]
        with pytest.raises(SystemExit) as caught:
            main(arguments, prog_name="ecr-airflow-sync")
        printed = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, printed.out, printed.err

    yield run
    for number, end in ends.items():
        signal.signal(number, end)
    log.handlers[:] = handlers
    log.setLevel(level)
    os.umask(mask)


def test_statuses_and_reports(run: Run, aws: EcrStandIn, tmp_path: Path) -> None:
    options = ("-r", "us-east-1", "--renew-before", "6h")
    how = ("--airflow-version=2.12", "--method=delete-add", "--timeout=60")
    status, out, err = run(*options, *how)
    assert (status, err) == (0, "")
    found, written = out.splitlines()
    assert found.startswith("Airflow 2.12, ")
    assert found.endswith(", by delete-add")
    assert written.startswith("docker_default  written  ")
    status, out, err = run(*options, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["connections"][0]["status"] == "fresh"
    aws.faults["us-east-1"] = DENIED
    metrics = tmp_path / "ecr.prom"
    status, out, err = run(*options, "--force", "-q", "--metrics-file", str(metrics))
    assert (status, out) == (1, "")
    assert err.startswith(f"docker_default: {NO}; the token written there at ")
    success = 'ecr_airflow_sync_success{conn_id="docker_default"}'
    assert f"{success} 0.0" in metrics.read_text()
    metrics.unlink()
    for option in ("--check", "--dry-run"):
        run("--airflow=/nowhere", option, "--metrics-file", str(metrics))
        assert not metrics.exists()


def test_how_much_is_told(run: Run) -> None:
    levels = {"-q": logging.ERROR, "-v": logging.DEBUG, "--force": logging.WARNING}
    for option, level in levels.items():
        run("--airflow=/nowhere", option)
        assert log.level == level


def test_a_splay_is_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    naps = set()

    def nap(seconds: float) -> None:
        naps.add(seconds)
        raise SystemExit(0)

    monkeypatch.setattr(time, "sleep", nap)
    for _ in range(5):
        run("--splay", "1000")
    assert len(naps) == 5
    assert all(0 <= seconds <= 1000 for seconds in naps)


def test_a_terminal_shows_progress_and_what_to_look_at(
    run: Run, aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits there."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", "docker://")
    aws.lifetime = 3000
    began = time.monotonic()
    status, _, err = run("--splay", "86400", "-r", "us-east-1", "--replace")
    assert time.monotonic() - began < 30
    assert status == 0
    asking, short, variable, writing = err.splitlines()
    assert asking == "Asking ECR for 1 token(s) ..."
    assert short.startswith("docker_default: its token is valid until 20")
    assert short.endswith(" UTC only; is this host's clock right?")
    assert variable == (
        "docker_default: tasks read the variable AIRFLOW_CONN_DOCKER_DEFAULT instead; "
        "unset it"
    )
    assert writing == "Airflow 2.11.2 is writing 1 connection(s) ..."


def test_a_splay_is_over_at_sigterm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = time.sleep

    def sleep_until_told(seconds: float) -> None:
        end = [os.getpid(), signal.SIGTERM]
        threading.Timer(0.05, os.kill, end).start()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep_until_told)
    assert run("--splay", "86400") == (128 + signal.SIGTERM, "", "")
