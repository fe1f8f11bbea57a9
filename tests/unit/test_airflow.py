"""The Airflow that a command leads to: small real scripts play it, without a package."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, ContextManager

import pytest

from _ecr_airflow_sync import interpreter
from _ecr_airflow_sync.airflow import Airflow
from _ecr_airflow_sync.errors import ConnectionMissing, StepFailed, UsageError
from _ecr_airflow_sync.model import Connection, FoundAirflow, HeldConnection
from _ecr_airflow_sync.running_airflow import RunningAirflow

from .conftest import WriteScript, catch

pytestmark = pytest.mark.usefixtures("own_environment", "temporary")

ONE = Connection("one", "host", "AWS", "s3cret")
TWO = Connection("two", "host", "AWS", "s3cret")
Start = Callable[..., ContextManager[RunningAirflow]]


@pytest.fixture
def start(write_script: WriteScript) -> Start:
    """Starts a script, as that of some version."""

    def start(
        code: str,
        version: str = "2.11.2",
        name: str = "airflow",
        import_now: bool = False,
    ) -> ContextManager[RunningAirflow]:
        return Airflow(write_script(code, name), 30, version).start(import_now)

    return start


@pytest.fixture
def where(tmp_path: Path) -> str:
    """As errors name it."""
    return f"Airflow (AIRFLOW_HOME {tmp_path}/airflow"


# --- what is meant ---


def refuse(**fields: Any) -> str:
    """Why."""
    return catch(UsageError, lambda: Airflow(**fields))


def test_what_cannot_be_meant() -> None:
    assert refuse(command=" ") == (
        "airflow command '' is empty: name the airflow script"
    )
    assert refuse(command="'airflow") == (
        'airflow command "\'airflow": No closing quotation'
    )
    for module, script in (
        ("/opt/bin/python -m airflow", "/opt/bin/airflow"),
        ("-m airflow", "airflow"),
    ):
        told = f"airflow command {module!r}: give the script, {script}"
        assert refuse(command=module) == told
    assert refuse(method="add") == "method 'add' is none of auto, import, delete-add"
    for timeout in (0, 1e6, float("nan")):
        limits = "is not above 0 and below 1000000 seconds"
        assert refuse(timeout=timeout) == f"timeout {timeout:g} {limits}"
    assert refuse(version="latest") == (
        "Airflow version 'latest' is not of the form X.Y.Z"
    )


# --- what is found ---


def test_an_airflow_that_shows_no_connections(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/srv/airflow")
    monkeypatch.setenv("AIRFLOW_CONN_X", "docker://")
    with start("", "1.10.15") as running:
        assert running.variables == {"AIRFLOW_CONN_X"}
        assert running.read([]) == {}
        assert running.look_up(["one"]) == {}
        told = catch(UsageError, running.read, ["one"])
    script = f"{tmp_path}/bin/airflow"
    assert running.found == FoundAirflow(
        script, "1.10.15", "AIRFLOW_HOME /srv/airflow", "delete-add"
    )
    assert told.startswith(f"{script} (1.10.15) does not show ")


def test_what_cannot_be_written_by(start: Start, tmp_path: Path) -> None:
    assert catch(StepFailed, start("", version="").__enter__) == (
        f"{tmp_path}/bin/airflow runs in a Python without the package apache-airflow: "
        "name another script with --airflow, or say --airflow-version"
    )
    assert catch(StepFailed, start("", "0.1.0", "airflowctl").__enter__) == (
        f"{tmp_path}/bin/airflowctl has no login in AIRFLOW_HOME {tmp_path}/airflow: "
        "run there airflowctl auth login --api-url https://… --skip-keyring; "
        "AIRFLOW_CLI_TOKEN is from airflowctl auth token"
    )


def test_a_python_that_cannot_tell(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['urllib.parse'] = None"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = catch(StepFailed, start("").__enter__)
    assert told.startswith("its Python cannot tell which Airflow it has: ")
    assert told.endswith("import of urllib.parse halted; None in sys.modules")
    assert "\n" not in told


# --- what it holds ---

STRANGE = ("silent", "strange", "foreign")
GET = """\
import json, sys
if sys.argv[2] == "list":
    sys.exit()
conn_id = sys.argv[3]
fields = {"id": "7", "conn_type": "docker", "description": "mine", "host": "h",
          "port": 5000, "login": "me", "password": "s3cret", "extra_dejson": {"a": 1}}
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


