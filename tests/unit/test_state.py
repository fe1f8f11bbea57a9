"""What this host remembers: what is fresh, what a failure means, whatever the file."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from _ecr_airflow_sync.model import Result, Target
from _ecr_airflow_sync.state import State

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
A = Target("a", "us-east-1")
B = Target("b", "us-east-1")


@pytest.fixture(autouse=True)
def path(
    own_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """The file, which is not there yet."""
    folder = tmp_path / "state"
    monkeypatch.setenv("STATE_DIRECTORY", str(folder))
    return folder / "written.json"


def now() -> datetime:
    return datetime.now(timezone.utc)


def written(target: Target, **fields: Any) -> Result:
    """A result of a run that has just written a token of twelve hours."""
    result = Result(
        conn_id=target.conn_id,
        status="written",
        registry="111111111111",
        region="us-east-1",
        host="host.example.com",
        expires_at=now() + 12 * HOUR,
        last_success=now(),
    )
    return replace(result, **fields)


def remember(results: dict[Target, Result | None], command: str = "airflow") -> None:
    """What a run does at its end."""
    state = State.load(command)
    state.record(results)
    state.save(is_needed=True)


def find(
    target: Target, seconds: float = 60, command: str = "airflow"
) -> Result | None:
    return State.load(command).find_fresh([target], seconds).get(target)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries, by their connections."""
    entries = json.loads(path.read_text())["connections"]
    return {entry["conn_id"]: entry for entry in entries}


def failed(target: Target) -> Result:
    return Result.failed(target, "no")


def test_what_was_written_is_fresh_as_it_was_told(path: Path) -> None:
    result = written(A, last_success=now() - HOUR)
    remember({A: result})
    fresh = find(A)
    assert fresh
    found = replace(result, status="fresh", last_success=fresh.last_success)
    assert fresh == found
    assert find(B) is None
    before = read(path)["a"]
    remember({A: fresh})  # which keeps its times
    after = read(path)["a"]
    assert after.pop("last_success") > before.pop("last_success")
    assert after == before


def test_how_long_it_has_to_live() -> None:
    remember({A: written(A, expires_at=now() + 6 * HOUR + MINUTE)})
    assert find(A, 6 * 3600)
    remember({A: written(A, expires_at=now() + 6 * HOUR - MINUTE)})
    assert find(A, 6 * 3600) is None


def test_a_clock_set_back_ends_all_trust() -> None:
    remember({A: written(A, last_success=now() + MINUTE)})
    assert find(A) is None


@pytest.mark.parametrize("result", [None, failed(A)], ids=["cut short", "failed"])
def test_what_did_not_end_well_is_not_fresh(result: Result | None) -> None:
    remember({A: written(A), B: written(B)})
    remember({A: result})
    assert find(A) is None
    assert find(B)


def test_who_writes_last_owns_the_connection() -> None:
    other = replace(A, role_arn="r")
    remember({A: written(A)})
    assert find(other) is None
    remember({other: written(other)})
    assert find(other)
    assert find(A) is None
    remember({A: failed(A)})  # whoever failed, it may hold what A asked for
    assert find(other) is None


def test_a_template_is_known_by_what_it_came_to() -> None:
    template = Target("e_{registry}")
    result = written(template, conn_id="e_111111111111")
    remember({template: result})
    told = State.load("airflow").explain_failure(template, failed(template))
    assert told.conn_id == "e_111111111111"
    remember({template: failed(template)})
    assert find(template) is None


def test_what_a_failure_means() -> None:
    began = now() - 2 * HOUR
    ends = now() + 7 * HOUR
    ended = now() - MINUTE
    meanings = {
        ends: f"the token written there at {began:%H:%M} UTC is valid for 7 h more",
        ended: f"the token written there expired at {ended:%Y-%m-%d %H:%M} UTC",
    }
    for expires_at, held in meanings.items():
        remember({A: written(A, expires_at=expires_at, last_success=began)})
        told = State.load("airflow").explain_failure(A, failed(A))
        assert told.error == f"no; {held}"
        assert (told.expires_at, told.last_success) == (expires_at, began)


def test_a_failure_of_what_was_never_written_is_told_as_it_is(path: Path) -> None:
    result = failed(A)
    assert State.load("airflow").explain_failure(A, result) is result
    remember({A: result})
    assert read(path) == {}


def test_expired_entries_go_unless_they_are_asked_for(path: Path) -> None:
    old = {"expires_at": now() - HOUR}
    remember({A: written(A, **old), B: written(B, **old)})
    remember({A: failed(A)})
    assert list(read(path)) == ["a"]


