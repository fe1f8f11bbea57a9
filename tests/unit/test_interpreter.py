"""A process of Airflow's Python: how it is found, what it says, how it ends. All real."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from _ecr_airflow_sync import interpreter
from _ecr_airflow_sync.airflow_syntax import Command
from _ecr_airflow_sync.errors import StepFailed
from _ecr_airflow_sync.interpreter import Interpreter, run_interpreter

WriteScript = Callable[..., str]
PROGRAM = "describe_airflow.py"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For what the process puts into a temporary folder."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))


def fail_to_start(command: str, timeout: float = 30) -> str:
    """Why it answers nothing."""
    with pytest.raises(StepFailed) as caught, run_interpreter(command, timeout) as it:
        it.execute(PROGRAM)
    return str(caught.value)


def describe(process: Interpreter) -> dict[str, Any]:
    """What it answers first in a run."""
    last_line = process.execute(PROGRAM).output.splitlines()[-1]
    facts: dict[str, Any] = json.loads(last_line)
    return facts


def is_alive(pid: int) -> bool:
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return listed.stdout.strip() not in ("", "Z")


def wait_for_end(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process outlives the run"
        time.sleep(0.02)


# --- finding it ---


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    assert fail_to_start(f"{tmp_path}/sudo airflow") == (
        f"cannot run {tmp_path}/sudo: No such file or directory; check --airflow, PATH"
    )
    (tmp_path / "sudo").touch(0o644)
    assert fail_to_start(f"{tmp_path}/sudo airflow") == (
        f"cannot run {tmp_path}/sudo: Permission denied; check --airflow, PATH"
    )


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    told = fail_to_start(f"{tmp_path}/airflow")
    assert told.startswith(f"{tmp_path}/airflow: ")
    assert told.endswith(" (exit status 127)")


def test_a_script_that_is_no_python(tmp_path: Path) -> None:
    script = tmp_path / "airflow"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    told = fail_to_start(str(script))
    assert f"{script} is no Python script" in told
    assert told.endswith(" (exit status 126)")


def test_a_prefix_comes_before_it(write_script: WriteScript) -> None:
    script = write_script("import os; print(os.environ['TEAM'])")
    with run_interpreter(f"env 'TEAM=a b' {script}", 30) as process:
        outcome = process.run(Command([]))
    assert outcome.output == "a b\n"


# --- the conversation ---


def test_answers(write_script: WriteScript) -> None:
    script = write_script("""\
import sys
if "bytes" in sys.argv:
    sys.stdout.buffer.write(b"\\xff")
print(sys.argv[1:])
sys.exit(len(sys.argv))
""")
    with run_interpreter(script, 30) as process:
        assert describe(process)["script"] == script
        first = process.run(Command(["a", "b c"]))
        second = process.run(Command(["\u00e9"]))
        third = process.run(Command(["bytes"]))
    assert (first.status, first.output) == (3, "['a', 'b c']\n")
    assert (second.status, second.output) == (2, "['\u00e9']\n")
    assert (third.status, third.output) == (2, "\ufffd['bytes']\n")


def test_a_file_of_any_size(write_script: WriteScript) -> None:
    script = write_script("import sys; print(len(open(sys.argv[-1]).read()))")
    content = {"a": "x" * 1_000_000}
    size = len(json.dumps(content))
    with run_interpreter(script, 30) as process:
        outcome = process.run(Command(["import"], content))
    assert outcome.output == f"{size}\n"


def test_an_import_may_be_under_way(write_script: WriteScript) -> None:
    script = write_script("print(__name__)")
    with run_interpreter(script, 30) as process:
        process.start_import()
        outcome = process.finish_import()
    assert outcome.output == "imported\n"


def test_what_is_printed_before_any_answer(write_script: WriteScript) -> None:
    """As a prefix may, with words that look like an answer."""
    script = write_script("print('hello')")
    chatty = 'sh -c \'echo welcome; printf half; exec "$0" "$@"\''
    with run_interpreter(f"{chatty} {script}", 30) as process:
        assert describe(process)["script"] == script
        outcome = process.run(Command([]))
    assert outcome.output == "hello\n"


# --- the end ---


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("echo one; echo two; exit 5", "two (exit status 5)"),
        ("exit 5", "it said nothing (exit status 5)"),
        ("echo sorry; echo '[{\"password\": \"s3cret\"}]'; exit 5",
         "sorry (exit status 5)"),
        ("echo pg://me:s3cret_db | tr _ @; kill -9 $$", "pg://me:***@db (exit status -9)"),
    ],
    ids=["last words", "silent", "a connection", "a secret"],
)  # fmt: skip
def test_an_end_before_any_answer(words: str, told: str) -> None:
    command = f"sh -c {shlex.quote(words)} airflow"
    assert fail_to_start(command) == f"{command}: {told}"


def test_an_end_in_the_middle(write_script: WriteScript) -> None:
    """Then no answer comes any more, and nobody waits for one."""
    script = write_script("import os; print('bye', flush=True); os._exit(3)")
    with run_interpreter(script, 30) as process:
        for _ in range(2):
            with pytest.raises(StepFailed) as caught:
                process.run(Command(["a"]))
            assert str(caught.value) == f"{script}: bye (exit status 3)"


def test_a_child_that_holds_stdout(write_script: WriteScript, tmp_path: Path) -> None:
    """The process is gone, so its last words are told at once."""
    script = write_script(f"""\
