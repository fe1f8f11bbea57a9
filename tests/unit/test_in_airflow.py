"""The programs that run in Airflow's Python, here in ours: their answers, their end."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from _ecr_airflow_sync.airflow_syntax import Command, Outcome
from _ecr_airflow_sync.errors import StepFailed
from _ecr_airflow_sync.interpreter import Interpreter, run_interpreter

PROGRAM = "describe_airflow.py"
SCRIPT = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside our threads
print("hello", *sys.argv[1:])
if "fail" in sys.argv:
    raise ValueError("as asked")
if "exit" in sys.argv:
    raise SystemExit("as told")
if "three" in sys.argv:
    sys.exit(3)
if "read" in sys.argv:
    print(open(sys.argv[-1]).read())
if "stdin" in sys.argv:
    print([sys.stdin.read()])
if "hang" in sys.argv:
    import time; time.sleep(60)
if "replace" in sys.argv:
    sys.stdout = sys.stderr = open(os.devnull, "w")
if "none" in sys.argv:
    sys.exit()
if "fork" in sys.argv and os.fork() == 0:
    sys.exit(0)
if "terminate" in sys.argv:
    import signal, time
    from multiprocessing import Pool
    with Pool(4) as pool:
        pool.map(abs, range(4))
    there, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready, b"x")
        time.sleep(60)
    os.read(there, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitpid(child, 0)[1])
if "commit" in sys.argv:
    from airflow import settings
    settings.Session().commit()
    settings.Session().close()
if __name__ != "__main__":
    print("name", __name__)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "airflow"
    path.write_text(f"#!{sys.executable}\n{SCRIPT}")
    path.chmod(0o755)
    return path


@pytest.fixture
def interpreter(script: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Interpreter]:
    monkeypatch.setenv("TMPDIR", str(script.parent))
    with run_interpreter(str(script), 60) as interpreter:
        yield interpreter
    assert list(script.parent.glob("ecr-airflow-sync-*")) == []


@pytest.mark.parametrize(
    ("word", "status", "end"),
    [
        ("ok", 0, "hello ok\n"),
        ("fail", 1, "ValueError: as asked\n"),
        ("exit", 1, "hello exit\nas told\n"),
        ("three", 3, "hello three\n"),
        ("none", 0, "hello none\n"),
        ("fork", 0, "hello fork\n"),
        ("stdin", 0, "hello stdin\n['']\n"),
    ],
)
def test_statuses_and_outputs(
    interpreter: Interpreter, word: str, status: int, end: str
) -> None:
    outcome = interpreter.run(Command([word]))
    assert (outcome.status, outcome.output[-len(end) :]) == (status, end)
    assert interpreter.run(Command(["again"])) == Outcome(0, "hello again\n")


def test_a_file_is_a_pipe_that_ends_in_json(interpreter: Interpreter) -> None:
    outcome = interpreter.run(Command(["read"], {"a": {"b": "c"}}))
    hello, read, _ = outcome.output.split("\n")
    assert (outcome.status, read) == (0, '{"a": {"b": "c"}}')
    assert hello.endswith("/connections.json")


def test_a_plugin_that_replaces_stdout(interpreter: Interpreter) -> None:
    assert interpreter.run(Command(["replace"])).status == 0
    assert interpreter.run(Command(["again"])).output == "hello again\n"


def test_an_import_runs_nothing(interpreter: Interpreter) -> None:
    interpreter.start_import()
    assert interpreter.finish_import().output.endswith("\nname imported\n")


def test_what_takes_too_long_is_killed(script: Path) -> None:
    with run_interpreter(str(script), 0.5) as interpreter:
        message = f"{script}: killed after 0.5 s, while running hang; see --timeout"
        for _ in range(2):
            with pytest.raises(StepFailed, match=re.escape(message)):
                interpreter.run(Command(["hang"]))


def test_a_forked_child_can_be_terminated(interpreter: Interpreter) -> None:
    outcome = interpreter.run(Command(["terminate"]))
    assert outcome == Outcome(0, f"hello terminate\n{signal.SIGTERM}\n")
    assert interpreter.run(Command(["again"])).status == 0


SETTINGS = """
import os
class Session:
    def flush(self): print("flush")
    def commit(self): print("commit")
    def rollback(self): print("rollback")
    def close(self): print("close")
    def execute(self, statement): print(statement)
    def get_bind(self):
        bind = type("Bind", (), {})
        bind.dialect = type("Dialect", (), {"name": os.environ["DIALECT"]})
        return bind
session = Session()
def Session(): return session if shared else object()
shared = True
"""
MODELS = """
import os
class Connection:
    class __table__:
        class c:
            class conn_id:
                unique = os.environ["UNIQUE"] == "yes"
"""


@pytest.fixture
def settings(script: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As much of a package airflow as a transaction needs."""
    package = script.parent / "site/airflow"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "settings.py").write_text(SETTINGS)
    (package / "models.py").write_text(MODELS)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("DIALECT", "postgresql")
    monkeypatch.setenv("UNIQUE", "yes")
    return package / "settings.py"


