"""A process of Airflow's Python: how it is found, what it says, how it ends. All real."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import pytest

from _ecr_airflow_sync import interpreter
from _ecr_airflow_sync.airflow_syntax import Command, Outcome
from _ecr_airflow_sync.errors import StepFailed, TimedOut
from _ecr_airflow_sync.interpreter import run_interpreter

from .conftest import WriteScript, catch, describe, read_pids, wait_for_end

pytestmark = pytest.mark.usefixtures("temporary")


def fail_to_start(command: str, timeout: float = 30) -> str:
    """Why it answers nothing."""
    with run_interpreter(command, timeout) as process:
        return catch(StepFailed, describe, process)


# --- finding it ---


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    starting = run_interpreter(f"{tmp_path} airflow", 30)
    told = catch(StepFailed, starting.__enter__)
    assert told == f"cannot run {tmp_path}: Permission denied; check --airflow, PATH"


def test_a_script_that_cannot_be_run(tmp_path: Path) -> None:
    script = tmp_path / "airflow"
    told = fail_to_start(str(script))
    assert told.startswith(f"{script}: no such script; ")
    assert told.endswith(" (exit status 127)")
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    told = fail_to_start(str(script))
    assert told.startswith(f"{script}: {script} is no Python script")
    assert told.endswith(" (exit status 126)")


# --- the conversation ---


def test_answers(write_script: WriteScript) -> None:
    """Before them a prefix prints words that look like one."""
    script = write_script("""\
import os, sys
if "bytes" in sys.argv:
    sys.stdout.buffer.write(b"\\xff")
if "file" in sys.argv:
    print(len(open(sys.argv.pop()).read()))
print(os.environ["TEAM"], sys.executable, sys.argv[1:])
sys.exit(len(sys.argv))
""")
    content = {"a": "x" * 1_000_000}
    chatty = 'sh -c \'echo welcome; printf half; exec "$0" "$@"\''
    with run_interpreter(f"{chatty} env 'TEAM=a b' {script}", 30) as process:
        assert describe(process)["script"] == script
        words = process.run(Command(["a", "b c"]))
        letter = process.run(Command(["\u00e9"]))
        no_text = process.run(Command(["bytes"]))
        large = process.run(Command(["file"], content))
    who = f"a b {sys.executable}"
    assert (words.status, words.output) == (3, f"{who} ['a', 'b c']\n")
    assert (letter.status, letter.output) == (2, f"{who} ['\u00e9']\n")
    assert (no_text.status, no_text.output) == (2, f"\ufffd{who} ['bytes']\n")
    size = len(json.dumps(content))
    assert (large.status, large.output) == (2, f"{size}\n{who} ['file']\n")


# --- the end ---

ENDS = {
    "silent": ("exit 5", "it said nothing (exit status 5)"),
    "a connection": (
        'echo sorry; echo \'[{"password": "s3cret"}]\'; exit 5',
        "sorry (exit status 5)",
    ),
    "a secret": (
        "echo pg://me:s3cret_db | tr _ @; kill -9 $$",
        "pg://me:***@db (exit status -9)",
    ),
}


@pytest.mark.parametrize(("words", "told"), ENDS.values(), ids=ENDS)
def test_an_end_before_any_answer(words: str, told: str) -> None:
    command = f"sh -c {shlex.quote(words)} airflow"
    assert fail_to_start(command) == f"{command}: {told}"


def test_a_child_that_holds_stdout(
    write_script: WriteScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is gone: its last words are told at once, and to whoever asks again."""
    monkeypatch.setattr(interpreter, "LOOK_EVERY", 0.1)
    pid = tmp_path / "pid"
    script = write_script(f"""\
import os, subprocess
child = subprocess.Popen(["sleep", "60"])
print(child.pid, file=open({str(pid)!r}, "w"))
print("no luck", flush=True)
os._exit(3)
""")
    began = time.monotonic()
    with run_interpreter(script, 30) as process:
        for _ in range(2):
            told = catch(StepFailed, process.run, Command([]))
            assert told == f"{script}: no luck (exit status 3)"
    assert time.monotonic() - began < 15
    wait_for_end(read_pids(pid))


