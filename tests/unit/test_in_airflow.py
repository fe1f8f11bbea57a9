"""The programs that run in Airflow's Python, here in ours: their answers, their end."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Iterator

import pytest

from _ecr_airflow_sync.airflow_syntax import Command, Outcome
from _ecr_airflow_sync.interpreter import Interpreter, run_interpreter
from tests.support.command import ROOT

from .conftest import WriteScript, describe

# It does what it is told, in words where an Airflow has its commands.
SCRIPT = """\
import os, signal, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside our threads
if __name__ == "__main__":
    exec(sys.argv[1])
else:
    print("name", __name__)
"""
# As much of Airflow as our programs look for.
LITTLE_AIRFLOW = ROOT / "tests/support/little_airflow"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("airflow")
    path = folder / "airflow"
    path.write_text(f"#!{sys.executable}\n{SCRIPT}")
    path.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("PYTHONPATH", str(LITTLE_AIRFLOW))
        patch.setenv("AIRFLOW_HOME", "/srv/airflow")
        patch.setenv("AIRFLOW_CONN_X", "docker://")
        url = "postgresql+psycopg2://airflow:s3cret@db.example.com:5432/airflow"
        patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
        yield path


@pytest.fixture(scope="module")
def interpreter(script: Path) -> Iterator[Interpreter]:
    """One for all tests: what one of them runs is not in the way of another."""
    with run_interpreter(str(script), 300) as interpreter:
        yield interpreter
    assert list(script.parent.glob("ecr-airflow-sync-*")) == []


def run(interpreter: Interpreter, code: str) -> Outcome:
    return interpreter.run(Command([code]))


# As multiprocessing ends a pool, also when a child has only just been made.
FORK_AND_TERMINATE = """\
ends = set()
for _ in range(50):
    child = os.fork()
    if child == 0:
        time.sleep(20)
    os.kill(child, signal.SIGTERM)
    ends.add(os.waitpid(child, 0)[1])
print(*ends)
"""
ENDS = {
    "raise ValueError('as asked')": (1, "ValueError: as asked"),
    "sys.exit('as told')": (1, "as told"),
    "sys.exit(3)": (3, ""),
    "sys.exit()": (0, ""),
    "if os.fork() == 0: sys.exit(7)": (0, ""),
    FORK_AND_TERMINATE: (0, f"{signal.SIGTERM}"),
    "print([sys.stdin.read()])": (0, "['']"),
    "import gc; print(gc.isenabled())": (0, "False"),
    # As a plugin may do.
    "sys.stdout = sys.stderr = open(os.devnull, 'w')": (0, ""),
}


@pytest.mark.parametrize("code", ENDS)
def test_statuses_and_outputs(interpreter: Interpreter, code: str) -> None:
    outcome = run(interpreter, code)
    last_line = outcome.output[:-1].rpartition("\n")[2]
    assert (outcome.status, last_line) == ENDS[code]
    assert run(interpreter, "print('hello')") == Outcome(0, "hello\n")


def test_a_file_is_a_pipe_for_airflows_user_alone(interpreter: Interpreter) -> None:
    code = """\
import stat
pipe = sys.argv[-1]
print(pipe)
print(open(pipe).read())
for path in (pipe, os.path.dirname(pipe), os.path.dirname(os.path.dirname(pipe))):
    print(stat.filemode(os.stat(path).st_mode))
"""
    outcome = interpreter.run(Command([code], {"a": {"b": "c"}}))
    path, read, *modes = outcome.output.splitlines()
    assert path.endswith("/connections.json")
    assert read == '{"a": {"b": "c"}}'
    assert modes == ["prw-------", "drwx------", "drwx------"]


def test_an_import_runs_nothing(interpreter: Interpreter) -> None:
    interpreter.start_import()
    assert interpreter.finish_import() == Outcome(0, "name imported\n")


# --- transactions ---


USE_SESSION = """\
from airflow import settings
settings.Session().commit()
settings.Session().close()
"""
MASK = """\
from airflow.utils.log.secrets_masker import masker
print(sorted(masker.patterns))
masker.patterns.add("a token")
"""
REPEAT = """\
from airflow.bin.cli import CLIFactory
from airflow.utils import db
db.check_and_run_migrations()
CLIFactory.get_parser()
"""


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction(interpreter: Interpreter, end: str) -> None:
    assert interpreter.execute("transaction.py", "begin") == Outcome(0, "")
    assert run(interpreter, USE_SESSION) == Outcome(0, "flush\n")
    ended = interpreter.execute("transaction.py", end)
    assert ended == Outcome(0, f"{end}\nclose\n")
    assert run(interpreter, USE_SESSION) == Outcome(0, "commit\nclose\n")


def test_tokens_are_masked_to_the_end_of_the_transaction(
    interpreter: Interpreter,
) -> None:
    """Airflow compiles all secrets anew for each further one."""
    said = []
    for action in ("begin", "commit"):
        interpreter.execute("transaction.py", action)
        said += [run(interpreter, MASK).output for _ in range(2)]
    alone, both = "['the Fernet key']\n", "['a token', 'the Fernet key']\n"
    assert said == [alone, both, alone, both]


def test_what_each_command_does_again_is_spared(script: Path) -> None:
    """The look for migrations in 2.x, the parser of the whole command line in 1.10."""
    said = []
    with run_interpreter(str(script), 60) as interpreter:
        for _ in range(3):
            said.append(run(interpreter, REPEAT).output.split())
            interpreter.execute("transaction.py", "begin")
            interpreter.execute("transaction.py", "commit")
    assert said == [["migrations", "parser"], ["parser"], []]


def test_no_token_is_in_the_audit_log(interpreter: Interpreter) -> None:
    """To which 1.10.0 to 1.10.13 tell every word, --conn_password among them."""
    for action in ("begin", "commit"):
        interpreter.execute("transaction.py", action)
    code = "from airflow.utils import cli; cli._build_metrics('connections', None)"
    words = ["--conn_login=AWS", "--conn_password=s3cret", "--conn_host=h"]
    outcome = interpreter.run(Command([f"{code}; print(sys.argv[3])", *words]))
    logged, password = outcome.output.splitlines()
    assert logged == "connections --conn_login=AWS --conn_password=*** --conn_host=h"
    assert password == "--conn_password=s3cret"


def change(
    interpreter: Interpreter,
    dialect: str = "sqlite",
    is_unique: bool = True,
    refuses: bool = False,
    shared: bool = True,
) -> None:
    """Into another Airflow, or back into the first."""
    code = f"""\
