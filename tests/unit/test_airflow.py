"""The Airflow that a command leads to: small real scripts play it, without a package."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _ecr_airflow_sync.airflow import Airflow
from _ecr_airflow_sync.errors import ConnectionMissing, StepFailed, UsageError
from _ecr_airflow_sync.model import Connection, HeldConnection

WriteScript = Callable[..., str]
ONE = Connection("one", "host", "AWS", "s3cret")
TWO = Connection("two", "host", "AWS", "s3cret")
LOG_IN = (
    "airflowctl auth login --api-url https://… --skip-keyring; "
    "AIRFLOW_CLI_TOKEN is from airflowctl auth token"
)


@pytest.fixture(autouse=True)
def _own_folder(
    own_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))


# --- what is meant ---


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"command": " "}, "airflow command '' is empty: name the airflow script"),
        (
            {"command": "'airflow"},
            'airflow command "\'airflow": No closing quotation',
        ),
        (
            {"command": "/opt/bin/python -m airflow"},
            "airflow command '/opt/bin/python -m airflow': give the script, "
            "/opt/bin/airflow",
        ),
        (
            {"command": "-m airflow"},
            "airflow command '-m airflow': give the script, airflow",
        ),
        (
            {"method": "add"},
            "method 'add' is none of auto, import, delete-add",
        ),
        ({"timeout": 0}, "timeout 0 is not above 0 and below 1000000 seconds"),
        ({"timeout": 1e6}, "timeout 1e+06 is not above 0 and below 1000000 seconds"),
        (
            {"timeout": float("nan")},
            "timeout nan is not above 0 and below 1000000 seconds",
        ),
        (
            {"version": "latest"},
            "Airflow version 'latest' is not of the form X.Y.Z",
        ),
    ],
    ids=[
        "blank",
        "quote",
        "module",
        "module alone",
        "method",
        "no time",
        "two weeks",
        "no number",
        "version",
    ],
)
def test_what_cannot_be_meant(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError) as caught:
        Airflow(**fields)
    assert str(caught.value) == error


# --- what is found ---


def find(command: str, version: str = "") -> str:
    """Why it cannot be started."""
    airflow = Airflow(command, 30, version)
    with pytest.raises(StepFailed) as caught, airflow.start(import_now=False):
        pass
    return str(caught.value)


def test_what_was_found(
    write_script: WriteScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = write_script("")
    monkeypatch.setenv("AIRFLOW_HOME", "/srv/airflow")
    monkeypatch.setenv("AIRFLOW_CONN_X", "docker://")
    with Airflow(script, 30, "2.11.2").start(import_now=False) as running:
        found = running.found
        assert running.variables == {"AIRFLOW_CONN_X"}
    assert (found.executable, found.version) == (script, "2.11.2")
    assert (found.place, found.method) == ("AIRFLOW_HOME /srv/airflow", "import")


def test_a_script_that_is_not_airflows(write_script: WriteScript) -> None:
    script = write_script("")
    assert find(script) == (
        f"{script} runs in a Python without the package apache-airflow: name another "
        "script with --airflow, or say --airflow-version"
    )


def test_an_airflow_that_is_too_old(write_script: WriteScript) -> None:
    script = write_script("")
    assert find(script, "1.9.0") == (
        f"Airflow 1.9.0 at {script} is older than 1.10: upgrade it"
    )


def test_an_airflowctl_without_a_login(
    write_script: WriteScript, tmp_path: Path
) -> None:
    script = write_script("", "airflowctl")
    assert find(script, "0.1.0") == (
        f"{script} has no login in AIRFLOW_HOME {tmp_path}/airflow: run there {LOG_IN}"
    )


# --- what it holds ---

STRANGE = ("silent", "strange", "foreign")
GET = """\
import json, sys
if sys.argv[2] == "list":
    sys.exit()