def test_a_deadline_before_any_answer() -> None:
    """However much is printed until then."""
    chatty = "sh -c 'yes #' airflow"
    began = time.monotonic()
    told = fail_to_start(chatty, timeout=0.3)
    assert time.monotonic() - began < 10
    assert told == f"{chatty}: killed after 0.3 s, while starting; see --timeout"


def test_all_commands_share_one_budget(
    write_script: WriteScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes five seconds and more, by a clock that goes a hundred times fast."""
    now = time.monotonic
    answers: list[Outcome] = []
    script = write_script("import time; time.sleep(0.05)")
    with run_interpreter(script, 30) as process:

        def run_without_end() -> None:
            while len(answers) < 9:
                answers.append(process.run(Command(["connections", "get", "x"])))

        describe(process)
        monkeypatch.setattr(time, "monotonic", lambda: 100 * now())
        told = catch(TimedOut, run_without_end)
    why = "killed after 30 s, while running connections get; see --timeout"
    assert told == f"{script}: {why}"
    assert 0 < len(answers) < 6


def test_an_exception_ends_it_and_its_children(
    write_script: WriteScript, tmp_path: Path, temporary: Path
) -> None:
    pids = tmp_path / "pids"
    script = write_script(f"""\
import os, subprocess, time
child = subprocess.Popen(["sleep", "60"])
print(os.getpid(), child.pid, file=open({str(pids)!r}, "w"))
time.sleep(60)
""")

    started: list[int] = []

    def interrupt() -> None:
        with run_interpreter(script, 30) as process:
            process.start_import()
            started.extend(read_pids(pids))
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert time.monotonic() - began < 10
    wait_for_end(started)
    assert list(temporary.iterdir()) == []


def test_one_that_does_not_heed_sigterm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a prefix that ignores it."""
    monkeypatch.setattr(interpreter, "GRACE", 0.1)
    pid = tmp_path / "pid"
    deaf = f"trap '' TERM; echo $$ >{pid}; while :; do sleep 0.1; done"
    command = f"sh -c {shlex.quote(deaf)} airflow"
    began = time.monotonic()
    assert "killed after 0.2 s" in fail_to_start(command, timeout=0.2)
    assert time.monotonic() - began < 15
    wait_for_end(read_pids(pid))


def test_one_that_does_not_read() -> None:
    """What is sent is more than a pipe holds."""
    with run_interpreter("sh -c 'sleep 60 #' airflow", 0.3) as process:
        large = Command([], {"a": "x" * 1_000_000})
        told = catch(TimedOut, process.run, large)
    assert "killed after 0.3 s, while running" in told


def test_time_in_which_nobody_waits_does_not_count(
    write_script: WriteScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while ECR is asked."""
    now = time.monotonic
    with run_interpreter(write_script(""), 30) as process:
        describe(process)
        monkeypatch.setattr(time, "monotonic", lambda: now() + 1000)
        assert process.run(Command([])).status == 0


def test_it_is_not_killed_while_it_ends(
    write_script: WriteScript, tmp_path: Path, temporary: Path
) -> None:
    """Nor is what Airflow has left for the end."""
    done, left = tmp_path / "done", tmp_path / "left"
    script = write_script(f"import atexit; atexit.register(open, {str(left)!r}, 'w')")
    slow = f'sh -c \'"$0" "$@"; sleep 0.2; touch {done}\''
    with run_interpreter(f"{slow} {script}", 30) as process:
        process.run(Command([]))
    assert done.exists()
    assert left.exists()
    assert list(temporary.iterdir()) == []


def test_a_deadline_that_the_import_misses(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Who looks late finds that it has ended by itself, a second later."""
    pid = tmp_path / "pid"
    script = write_script(f"""\
import os, time
print(os.getpid(), file=open({str(pid)!r}, "w"))
time.sleep(60)
""")
    with run_interpreter(script, 0.1) as process:
        process.start_import()
        time.sleep(1.2)
        wait_for_end(read_pids(pid))
        told = catch(TimedOut, process.finish_import)
    why = "killed after 0.1 s, while importing Airflow; see --timeout"
    assert told == f"{script}: {why}"
