"""The way to Airflow: finding its interpreter, its answers, its end. Strict fakes play it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from _ecr_airflow_sync import airflow_syntax
from _ecr_airflow_sync.interpreter import run_interpreter
from tests.support import airflows
from tests.support.command import (
    FAKE,
    A,
    B,
    C,
    Command,
    FakeAirflow,
    Place,
    needs_proc,
    wait_for,
)
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, Fault
from tests.support.watcher import processes

THREE = ("--registry", A, "--registry", B, "--registry", C, "--conn-id", "e_{registry}")
VERSIONS = ("1.10.7", "1.10.15", "2.0.1", "2.5.3", "2.6.0", "3.3.2", "9.0.0")
OLD = {"docker_default": {"conn_type": "docker"}}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_gets_its_syntax(
    command: Command, fake: Place, version: str
) -> None:
    airflow = fake(version)
    assert command("-r", "us-east-1", *THREE).status == 0
    first = airflow.connections()
    extra = '{"email": "ops@example.com"}'
    ran = command("-r", "us-east-1", *THREE, "--conn-extra", extra)
    assert ran.status == 0, ran.stderr
    second = airflow.connections()
    assert sorted(first) == sorted(second) == [f"e_{A}", f"e_{B}", f"e_{C}"]
    for conn_id, fields in second.items():
        assert fields["conn_type"] == "docker"
        assert fields.get("extra", fields.get("conn_extra")) == extra
        assert fields != first[conn_id]


def test_a_method_that_is_not_there(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """Which only Airflow's own version tells, in the middle of a run."""
    airflow = fake("2.5.3")
    ran = command("-r", "us-east-1", "--method", "import")
    why = f"method import needs Airflow 2.6 or later; {airflow.script} is 2.5.3"
    assert ran.stderr.endswith(f"Error: {why}\n")
    assert (ran.status, ecr.calls) == (2, [])


# Version, trouble, and what is told. Nothing told: it is written all the same.
ANSWERS = {
    "another host was quicker": ("2.5.3", "overtaken", ""),
    "two first imports": ("3.3.2", "collide once", ""),
    "a megabyte of garbage": ("2.11.2", "megabyte", ""),
    "duplicates": (
        "1.10.15",
        "duplicates",
        "exit status 0): Found more than one connection with `conn_id`=docker_default; "
        "delete all of them in the UI, under Admin, Connections",
    ),
    "said, but not done": (
        "2.5.3",
        "rolled back",
        "exit status 1): RuntimeError: server closed the connection unexpectedly",
    ),
    "not committed": (
        "2.5.3",
        "commit fails",
        "IntegrityError: the server closed the connection unexpectedly",
    ),
    "exit 0, but skipped": (
        "2.11.2",
        "skip docker_default",
        "exit status 0): Could not import connection. The key 'docker_default' has",
    ),
    "silent": ("2.11.2", "say nothing", "exit status 0): it said nothing"),
    "crash": ("2.11.2", "crash", "it said nothing (exit status -11)"),
    "shows the token": ("2.11.2", "echo", "RuntimeError: cannot parse ***"),
}


@pytest.mark.parametrize(("version", "trouble", "error"), ANSWERS.values(), ids=ANSWERS)
def test_answers(
    command: Command, fake: Place, version: str, trouble: str, error: str
) -> None:
    airflow = fake(version, trouble)
    before = OLD if trouble == "commit fails" else {}
    airflow.hold(**before)
    ran = command("-r", "us-east-1", "-q")
    assert (ran.status, ran.stdout) == (bool(error), "")
    assert error in ran.stderr
    assert ran.stderr.count("\n") == bool(error)
    assert not error or airflow.connections() == before
    # It shows all that Airflow said, but no token.
    assert command("-r", "us-east-1", "-v").status == ran.status


