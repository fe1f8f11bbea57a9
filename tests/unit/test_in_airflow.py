"""The program that runs in Airflow's Python, here in ours: its answers, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "_ecr_airflow_sync/in_airflow.py"
SCRIPT = """
import os, sys
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
if "name" in sys.argv:
    print(__name__)
"""


@dataclass
class Conversation:
    """What came back: the status, the greeting, and outputs with statuses."""

    status: int
    greeting: dict[str, Any]
    answers: list[tuple[str, int]]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "airflow"
    path.write_text(SCRIPT)
    return path


def converse(script: Path, *requests: dict[str, Any], **env: str) -> Conversation:
    """Run the program as start_interpreter.sh does, but from its file."""
    defaults = {
        "file": None,
        "seconds": 60,
        "run_name": "__main__",
        "uninterrupted": False,
    }
    lines = [json.dumps({**defaults, **request}) + "\n" for request in requests]
    done = subprocess.run(
        [sys.executable, "-u", str(PROGRAM), str(script), "MARK"],
        input="".join(lines),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(script.parent), **env},
        text=True,
        start_new_session=True,
        check=False,
    )
    before = ""
    facts: list[tuple[str, dict[str, Any]]] = []
    for piece in done.stdout.split("\nMARK"):
        document, _, rest = piece.partition("\n")
        if facts or piece is not done.stdout.split("\nMARK")[0]:
            facts.append((before, json.loads(document)))
            before = rest
    answers = [(output, answer["status"]) for output, answer in facts[1:]]
    return Conversation(done.returncode, facts[0][1], answers)


def test_statuses_and_outputs(script: Path) -> None:
    words = ["ok"], ["fail"], ["exit"], ["three"]
    got = converse(script, {"commands": words}, {"commands": [["again"]]})
    assert [status for _, status in got.answers] == [0, 1, 1, 3, 0]
    assert got.answers[0][0] == "hello ok\n"
    assert got.answers[1][0].endswith("ValueError: as asked\n")
    assert got.answers[2][0] == "hello exit\nas told\n"
    assert got.answers[4][0] == "hello again\n"
    assert got.status == 0
    assert list(script.parent.glob("ecr-airflow-sync-*")) == []


def test_a_file_is_a_pipe_that_ends_in_json(script: Path) -> None:
    got = converse(script, {"commands": [["read"]], "file": {"a": {"b": "c"}}})
    output, status = got.answers[0]
    hello, read, _ = output.split("\n")
    assert (status, read) == (0, '{"a": {"b": "c"}}')
    assert hello.endswith("/connections.json")


def test_commands_find_stdin_empty(script: Path) -> None:
    got = converse(script, {"commands": [["stdin"], ["next"]]})
    assert got.answers == [("hello stdin\n['']\n", 0), ("hello next\n", 0)]


def test_a_script_that_is_only_imported(script: Path) -> None:
    got = converse(script, {"commands": [["name"]], "run_name": "imported"})
    assert got.answers == [("hello name\nimported\n", 0)]


def test_what_takes_too_long_is_killed(script: Path) -> None:
    got = converse(script, {"commands": [["hang"]], "seconds": 0.2})
    assert (got.status, got.answers) == (-signal.SIGKILL, [])
    assert list(script.parent.glob("ecr-airflow-sync-*")) == []


def test_which_airflow_this_is(script: Path, tmp_path: Path) -> None:
    package = tmp_path / "site/apache_airflow-3.9.1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: apache-airflow\nVersion: 3.9.1\n")
    env = {"AIRFLOW_HOME": "/srv/airflow", "AIRFLOW_CONN_X": "docker://"}
    got = converse(script, PYTHONPATH=str(package.parent), **env)
    assert got.greeting == {
        "script": str(script),
        "is_airflowctl": False,
        "version": "3.9.1",
        "home": "/srv/airflow",
        "place": "AIRFLOW_HOME /srv/airflow",
        "variables": ["AIRFLOW_CONN_X"],
    }
    assert converse(script).greeting["version"] is None


@pytest.mark.parametrize(
    ("login", "place"),
    [
        ('{"api_url": "https://airflow.example.com"}', "https://airflow.example.com"),
        ("{}", ""),
        ("[]", ""),
        ("no JSON", ""),
    ],
)
def test_where_airflowctl_is_logged_in(script: Path, login: str, place: str) -> None:
    airflowctl = script.rename(script.with_name("airflowctl"))
    (script.parent / "production.json").write_text(login)
    greeting = converse(airflowctl, AIRFLOW_HOME=str(script.parent)).greeting
    assert (greeting["is_airflowctl"], greeting["place"]) == (True, place)