conn_id = sys.argv[3]
fields = {"id": "7", "conn_type": "docker", "description": "mine", "host": "h", "port": 5000, "login": "me", "password": "s3cret",
          "extra_dejson": {"a": 1}}
if conn_id == "missing":
    sys.exit("Connection not found.")
if conn_id == "silent":
    sys.exit()
if conn_id == "fails":
    print(json.dumps([fields]))
    sys.exit("no database: pg://me:s3cret@db/airflow")
if conn_id == "strange":
    print('[["s3cret"]]')
    print("[{'password': 's3cret'}]")
    sys.exit()
if conn_id == "foreign":
    print('[{"password": "s3cret"}]')
    sys.exit()
if conn_id == "empty":
    fields = dict.fromkeys(fields)
print("[{a warning}]")
print(json.dumps([fields]))
"""


def test_connections_as_a_task_finds_them(
    write_script: WriteScript, tmp_path: Path
) -> None:
    script = write_script(GET)
    asked = ["one", "empty", "missing", "fails", *STRANGE, "one"]
    with Airflow(script, 30, "2.11.2").start(import_now=False) as running:
        held = running.read(asked)
        assert running.read([]) == {}
    assert list(held) == list(dict.fromkeys(asked))
    one = HeldConnection(
        "one", True, "h", 5000, "me", "s3cret", {"a": 1}, "docker", "mine"
    )
    assert held["one"] == one
    assert held["empty"] == HeldConnection("empty", False, "", "", "", "", {})
    assert isinstance(held["missing"], ConnectionMissing)
    # One that fails after it has shown the connection has shown it.
    assert held["fails"] == replace(one, conn_id="fails")
    for conn_id in STRANGE:
        failure = held[conn_id]
        assert type(failure) is StepFailed
        assert str(failure) == (
            f"Airflow (AIRFLOW_HOME {tmp_path}/airflow): the answer to `connections "
            "get` is not understood"
        )


def test_a_database_that_cannot_be_asked(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Then `get` says that the connection is not there, and only `list` why."""
    script = write_script("""\
import sys
if sys.argv[2] == "list":
    raise RuntimeError("no such table: connection")
sys.exit("Connection not found.")
""")
    why = (
        f"Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit status 1): RuntimeError: no "
        "such table: connection"
    )
    with Airflow(script, 30, "2.11.2").start(import_now=False) as running:
        held = running.read(["one"])["one"]
        with pytest.raises(StepFailed) as caught:
            running.open_database()
    assert type(held) is StepFailed
    assert str(held) == str(caught.value) == why


def test_a_database_that_can_be_opened(write_script: WriteScript) -> None:
    with Airflow(write_script(GET), 30, "2.11.2").start(import_now=False) as running:
        running.open_database()


def test_an_airflow_that_shows_no_connections(write_script: WriteScript) -> None:
    script = write_script(GET)
    with Airflow(script, 30, "1.10.15").start(import_now=False) as running:
        assert running.read([]) == {}
        assert running.look_up(["one"]) == {}
        with pytest.raises(UsageError, match="does not show connections as tasks find"):
            running.read(["one"])


# --- what is written ---

IMPORT = """\
import json, os, sys
if __name__ == "__main__":
    there = json.load(open(sys.argv[-1]))
    for conn_id, fields in there.items():
        if conn_id == os.environ.get("SKIPPED"):
            print("Could not import connection %s: %s" % (conn_id, fields["password"]))
        elif conn_id == os.environ.get("FAILING"):
            raise ValueError("cannot store %s: %s" % (conn_id, fields["password"]))
        elif len(there) > 1 and conn_id == os.environ.get("COLLIDING"):
            raise ValueError("duplicate key value")
        else:
            print("Imported connection " + conn_id)
"""