import os, subprocess
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print("no luck", flush=True)
os._exit(3)
""")
    began = time.monotonic()
    with run_interpreter(script, 30) as process, pytest.raises(StepFailed) as caught:
        process.run(Command([]))
    assert str(caught.value) == f"{script}: no luck (exit status 3)"
    assert time.monotonic() - began < 15
    wait_for_end(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    "prefix",
    ["sleep 60 #", "yes #"],
    ids=["silent", "chatty"],
)
def test_a_deadline_before_any_answer(prefix: str) -> None:
    command = f"sh -c '{prefix}' airflow"
    began = time.monotonic()
    told = fail_to_start(command, timeout=0.3)
    assert time.monotonic() - began < 10
    why = "killed after 0.3 s, while starting; see --timeout"
    assert told == f"{command}: {why}"


def test_an_exception_ends_it_and_its_children(
    write_script: WriteScript, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = write_script(f"""\
import os, subprocess, time
child = subprocess.Popen(["sleep", "60"])
open({str(pids)!r}, "w").write("%s %s\\n" % (os.getpid(), child.pid))
time.sleep(60)
""")
    began = time.monotonic()

    def interrupt() -> None:
        with run_interpreter(script, 30) as process:
            process.start_import()
            while not pids.exists() or not pids.read_text().endswith("\n"):
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert time.monotonic() - began < 10
    wait_for_end(*map(int, pids.read_text().split()))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_one_that_does_not_heed_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a prefix that ignores it."""
    monkeypatch.setattr(interpreter, "GRACE", 0.1)
    deaf = "sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' airflow"
    began = time.monotonic()
    assert "killed after 0.2 s" in fail_to_start(deaf, timeout=0.2)
    assert time.monotonic() - began < 15


def test_it_is_not_killed_while_it_ends(
    write_script: WriteScript, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    script = write_script("print('hello')")
    slow = f'sh -c \'"$0" "$@"; sleep 0.2; touch {done}\''
    with run_interpreter(f"{slow} {script}", 30) as process:
        process.execute(PROGRAM)
    assert done.exists()
    assert os.listdir(tmp_path / "tmp") == []


def test_the_python_is_the_scripts_own(write_script: WriteScript) -> None:
    script = write_script("import sys; print(sys.executable)")
    with run_interpreter(script, 30) as process:
        outcome = process.run(Command([]))
    assert outcome.output == f"{sys.executable}\n"


def test_a_deadline_that_the_import_misses(write_script: WriteScript) -> None:
    script = write_script("import time; time.sleep(60)")
    with run_interpreter(script, 0.5) as process:
        process.start_import()
        with pytest.raises(StepFailed) as caught:
            process.finish_import()
    why = "killed after 0.5 s, while importing Airflow; see --timeout"
    assert str(caught.value) == f"{script}: {why}"