def test_each_airflow_has_entries_of_its_own() -> None:
    other = "sudo -u airflow airflow"
    remember({A: written(A), B: written(B)})
    assert find(A, command=other) is None
    remember({A: written(A)}, other)
    remember({A: failed(A)})
    assert find(A) is None
    assert find(A, command=other)
    assert State.load("airflow").list_conn_ids() == {"a", "b"}
    assert State.load(other).list_conn_ids() == {"a"}


LEADING = """\
AIRFLOW_HOME AIRFLOW_CONFIG AIRFLOW_CLI_ENVIRONMENT AIRFLOW__CORE__SQL_ALCHEMY_CONN
AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD AIRFLOW__CORE__FERNET_KEY DOCKER_HOST KUBECONFIG
AWS_PROFILE AWS_DEFAULT_PROFILE AWS_REGION AWS_WEB_IDENTITY_TOKEN_FILE AWS_ACCESS_KEY_ID
"""
# A session token is a new one each hour, of the same role.
OTHERS = ("AWS_SESSION_TOKEN", "AIRFLOW__CORE__PARALLELISM", "LANG")


@pytest.mark.parametrize("variable", [*LEADING.split(), *OTHERS])
def test_variables_that_lead_elsewhere(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    remember({A: written(A)})
    monkeypatch.setenv(variable, "another")
    assert (find(A) is None) == (variable not in OTHERS)


def test_another_script_of_the_same_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("old", "new"):
        script = tmp_path / name / "airflow"
        script.parent.mkdir()
        script.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    remember({A: written(A)})
    assert find(A)
    assert find(A, command=str(tmp_path / "old/airflow"))
    monkeypatch.setenv("PATH", str(tmp_path / "new"))
    assert find(A) is None


def test_a_configuration_that_may_name_another_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def is_noticed(place: str) -> bool:
        remember({A: written(A)})
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"sql_alchemy_conn = sqlite:////M\xfcller.db\n")
        return find(A) is None

    assert is_noticed("airflow/airflow.cfg")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    assert is_noticed("home/airflow.cfg")
    monkeypatch.setenv("AIRFLOW_CONFIG", str(tmp_path / "my.cfg"))
    assert is_noticed("my.cfg")


# --- the file ---


def test_the_file_is_private_and_replaced_in_one_step(path: Path) -> None:
    remember({A: written(A)})
    first = path.stat()
    assert first.st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    remember({A: written(A)})
    assert path.stat().st_ino != first.st_ino
    assert [file.name for file in path.parent.iterdir()] == ["written.json"]


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find_place() -> str:
        remember({A: written(A)})
        (file,) = tmp_path.rglob("*.json")
        file.unlink()
        return str(file.relative_to(tmp_path))

    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/one:{tmp_path}/two")
    assert find_place() == "one/written.json"
    monkeypatch.delenv("STATE_DIRECTORY")
    assert find_place() == ".local/state/ecr-airflow-sync/written.json"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert find_place() == "xdg/ecr-airflow-sync/written.json"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert find_place() == ".local/state/ecr-airflow-sync/written.json"


def test_a_state_that_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/dev/null/state")
    caplog.set_level(logging.DEBUG)
    State.load("airflow").save(is_needed=True)
    State.load("airflow").save(is_needed=False)
    why = "Not a directory; until it can be kept, each run writes"
    assert set(caplog.messages) == {f"state /dev/null/state/written.json: {why}"}
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR, logging.DEBUG]


def test_a_home_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As for a user id without an entry in passwd."""
    monkeypatch.setenv("XDG_STATE_HOME", "~nobody-of-this-name")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.chdir(tmp_path)
    State.load("airflow").save(is_needed=True)
    assert ": HOME is not set; until" in caplog.text
    assert list(tmp_path.iterdir()) == []


NOT_OURS = [b"{", b"null", b'{"connections": [{}]}', b"[" * 100_000, b"\xff\x00"]


@pytest.mark.parametrize("content", NOT_OURS, ids=lambda content: repr(content[:40]))
def test_a_file_that_is_not_ours(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert find(A) is None
    remember({A: written(A)})
    assert find(A)


def test_an_entry_that_is_not_ours(path: Path) -> None:
    too_early = "0001-01-01T00:00:00+23:59"
    changes = {"host": 1, "expires_at": "soon", "written_at": too_early, "more": "x"}
    for name, value in changes.items():
        remember({A: written(A)})
        entry = {**read(path)["a"], name: value}
        path.write_text(json.dumps({"connections": [entry]}))
        assert find(A) is None