@pytest.mark.parametrize(
    ("end", "said"), [("commit", "commit\nclose\n"), ("rollback", "rollback\nclose\n")]
)
def test_a_transaction(
    settings: Path, interpreter: Interpreter, end: str, said: str
) -> None:
    assert interpreter.execute("transaction.py", "begin") == Outcome(0, "")
    within = interpreter.run(Command(["commit"]))
    assert within == Outcome(0, "hello commit\nflush\n")
    assert interpreter.execute("transaction.py", end) == Outcome(0, said)
    after = interpreter.run(Command(["commit"]))
    assert after == Outcome(0, "hello commit\ncommit\nclose\n")


MASKER = """
class Masker:
    patterns = {"the Fernet key"}
masker = Masker()
def _secrets_masker(): return masker
"""


def test_tokens_are_masked_to_the_end_of_the_transaction(
    settings: Path, script: Path, interpreter: Interpreter
) -> None:
    """Airflow compiles all secrets anew for each further one."""
    package = settings.parent / "utils/log"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "secrets_masker.py").write_text(MASKER)
    script.write_text(f"""#!{sys.executable}
from airflow.utils.log.secrets_masker import masker
print(sorted(masker.patterns))
masker.patterns.add("a token")
""")
    said = []
    for action in ("begin", "commit"):
        interpreter.execute("transaction.py", action)
        said += [interpreter.run(Command([])).output for _ in range(2)]
    alone, both = "['the Fernet key']\n", "['a token', 'the Fernet key']\n"
    assert said == [alone, both, alone, both]


def test_what_each_command_does_again_is_spared(
    settings: Path, script: Path, interpreter: Interpreter
) -> None:
    """The look for migrations in 2.x, the parser of the whole command line in 1.10."""
    package = settings.parent
    for folder in ("utils", "bin"):
        (package / folder).mkdir()
        (package / folder / "__init__.py").touch()
    (package / "utils/db.py").write_text(
        "def check_and_run_migrations(): print('migrations')\n"
    )
    (package / "bin/cli.py").write_text(
        "class CLIFactory:\n"
        "    @classmethod\n"
        "    def get_parser(cls): print('parser')\n"
    )
    script.write_text(f"""#!{sys.executable}
from airflow.bin.cli import CLIFactory
from airflow.utils import db
db.check_and_run_migrations()
CLIFactory.get_parser()
""")
    said = []
    for _ in range(3):
        said.append(interpreter.run(Command([])).output)
        interpreter.execute("transaction.py", "begin")
        interpreter.execute("transaction.py", "commit")
    assert said == ["migrations\nparser\n", "parser\n", ""]


@pytest.mark.parametrize(
    ("dialect", "lock"),
    [
        ("postgresql", "LOCK TABLE connection IN SHARE ROW EXCLUSIVE MODE\n"),
        ("mysql", "DO GET_LOCK('ecr-airflow-sync', 60)\n"),
        ("sqlite", ""),
    ],
)
def test_where_ids_are_not_unique_others_wait(
    settings: Path,
    script: Path,
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
    lock: str,
) -> None:
    monkeypatch.setenv("DIALECT", dialect)
    monkeypatch.setenv("UNIQUE", "no")
    with run_interpreter(str(script), 60) as interpreter:
        assert interpreter.execute("transaction.py", "begin") == Outcome(0, lock)


def test_sessions_that_are_not_shared(settings: Path, interpreter: Interpreter) -> None:
    settings.write_text(SETTINGS.replace("shared = True", "shared = False"))
    outcome = interpreter.execute("transaction.py", "begin")
    assert outcome.status == 1
    assert "Airflow's commands do not share a database session" in outcome.output


def describe(interpreter: Interpreter) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(interpreter.execute(PROGRAM).output)
    return facts


def test_which_airflow_this_is(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_interpreter(str(script), 60) as interpreter:
        assert describe(interpreter)["version"] is None
    package = tmp_path / "site/apache_airflow-3.9.1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: apache-airflow\nVersion: 3.9.1\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("AIRFLOW_HOME", "/srv/airflow")
    monkeypatch.setenv("AIRFLOW_CONN_X", "docker://")
    url = "postgresql+psycopg2://airflow:s3cret@db.example.com:5432/airflow"
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    with run_interpreter(str(script), 60) as interpreter:
        assert describe(interpreter) == {
            "script": str(script),
            "is_airflowctl": False,
            "version": "3.9.1",
            "home": "/srv/airflow",
            "place": "AIRFLOW_HOME /srv/airflow",
            "database": "db.example.com",
            "variables": ["AIRFLOW_CONN_X"],
        }


@pytest.mark.parametrize(
    ("login", "place"),
    [
        ('{"api_url": "https://airflow.example.com"}', "https://airflow.example.com"),
        ("{}", ""),
        ("[]", ""),
        ("no JSON", ""),
    ],
)
def test_where_airflowctl_is_logged_in(
    script: Path, monkeypatch: pytest.MonkeyPatch, login: str, place: str
) -> None:
    airflowctl = script.rename(script.with_name("airflowctl"))
    (script.parent / "production.json").write_text(login)
    monkeypatch.setenv("AIRFLOW_HOME", str(script.parent))
    with run_interpreter(str(airflowctl), 60) as interpreter:
        facts = describe(interpreter)
    assert (facts["is_airflowctl"], facts["place"]) == (True, place)
