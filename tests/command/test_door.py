"""The way to Airflow: its versions, its words, its end, and how its Python is found."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Collection

import pytest

from _ecr_airflow_sync import airflow_syntax
from _ecr_airflow_sync.errors import StepFailed
from _ecr_airflow_sync.interpreter import run_interpreter
from tests.support import airflows
from tests.support.command import (
    A,
    B,
    Command,
    FakeAirflow,
    Place,
    needs_proc,
    wait_for,
)
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, Fault
from tests.support.watcher import processes

# Those with a syntax of their own that tests/airflow has no real one of.
VERSIONS = ("1.10.7", "2.0.1", "9.0.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_gets_its_syntax(
    command: Command, fake: Place, version: str
) -> None:
    """Airflow 1 does not tell whose a connection is, so that it is replaced."""
    airflow = fake(version)
    theirs = "postgres" if version.startswith("1.") else "docker"
    airflow.hold(**{f"e_{A}": {"conn_type": theirs}})
    options = ["--registry", A, "--registry", B, "--conn-id", "e_{registry}"]
    extra = '{"email": "ops@example.com"}'
    ran = command("-r", "us-east-1", *options, "--conn-extra", extra)
    assert (ran.status, ran.stderr) == (0, "")
    stored = airflow.connections()
    assert sorted(stored) == [f"e_{A}", f"e_{B}"]
    for fields in stored.values():
        assert fields["conn_type"] == "docker"
        assert fields.get("extra", fields.get("conn_extra")) == extra


def test_what_this_host_wrote_is_its_own(
    command: Command, airflow: FakeAirflow
) -> None:
    """It is not looked at again. All that is asked is asked in one start.

    A dry run says nothing of what a variable hides.
    """
    assert command("-r", "us-east-1").status == 0
    assert [action for _, action in airflow.log] == ["get", "list", "import"]
    assert airflow.count_starts() == 1
    airflow.hold(docker_default={"conn_type": "postgres"})
    variable = {"AIRFLOW_CONN_DOCKER_DEFAULT": '{"conn_type": "docker"}'}
    ran = command("-r", "us-east-1", "--dry-run", **variable)
    assert (ran.status, ran.stdout[-4:]) == (0, " h)\n")
    airflow.count_starts()
    assert command("-r", "us-east-1").status == 0
    assert [action for _, action in airflow.log] == ["import"]
    assert airflow.connections()["docker_default"]["conn_type"] == "docker"


def test_a_megabyte_of_garbage_is_no_answer(command: Command, fake: Place) -> None:
    """Nor is it in the way of one."""
    airflow = fake(trouble="megabyte")
    ran = command("-r", "us-east-1", "-v")
    assert (ran.status, "garbage of no use" in ran.stderr) == (0, True)
    assert list(airflow.connections()) == ["docker_default"]


def test_no_token_is_shown_of_what_airflow_prints(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """Nor the beginning of one, where a long line is cut in the middle of it."""
    fake(trouble="echo")
    ran = command("-r", "us-east-1", "-v")
    assert (ran.status, "cannot parse ***" in ran.stderr) == (1, True)
    ran = command("-r", "us-east-1", "-q", FAKE_AIRFLOW_PADDING="420")
    assert "RuntimeError: cannot parse x x" in ran.stderr
    stump = ecr.tokens["us-east-1", ACCOUNT][-1][:24] in ran.stderr
    assert not stump, "the beginning of a token was printed"


# --- the end ---


def find_pids(airflow: FakeAirflow) -> list[int]:
    """The processes of an Airflow that hangs."""
    file = Path(f"{airflow.store}.pids")
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def wait_for_end(pids: Collection[int]) -> None:
    def left() -> set[int]:
        return {pid for pid, arguments in processes() if arguments} & set(pids)

    wait_for(lambda: not left())


@needs_proc
def test_a_hanging_airflow_is_killed_with_its_children(
    command: Command, fake: Place, tmp_path: Path
) -> None:
    """The report says all the same which Airflow that is."""
    airflow = fake(trouble="hang")
    ran = command("-r", "us-east-1", "--check", "--timeout", "2")
    why = "killed after 2 s, while running connections get; see --timeout"
    assert (ran.status, ran.stderr) == (1, f"docker_default: {airflow.script}: {why}\n")
    assert ran.stdout.startswith("Airflow 2.11.2, ")
    assert ran.stdout.endswith("\ndocker_default  failed\n")
    wait_for_end(find_pids(airflow))
    assert list((tmp_path / "tmp").iterdir()) == []


@needs_proc
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)]
)
def test_a_signal_ends_the_child_too(
    command: Command,
    fake: Place,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    airflow = fake(trouble="hang")
    process = command.start("-r", "us-east-1")
    wait_for(lambda: len(find_pids(airflow)) == 2)
    process.send_signal(number)
    assert command.end(process).status == status
    wait_for_end(find_pids(airflow))
    assert list((tmp_path / "tmp").iterdir()) == []


@needs_proc
@pytest.mark.parametrize(
    ("version", "number", "status"),
    [("1.10.15", signal.SIGTERM, 143), ("2.5.3", signal.SIGKILL, -9)],
)
def test_the_old_connection_stands_between_delete_and_add(
    command: Command, fake: Place, version: str, number: signal.Signals, status: int
) -> None:
    """Even if nobody is left to tell Airflow that it is to stop."""
    airflow = fake(version, "slow add")
    old = {"docker_default": {"conn_type": "docker"}}
    airflow.hold(**old)
    process = command.start("-r", "us-east-1")
    wait_for(lambda: "delete" in dict(airflow.log).values())
    process.send_signal(number)
    assert command.end(process).status == status
    wait_for_end(dict(airflow.log))
    assert airflow.connections() == old


def test_a_signal_while_airflow_is_imported_and_ecr_is_asked(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """Both at once, and both for a minute."""
    airflow = fake(trouble="slow import")
    ecr.faults["us-east-1"] = Fault(delay=60)
    process = command.start("-r", "us-east-1")
    wait_for(lambda: ecr.calls and find_pids(airflow))
    process.terminate()
    assert command.end(process).status == 143
    assert time.monotonic() - ecr.calls[0].at < 9  # it would not even try again


# --- finding the interpreter ---


HOW_TO_FIND = (
    "`command -v airflow`, run as Airflow's user, tells the path for --airflow"
)
WRAPPER = (
    "is no Python script (a wrapper, a shim?); "
    "name the script that it runs: --airflow takes that one"
)


def test_no_airflow(command: Command, ecr: EcrStandIn) -> None:
    ran = command("-r", "us-east-1", "-q")
    path = "/usr/bin:/bin"
    why = f"not found, with PATH {path} (cron's is short); {HOW_TO_FIND}"
    told = f"docker_default: airflow: {why} (exit status 127)\n"
    assert (ran.status, ran.stdout, ran.stderr) == (1, "", told)
    assert ecr.calls == []


NO_SCRIPTS = {
    "/usr": f"that is a folder; {HOW_TO_FIND} (exit status 126)",
    "/usr/bin/env": f"/usr/bin/env {WRAPPER} (exit status 126)",
    "{shim}": f"{{shim}} {WRAPPER} (exit status 126)",
    # As docker exec without its option.
    'sh -c \'exec "$0" "$@" </dev/null\' {script}': "stdin is closed; "
    "docker exec needs -i (exit status 1)",
}


@pytest.mark.parametrize("airflow", NO_SCRIPTS)
def test_what_leads_to_no_python(tmp_path: Path, airflow: str) -> None:
    scripts = {
        # A path that is not Python's may have "python" in it.
        "shim": '#!/opt/python3/bin/bash\nexec pyenv exec airflow "$@"\n',
        "script": f"#!{sys.executable}\n{SCRIPT}",
    }
    paths = {}
    for name, text in scripts.items():
        paths[name] = tmp_path / name
        paths[name].write_text(text)
        paths[name].chmod(0o755)
    led = airflow.format(**paths)
    with run_interpreter(led, 60) as interpreter, pytest.raises(StepFailed) as caught:
        interpreter.execute("describe_airflow.py")
    assert str(caught.value) == f"{led}: {NO_SCRIPTS[airflow].format(**paths)}"


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    """Found on PATH, and there by a link."""
    folder = tmp_path / ("an env/bin" if "exec" in LAUNCHERS[tool] else "R&D('1)/bin")
    folder.mkdir(parents=True)
    python = folder / "python3"
    python.symlink_to(sys.executable)
    script = folder / "script"
    script.write_text(LAUNCHERS[tool].format(python=python) + SCRIPT)
    script.chmod(0o755)
    link = tmp_path / "links/airflow"
    link.parent.mkdir()
    link.symlink_to(script)
    monkeypatch.setenv("PATH", f"{link.parent}:{folder}:/usr/bin:/bin")
    with run_interpreter("airflow", 60) as interpreter:
        described = json.loads(interpreter.execute("describe_airflow.py").output)
        outcome = interpreter.run(airflow_syntax.Command(["a"]))
    assert described["script"] == str(link)
    assert outcome.output == "hello from ['a']\n"


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