from airflow import models, settings
settings.session.dialect.name = {dialect!r}
settings.refuses, settings.shared = {refuses}, {shared}
models.Connection.conn_id.unique = {is_unique}
"""
    assert run(interpreter, code) == Outcome(0, "")


LOCKS = {
    "postgresql": "LOCK TABLE airflow.connection IN SHARE ROW EXCLUSIVE MODE\n",
    "mysql": "DO GET_LOCK('ecr-airflow-sync', 60)\n",
    "sqlite": "",
}


@pytest.mark.parametrize("dialect", LOCKS)
def test_where_ids_are_not_unique_others_wait(
    interpreter: Interpreter, dialect: str
) -> None:
    for is_unique, lock in ((True, ""), (False, LOCKS[dialect])):
        change(interpreter, dialect=dialect, is_unique=is_unique)
        assert interpreter.execute("transaction.py", "begin") == Outcome(0, lock)
        interpreter.execute("transaction.py", "rollback")
    change(interpreter)


def test_a_lock_that_cannot_be_had_leaves_a_session_that_works(
    interpreter: Interpreter,
) -> None:
    change(interpreter, dialect="postgresql", is_unique=False, refuses=True)
    outcome = interpreter.execute("transaction.py", "begin")
    change(interpreter)
    assert outcome.status == 1
    assert outcome.output.startswith("rollback\n")
    assert outcome.output.endswith("RuntimeError: canceling due to lock timeout\n")
    assert run(interpreter, USE_SESSION) == Outcome(0, "commit\nclose\n")


def test_sessions_that_are_not_shared(interpreter: Interpreter) -> None:
    change(interpreter, shared=False)
    outcome = interpreter.execute("transaction.py", "begin")
    change(interpreter)
    assert outcome.status == 1
    assert "Airflow's commands do not share a database session" in outcome.output


# --- which Airflow this is ---


def test_which_airflow_this_is(script: Path, interpreter: Interpreter) -> None:
    assert describe(interpreter) == {
        "script": str(script),
        "is_airflowctl": False,
        "version": "3.9.1",
        "home": "/srv/airflow",
        "place": "AIRFLOW_HOME /srv/airflow",
        "database": "db.example.com",
        "variables": ["AIRFLOW_CONN_X"],
    }


CONFIGURED = {
    "[core]\nsql_alchemy_conn = mysql://me:s3cret@old.example.com/airflow\n": "old.example.com",
    "sql_alchemy_conn=sqlite:////srv/airflow.db": "",
    "sql_alchemy_conn = mysql://[": "",
    "# sql_alchemy_conn = mysql://db.example.com": "",
    "\udcff": "",
}


def test_where_the_database_is(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it is plain to see."""
    monkeypatch.delenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    with run_interpreter(str(script), 60) as interpreter:
        assert describe(interpreter)["database"] == ""
        for text, host in CONFIGURED.items():
            content = text.encode("utf-8", "surrogateescape")
            (tmp_path / "airflow.cfg").write_bytes(content)
            assert describe(interpreter)["database"] == host
        (tmp_path / "my.cfg").write_text("sql_alchemy_conn = mysql://my.example.com\n")
        run(interpreter, f"os.environ['AIRFLOW_CONFIG'] = '{tmp_path}/my.cfg'")
        assert describe(interpreter)["database"] == "my.example.com"


def test_where_airflowctl_is_logged_in(
    write_script: WriteScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    url = "https://airflow.example.com"
    logins = {json.dumps({"api_url": url}): url, "{}": "", "[]": "", "no JSON": ""}
    with run_interpreter(write_script("", "airflowctl"), 60) as interpreter:
        for login, place in logins.items():
            (tmp_path / "production.json").write_text(login)
            facts = describe(interpreter)
            assert (facts["is_airflowctl"], facts["place"]) == (True, place)