def test_a_token_cut_short_is_not_shown(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """What Airflow says is cut to a line's length, in the middle of this token."""
    fake(trouble="echo")
    ran = command("-r", "us-east-1", "-q", FAKE_AIRFLOW_PADDING="420")
    assert "cannot parse x x" in ran.stderr
    stump = ecr.tokens["us-east-1", ACCOUNT][-1][:24] in ran.stderr
    assert not stump, "the beginning of a token was printed"


def test_sessions_that_are_not_shared_are_told(command: Command, fake: Place) -> None:
    airflow = fake("2.5.3", "no shared session")
    ran = command("-r", "us-east-1")
    assert (ran.status, ran.stderr) == (0, "")
    assert ", delete-add (not in one transaction)\n" in ran.stdout
    assert list(airflow.connections()) == ["docker_default"]


def test_what_cannot_be_imported_fails_every_command(
    command: Command, fake: Place
) -> None:
    """A sentence's full stop makes way for what the old token is good for."""
    script = fake("1.10.15").script
    assert command("-r", "us-east-1", *THREE).status == 0
    script.write_text(
        f"#!{sys.executable}\nraise SystemExit('The database is asleep.')\n"
    )
    ran = command("-r", "us-east-1", *THREE, "--quiet")
    conn_ids, _, error = ran.stderr.partition(": ")
    assert (ran.status, conn_ids) == (1, f"e_{A}, e_{B}, e_{C}")
    assert "1): The database is asleep; the token written there at " in error


# --- the end ---


def find_pids(airflow: FakeAirflow) -> list[int]:
    """The processes of an Airflow that hangs."""
    file = Path(f"{airflow.store}.pids")
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def assert_all_gone(airflow: FakeAirflow, folder: Path) -> None:
    def left() -> set[int]:
        alive = {pid for pid, arguments in processes() if arguments}
        return alive & set(find_pids(airflow))

    wait_for(lambda: not left())
    assert list(folder.iterdir()) == []


@needs_proc
def test_a_hanging_airflow_is_killed_with_its_children(
    command: Command, fake: Place, tmp_path: Path
) -> None:
    airflow = fake("2.11.2", "hang")
    ran = command("-r", "us-east-1", "-q", "--timeout", "2")
    why = "killed after 2 s, while running connections get; see --timeout"
    assert ran.stderr == f"docker_default: {airflow.script}: {why}\n"
    assert ran.status == 1
    assert_all_gone(airflow, tmp_path / "tmp")


def test_the_timeout_is_one_for_all_answers(command: Command, fake: Place) -> None:
    """Of three commands, each would be quick enough."""
    fake(trouble="slow")
    slow = {"FAKE_AIRFLOW_SLOW": "0.8"}
    ran = command("-r", "us-east-1", "-q", "--timeout", "2", **slow)
    assert ran.status == 1
    assert re.search(": killed after 2 s, while running connections [li]", ran.stderr)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_child_too(
    command: Command, fake: Place, tmp_path: Path, number: signal.Signals
) -> None:
    airflow = fake("2.11.2", "hang")
    process = command.start("-r", "us-east-1")
    wait_for(lambda: len(find_pids(airflow)) == 2)
    process.send_signal(number)
    ran = command.end(process)
    assert ran.status == (143 if number == signal.SIGTERM else 1)
    assert_all_gone(airflow, tmp_path / "tmp")


@pytest.mark.parametrize(
    ("version", "number", "whom"),
    [
        ("1.10.15", signal.SIGTERM, "the command"),
        ("2.5.3", signal.SIGINT, "the command"),
        ("2.5.3", signal.SIGTERM, "all"),  # as systemd does
        ("2.5.3", signal.SIGKILL, "the command"),
        ("2.5.3", signal.SIGKILL, "all"),
    ],
)
def test_the_old_connection_stands_between_delete_and_add(
    command: Command, fake: Place, version: str, number: signal.Signals, whom: str
) -> None:
    airflow = fake(version, "slow add")
    airflow.hold(**OLD)
    process = command.start("-r", "us-east-1")
    wait_for(lambda: "delete" in dict(airflow.log).values())
    assert airflow.connections() == OLD
    if whom == "all":
        os.kill(airflow.log[0][0], number)
    process.send_signal(number)
    assert command.end(process).status in (128 + number, -number, 1)
    assert airflow.connections() == OLD


def test_the_old_connection_stands_when_time_runs_out(
    command: Command, fake: Place
) -> None:
    """Between delete and add."""
    airflow = fake("2.5.3", "slow add")
    airflow.hold(**OLD)
    ran = command("-r", "us-east-1", "-q", "--timeout", "3", FAKE_AIRFLOW_SLOW="60")
    assert ran.status == 1
    assert "killed after 3 s, while running connections delete;" in ran.stderr
    assert airflow.connections() == OLD


def test_signals_while_ecr_is_slow(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    ecr.faults["us-east-1"] = Fault(delay=60)
    process = command.start("-r", "us-east-1")
    wait_for(lambda: ecr.calls)
    process.send_signal(signal.SIGTERM)
    assert command.end(process).status == 143
    assert time.monotonic() - ecr.calls[0].at < 9  # it would not even try again


def test_airflow_is_imported_while_ecr_is_asked(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake(trouble="slow import")  # of a minute
    process = command.start("-r", "us-east-1")
    wait_for(lambda: ecr.calls)
    process.terminate()
    assert command.end(process).status == 143


def test_an_interpreter_that_no_longer_reads(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """Forty tokens are more than a pipe holds."""
    airflow = fake(trouble="stopped after the import")
    ecr.faults["us-east-1"] = Fault(delay=2, times=4)
    options = ["--conn-id", "e_{registry}", "--timeout", "3", "-q"]
    for number in range(40):
        options += ["--registry", f"{number:012}"]
    ran = command("-r", "us-east-1", *options)
    why = "killed after 3 s, while running connections get; see --timeout"
    assert ran.stderr.endswith(f": {airflow.script}: {why}\n")
    assert ran.status == 1


# --- finding the interpreter ---


HOW_TO_FIND = (
    "`command -v airflow`, run as Airflow's user, tells the path for --airflow"
)
WRAPPER = (
    "is no Python script (a wrapper, a shim?); "
    "name the script that it runs: --airflow takes that one"
)


def exec_line(python: str, end: str) -> str:
    return f"#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"{end}"


# As these tools write the first lines of a script. {python} is the interpreter's path.
LAUNCHERS = {
    "pip, conda": "#!{python}\n",
    "pip, a long path or a blank": exec_line('"{python}"', "\n' '''\n"),
    "uv, relocatable": exec_line(
        '"$(dirname -- "$(realpath -- "$0")")"/\'python3\'', "\n' '''\n"
    ),
    "mamba, pixi, a long path or a blank": exec_line('"{python}"', " #'''\n"),
    "Debian, Homebrew": "#!{python} -s -E\n",
    "Nix": "#! {python}\n",
    "env": "#!/usr/bin/env python3\n",
    "env -S": "#!/usr/bin/env -S python3 -s\n",
}


@pytest.mark.parametrize("tool", LAUNCHERS)
def test_scripts_of_every_tool(
    command: Command, airflow: FakeAirflow, tmp_path: Path, tool: str
) -> None:
    """Found on PATH, and there by a link."""
    folder = tmp_path / ("an env/bin" if "exec" in LAUNCHERS[tool] else "R&D('1)/bin")
    folder.mkdir(parents=True)
    (folder / "python3").symlink_to(sys.executable)
    script = folder / "script"
    # A script for both sh and Python has a docstring of its own.
    code = FAKE.read_text().partition('"""\n\n')[2]
    script.write_text(LAUNCHERS[tool].format(python=folder / "python3") + code)
    script.chmod(0o755)
    link = tmp_path / "links/airflow"
    link.parent.mkdir()
    link.symlink_to(script)
    command.env["PATH"] = f"{link.parent}:{folder}:/usr/bin:/bin"
    command.options = []
    if "-E" in LAUNCHERS[tool]:  # which hides PYTHONPATH, where the version is told
        command.options = ["--airflow-version", "2.11.2"]
    ran = command("-r", "us-east-1")
    assert ran.status == 0, ran.stderr
    assert f", {link}, " in ran.stdout
    assert list(airflow.connections()) == ["docker_default"]


NO_AIRFLOW = {
    "not on PATH": (
        "airflow",
        "not found, with PATH /usr/bin:/bin (cron's is short); "
        f"{HOW_TO_FIND} (exit status 127)",
    ),
    "gone": (
        "/nowhere/airflow",
        f"no such script; {HOW_TO_FIND} (exit status 127)",
    ),
    "a folder": ("/usr", f"that is a folder; {HOW_TO_FIND} (exit status 126)"),
    "a shell's wrapper": ("{tmp}/shim", f"{{tmp}}/shim {WRAPPER} (exit status 126)"),
    "a program": ("/usr/bin/true", f"/usr/bin/true {WRAPPER} (exit status 126)"),
}


@pytest.mark.parametrize(("airflow", "error"), NO_AIRFLOW.values(), ids=NO_AIRFLOW)
def test_no_airflow(
    command: Command, tmp_path: Path, ecr: EcrStandIn, airflow: str, error: str
) -> None:
    shim = tmp_path / "shim"  # its interpreter's path may have "python" in it
    shim.write_text('#!/opt/python3/bin/bash\nexec pyenv exec airflow "$@"\n')
    shim.chmod(0o755)
    airflow = airflow.replace("{tmp}", str(tmp_path))
    ran = command("-r", "us-east-1", "-q", "--airflow", airflow)
    error = error.replace("{tmp}", str(tmp_path))
    assert ran.stderr == f"docker_default: {airflow}: {error}\n"
    assert (ran.status, ecr.calls) == (1, [])


def test_docker_exec_without_its_option(command: Command, airflow: FakeAirflow) -> None:
    """Its -i, without which the interpreter's stdin is empty."""
    prefix = 'sh -c \'exec "$0" "$@" </dev/null\''
    ran = command("-r", "us-east-1", "-q", "--airflow", f"{prefix} {airflow.script}")
    assert ran.status == 1
    told = "stdin is closed; docker exec needs -i (exit status 1)\n"
    assert ran.stderr == f"docker_default: {prefix} {airflow.script}: {told}"


def test_nothing_is_imported_from_the_folder_it_starts_in(
    command: Command,
    airflow: FakeAirflow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("json", "runpy", "tempfile", "boto3"):
        trap = tmp_path / f"trap/{name}.py"
        trap.parent.mkdir(exist_ok=True)
        trap.write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path / "trap")
    assert command("-r", "us-east-1").status == 0


SCRIPT = """\
import sys
print("hello from %s" % sys.argv[1:])
if "fail" in sys.argv:
    raise ValueError("as asked")
if "exit" in sys.argv:
    raise SystemExit("as told")
if "import" in sys.argv:
    print("read " + open(sys.argv[-1]).read())
"""


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.13"])
def test_the_program_runs_on_every_python_that_airflow_has(
    tmp_path: Path, version: str
) -> None:
    try:
        python = airflows.find_python(version)
    except airflows.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    script = tmp_path / "airflow"
    script.write_text(f"#!{python}\n{SCRIPT}")
    script.chmod(0o755)
    large = {"a": {"password": "x" * 300_000}}
    with run_interpreter(str(script), 60) as interpreter:
        described = interpreter.execute("describe_airflow.py")
        assert json.loads(described.output)["script"] == str(script)
        outcomes = [
            interpreter.run(airflow_syntax.Command(words))
            for words in (["fail"], ["exit"], ["ok", "\u00e9"])
        ]
        outcomes.append(interpreter.run(airflow_syntax.Command(["import"], file=large)))
        begun = interpreter.execute("transaction.py", "begin")
    assert begun.output.endswith("No module named 'airflow'\n")  # and no SyntaxError
    assert [outcome.status for outcome in outcomes] == [1, 1, 0, 0]
    assert outcomes[0].output.endswith("\nValueError: as asked\n")
    assert outcomes[1].output.endswith("\nas told\n")
    assert large["a"]["password"] in outcomes[3].output