@pytest.mark.parametrize(
    ("variable", "conn_id", "errors"),
    [
        ("NOTHING", "", {}),
        (
            "SKIPPED",
            "one",
            {"one": "0): Could not import connection one: ***"},
        ),
        (
            "FAILING",
            "one",
            {"one": "1): ValueError: cannot store one: ***"},
        ),
        ("COLLIDING", "one", {}),
    ],
    ids=["all is well", "skipped", "fails, and stops the other", "collides once"],
)
def test_several_are_written(
    write_script: WriteScript,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    conn_id: str,
    errors: dict[str, str],
) -> None:
    script = write_script(IMPORT)
    monkeypatch.setenv(variable, conn_id)
    with Airflow(script, 30, "2.11.2").start(import_now=True) as running:
        assert running.write([]) == {}
        told = running.write([ONE, TWO])
    where = f"Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit status "
    assert told == {key: where + error for key, error in errors.items()}
    assert os.listdir(tmp_path / "tmp") == []


DELETE_AND_ADD = """\
import sys
if __name__ == "__main__":
    _, action, conn_id = sys.argv[1:4]
    if conn_id == "two":
        print("Found more than one connection with `conn_id`=" + conn_id)
    elif action == "delete":
        print("Successfully deleted connection with `conn_id`=" + conn_id)
    else:
        print("Successfully added `conn_id`=%s : docker://" % conn_id)
"""


def test_each_is_written_by_itself_where_no_import_is(
    write_script: WriteScript, tmp_path: Path
) -> None:
    script = write_script(DELETE_AND_ADD)
    with Airflow(script, 30, "2.5.3").start(import_now=True) as running:
        told = running.write([ONE, TWO])
    assert told == {
        "two": f"Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit status 0): Found more "
        "than one connection with `conn_id`=two; delete all of them in the UI, under "
        "Admin, Connections"
    }


def test_an_airflow_that_cannot_be_imported(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Every command ends so, and none of them is tried."""
    script = write_script("raise ImportError('no flask')")
    where = f"Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit status 1)"
    with Airflow(script, 30, "2.11.2").start(import_now=True) as running:
        (held,) = running.read(["one"]).values()
        assert str(held) == f"{where}: ImportError: no flask"
        told = running.write([ONE, TWO])
    assert told == dict.fromkeys(["one", "two"], f"{where}: ImportError: no flask")


def test_an_end_in_the_middle(write_script: WriteScript) -> None:
    script = write_script(
        "import os; print('cannot take s3cret', flush=True); os._exit(3)"
    )
    with Airflow(script, 30, "2.11.2").start(import_now=False) as running:
        told = running.write([ONE, TWO])
    assert told == dict.fromkeys(
        ["one", "two"], f"{script}: cannot take *** (exit status 3)"
    )


def test_what_airflow_printed_is_shown_to_whoever_wants_it(
    write_script: WriteScript,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SKIPPED", "two")
    caplog.set_level(logging.DEBUG)
    with Airflow(write_script(IMPORT), 30, "2.11.2").start(import_now=False) as running:
        running.write([ONE, TWO])
    assert "Imported connection one" in caplog.text
    assert "Could not import connection two: ***" in caplog.text
    assert "s3cret" not in caplog.text


@settings(max_examples=6, deadline=None)
@given(
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.integers(-1, 300),
    st.booleans(),
)
def test_whatever_airflow_prints(
    out: bytes, err: bytes, code: int, crash: bool
) -> None:
    """A script that prints anything, and ends as it likes."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "airflow")
        end = "os._exit(9)" if crash else f"raise SystemExit({code})"
        lines = [
            f"#!{sys.executable}",
            "import os, sys",
            f"os.write(1, {out!r}); os.write(2, {err!r})",
            end,
        ]
        script.write_text("\n".join(lines))
        with Airflow(str(script), 60, "2.11.2").start(import_now=False) as running:
            failures = running.write([ONE])
            try:
                assert isinstance(running.read(["x"])["x"], StepFailed)
            except StepFailed:
                assert crash
    assert failures["one"]
    assert "\n" not in failures["one"]