def test_connections_as_a_task_finds_them(start: Start, where: str) -> None:
    asked = ["one", "empty", "missing", "fails", *STRANGE, "one"]
    with start(GET) as running:
        running.open_database()
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
        answer = "): the answer to `connections get` is not understood"
        assert str(failure) == where + answer


def test_a_database_that_cannot_be_asked(start: Start, where: str) -> None:
    """Then `get` says that the connection is not there, and only `list` why."""
    script = """\
import sys
if sys.argv[2] == "list":
    raise RuntimeError("no such table: connection")
sys.exit("Connection not found.")
"""
    said = f"{where}, exit status 1): RuntimeError: no such table: connection"
    why = f"{said}; check AIRFLOW_HOME and the database's URL: are they those of the workers?"
    with start(script) as running:
        held = running.read(["one"])["one"]
        assert catch(StepFailed, running.open_database) == why
    assert type(held) is StepFailed
    assert str(held) == why


# --- what is written ---

IMPORT = """\
import json, sys
if __name__ == "__main__":
    for conn_id, fields in json.load(open(sys.argv[-1])).items():
        if conn_id == "refused":
            print("Could not import connection refused: " + fields["password"])
        elif conn_id == "failing":
            raise ValueError("cannot store " + fields["password"])
        else:
            print("Imported connection " + conn_id)
"""


def test_an_import_of_several(
    start: Start, caplog: pytest.LogCaptureFixture, temporary: Path, where: str
) -> None:
    """One of them stops it; each is tried again alone, and so others are written."""
    caplog.set_level(logging.DEBUG)  # what Airflow printed is for whoever wants it
    several = [replace(ONE, conn_id=name) for name in ("refused", "failing", "fine")]
    with start(IMPORT, import_now=True) as running:
        assert running.write([]) == {}
        told = running.write(several)
    refusal = "Could not import connection refused: ***"
    assert told == {
        "refused": f"{where}, exit status 0): {refusal}",
        "failing": f"{where}, exit status 1): ValueError: cannot store ***",
    }
    assert refusal in caplog.messages
    assert "Imported connection fine" in caplog.messages
    assert "s3cret" not in caplog.text
    assert list(temporary.iterdir()) == []


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
    start: Start, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """What is refused without an error is not tried again."""
    caplog.set_level(logging.DEBUG)
    with start(DELETE_AND_ADD, "2.5.3", import_now=True) as running:
        told = running.write([ONE, TWO])
    assert told == {
        "two": f"{where}, exit status 0): Found more than one connection with "
        "`conn_id`=two; delete all of them in the UI, under Admin, Connections"
    }
    assert running.found.remark == "not in one transaction"
    deleted, added = caplog.messages[-2:]
    assert deleted == added
    assert caplog.messages.count(deleted) == 2


def test_an_airflow_that_cannot_be_imported(start: Start, where: str) -> None:
    """Every command ends so, and none of them is tried."""
    why = f"{where}, exit status 1): ImportError: no flask"
    code = "raise ImportError('no flask' if __name__ == 'imported' else 'tried')"
    with start(code, import_now=True) as running:
        (held,) = running.read(["one"]).values()
        assert str(held) == why
        told = running.write([ONE, TWO])
    assert told == dict.fromkeys(["one", "two"], why)


def test_an_end_in_the_middle(start: Start) -> None:
    end = r"import os; os.write(1, b'\xff cannot take s3cret\n'); os._exit(3)"
    with start(end) as running:
        told = running.write([ONE, TWO])
    why = f"{running.found.executable}: \ufffd cannot take *** (exit status 3)"
    assert told == dict.fromkeys(["one", "two"], why)


def test_a_deadline_names_the_database(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be why. Once Airflow has started, the clock goes a thousand times fast."""
    url = "mysql://me:s3cret@db.example.com/airflow"
    monkeypatch.setenv("AIRFLOW__CORE__SQL_ALCHEMY_CONN", url)
    now = time.monotonic
    with start("import time; time.sleep(60)") as running:
        monkeypatch.setattr(time, "monotonic", lambda: 1000 * now())
        monkeypatch.setattr(interpreter, "LOOK_EVERY", 0.01)
        told = running.write([ONE])
    why = "killed after 30 s, while running connections import; see --timeout"
    where = "the database is at db.example.com"
    assert told == {"one": f"{running.found.executable}: {why}; {where}"}
