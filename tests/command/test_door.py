"""The way to Airflow: finding its interpreter, its answers, its end. Strict fakes play it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from _ecr_airflow_sync import airflow_syntax
from _ecr_airflow_sync.interpreter import run_interpreter
from tests.support import airflows
from tests.support.command import FAKE, MODULE, Command, FakeAirflow
from tests.support.ecr_stand_in import EcrStandIn, Fault
from tests.support.watcher import processes

Place = Callable[..., FakeAirflow]
A, B, C = "111111111111", "222222222222", "333333333333"
THREE = ("--registry", A, "--registry", B, "--registry", C, "--conn-id", "e_{registry}")
VERSIONS = ("1.10.7", "1.10.15", "2.0.1", "2.5.3", "2.6.0", "2.11.2", "3.3.2", "9.0.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_gets_its_syntax(
    command: Command, fake: Place, version: str
) -> None:
    airflow = fake(version)
    assert command("-r", "us-east-1", *THREE).status == 0
    first = airflow.connections()
    ran = command(
        "-r", "us-east-1", *THREE, "--conn-extra", '{"email": "ops@example.com"}'
    )
    assert ran.status == 0, ran.stderr
    second = airflow.connections()
    assert sorted(first) == sorted(second) == [f"e_{A}", f"e_{B}", f"e_{C}"]
    for conn_id, fields in second.items():
        assert fields["conn_type"] == "docker"
        assert (
            fields.get("extra", fields.get("conn_extra"))
            == '{"email": "ops@example.com"}'
        )
        assert fields != first[conn_id]


@pytest.mark.parametrize("version", ["2.11.2", "3.3.2"])
def test_delete_and_add_on_request(command: Command, fake: Place, version: str) -> None:
    airflow = fake(version)
    ran = command("-r", "us-east-1", "--method", "delete-add")
    assert (ran.status, ", delete-add\n" in ran.stdout) == (0, True)
    assert list(airflow.connections()) == ["docker_default"]


@pytest.mark.parametrize("version", ["1.10.15", "2.5.3"])
def test_import_where_there_is_none(
    command: Command, fake: Place, ecr: EcrStandIn, version: str
) -> None:
    airflow = fake(version)
    ran = command("-r", "us-east-1", "--method", "import")
    assert ran.status == 2
    assert ran.stderr.endswith(
        f"Error: method import needs Airflow 2.6 or later; {airflow.script} is {version}\n"
    )
    assert ecr.calls == []


def test_an_airflow_too_old(command: Command, fake: Place, ecr: EcrStandIn) -> None:
    airflow = fake("1.9.0")
    ran = command("-r", "us-east-1", "-q")
    assert (ran.status, ecr.calls) == (1, [])
    assert ran.stderr == (
        f"docker_default: Airflow 1.9.0 at {airflow.script} is older than 1.10: upgrade it\n"
    )


@pytest.mark.parametrize(
    ("version", "trouble", "status", "error"),
    [
        pytest.param("2.5.3", "overtaken", 0, "", id="another host was quicker"),
        pytest.param(
            "1.10.15", "overtaken", 0, "", id="another host was quicker, 1.10"
        ),
        pytest.param(
            "1.10.15",
            "duplicates",
            1,
            "exit status 0): Found more than one connection with `conn_id`=docker_default; "
            "delete all of them in the UI, under Admin, Connections",
            id="duplicates",
        ),
        pytest.param("3.3.2", "collide once", 0, "", id="two first imports"),
        pytest.param(
            "2.5.3",
            "rolled back",
            1,
            "exit status 1): RuntimeError: server closed the connection unexpectedly",
            id="said, but not done",
        ),
        pytest.param(
            "2.5.3",
            "not deleted",
            1,
            "exit status 1): RuntimeError: database is locked",
            id="not deleted after all",
        ),
        pytest.param(
            "1.10.15",
            "not deleted",
            1,
            "exit status 1): RuntimeError: database is locked",
            id="not deleted, 1.10",
        ),
        pytest.param(
            "2.11.2",
            "skip docker_default",
            1,
            "exit status 0): Could not import connection. The key 'docker_default' has to be made of ...",
            id="exit 0, but skipped",
        ),
        pytest.param(
            "1.10.15", "say nothing", 1, "exit status 0): it said nothing", id="silent"
        ),
        pytest.param(
            "2.11.2",
            "say nothing",
            1,
            "exit status 0): it said nothing",
            id="silent import",
        ),
        pytest.param("2.11.2", "megabyte", 0, "", id="a megabyte of garbage"),
        pytest.param("1.10.15", "megabyte", 0, "", id="a megabyte of garbage, 1.10"),
        pytest.param(
            "2.11.2", "crash", 1, "it said nothing (exit status -11)", id="crash"
        ),
        pytest.param(
            "2.11.2", "echo", 1, "RuntimeError: cannot parse ", id="shows the token"
        ),
    ],
)
def test_answers(
    command: Command, fake: Place, version: str, trouble: str, status: int, error: str
) -> None:
    fake(version, trouble).store.write_text(
        '{"docker_default": {}}' if trouble == "not deleted" else "{}"
    )
    ran = command("-r", "us-east-1", "-q")
    assert (ran.status, ran.stdout) == (status, "")
    assert error in ran.stderr
    assert ran.stderr.count("\n") == (1 if error else 0)
    verbose = command(
        "-r", "us-east-1", "-v"
    )  # shows all that Airflow said, but no token
    assert verbose.status == status


@pytest.mark.parametrize("redirection", ["2>&1", "2>/dev/null"])
def test_a_prefix_that_merges_or_drops_stderr(
    command: Command, fake: Place, tmp_path: Path, redirection: str
) -> None:
    airflow = fake()
    prefix = tmp_path / "prefix"
    prefix.write_text(f'#!/bin/sh\nexec "$@" {redirection}\n')
    prefix.chmod(0o755)
    ran = command("-r", "us-east-1", "--airflow", f"{prefix} {airflow.script}")
    assert (ran.status, ran.stderr) == (0, "")
    assert list(airflow.connections()) == ["docker_default"]


def test_a_closed_stderr(command: Command, fake: Place) -> None:
    airflow = fake()
    line = f'"$0" "$1" -r us-east-1 --airflow {airflow.script} 2>&-'
    shell = ["sh", "-c", line, sys.executable, str(MODULE)]
    assert (
        subprocess.run(
            shell, env=command.env, check=False, capture_output=True
        ).returncode
        == 0
    )
    assert list(airflow.connections()) == ["docker_default"]


def test_a_token_cut_short_is_not_shown(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """What Airflow says is cut to a line's length; no stump of the token may escape the mask."""
    fake(trouble="echo")
    for length in range(330, 690, 60):
        ran = command("-r", "us-east-1", "-q", FAKE_AIRFLOW_PADDING=str(length))
        assert ran.status == 1
        token = ecr.tokens["us-east-1", "123456789012"][-1]
        stump = token[:24] in ran.stderr
        assert not stump, "the beginning of a token was printed"


def test_one_bad_connection_does_not_stop_the_others(
    command: Command, fake: Place
) -> None:
    airflow = fake("2.11.2", f"fail e_{A}")
    ran = command("-r", "us-east-1", *THREE)
    assert ran.status == 1
    assert sorted(airflow.connections()) == [f"e_{B}", f"e_{C}"]
    assert ran.stderr.endswith(
        f"exit status 1): ValueError: cannot store e_{A}, of all things\n"
    )


@pytest.mark.parametrize(
    ("version", "doing"),
    [("1.10.15", "connections delete"), ("2.11.2", "connections get")],
)
def test_a_hanging_airflow_is_killed_with_its_children(
    command: Command, fake: Place, tmp_path: Path, version: str, doing: str
) -> None:
    airflow = fake(version, "hang")
    began = time.monotonic()
    ran = command("-r", "us-east-1", "-q", "--timeout", "2")
    assert time.monotonic() - began < 8
    assert ran.status == 1
    assert ran.stderr == (
        f"docker_default: {airflow.script}: killed after 2 s, while running {doing}; see --timeout\n"
    )
    assert_all_gone(airflow, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_child_too(
    command: Command, fake: Place, tmp_path: Path, number: signal.Signals
) -> None:
    airflow = fake("2.11.2", "hang")
    process = command.start("-r", "us-east-1")
    wait_for(lambda: pids(airflow))
    process.send_signal(number)
    ran = command.end(process)
    assert ran.status == (143 if number == signal.SIGTERM else 1)
    assert_all_gone(airflow, tmp_path)


@pytest.mark.parametrize("whom", ["the command", "all"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("version", ["1.10.15", "2.5.3"])
def test_the_old_connection_stands_between_delete_and_add(
    command: Command, fake: Place, version: str, number: signal.Signals, whom: str
) -> None:
    airflow = fake(version, "slow add")
    airflow.store.write_text('{"docker_default": {}}')
    process = command.start("-r", "us-east-1")
    wait_for(lambda: "delete" in commands(airflow))
    assert airflow.connections() == {"docker_default": {}}
    if whom == "all" and number != signal.SIGINT:  # as systemd does
        os.kill(pid_of(commands(airflow)), number)
    process.send_signal(number)
    assert command.end(process).status in (128 + number, -number, 1)
    assert airflow.connections() == {"docker_default": {}}


def commands(airflow: FakeAirflow) -> str:
    file = Path(f"{airflow.store}.starts")
    return file.read_text() if file.exists() else ""


def pid_of(commands: str) -> int:
    pid, *_ = commands.split()
    return int(pid)


@pytest.mark.parametrize("version", ["1.10.15", "2.5.3", "2.11.2"])
def test_a_commit_that_fails_is_a_failure(
    command: Command, fake: Place, version: str
) -> None:
    airflow = fake(version, "commit fails")
    airflow.store.write_text('{"docker_default": {}}')
    ran = command("-r", "us-east-1", "-q", "--method", "delete-add")
    assert ran.status == 1
    assert "IntegrityError: the server closed the connection unexpectedly" in ran.stderr
    assert airflow.connections() == {"docker_default": {}}


def test_sessions_that_are_not_shared_are_told(command: Command, fake: Place) -> None:
    airflow = fake("2.5.3", "no shared session")
    ran = command("-r", "us-east-1")
    assert (ran.status, ran.stderr) == (0, "")
    assert ", delete-add (not in one transaction)\n" in ran.stdout
    assert list(airflow.connections()) == ["docker_default"]


def test_airflow_is_imported_while_ecr_is_asked(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake(trouble="slow import")  # of 9 s
    process = command.start("-r", "us-east-1")
    wait_for(lambda: ecr.calls, 6)
    process.terminate()
    assert command.end(process).status == 143


def test_an_interpreter_that_no_longer_reads(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """Forty tokens are more than a pipe holds."""
    airflow = fake(trouble="stopped after the import")
    ecr.faults["us-east-1"] = Fault(delay=3, times=4)
    registries = [
        option for number in range(40) for option in ("--registry", f"{number:012}")
    ]
    ran = command(
        "-r",
        "us-east-1",
        *registries,
        "--conn-id",
        "e_{registry}",
        "--timeout",
        "4",
        "-q",
    )
    assert ran.stderr.endswith(
        f": {airflow.script}: killed after 4 s, while running connections get; see --timeout\n"
    )
    assert ran.status == 1


def test_signals_while_ecr_is_slow(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    ecr.faults["us-east-1"] = Fault(delay=9)
    process = command.start("-r", "us-east-1")
    wait_for(lambda: ecr.calls)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert command.end(process).status == 143
    assert time.monotonic() - began < 2


def test_kill_9_leaves_no_token_behind(
    command: Command, fake: Place, tmp_path: Path, ecr: EcrStandIn
) -> None:
    airflow = fake("2.11.2", "hang")
    process = command.start("-r", "us-east-1")
    wait_for(lambda: pids(airflow))
    process.kill()
    command.end(process)
    os.killpg(os.getpgid(pids(airflow)[0]), signal.SIGKILL)
    (token,) = next(iter(ecr.tokens.values()))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), "a token was left in a file"


def pids(airflow: FakeAirflow) -> list[int]:
    file = Path(f"{airflow.store}.pids")
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def assert_all_gone(airflow: FakeAirflow, tmp_path: Path) -> None:
    wait_for(
        lambda: not set(pids(airflow)) & {pid for pid, line in processes() if line}, 5
    )
    assert list((tmp_path / "tmp").iterdir()) == []


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
    "pip": "#!{python}\n",
    "pip, a long path or a blank": exec_line('"{python}"', "\n' '''\n"),
    "uv, relocatable": exec_line(
        '"$(dirname -- "$(realpath -- "$0")")"/\'python3\'', "\n' '''\n"
    ),
    "conda": "#!{python}\n",
    "mamba, pixi, a long path or a blank": exec_line('"{python}"', " #'''\n"),
    "Debian, Homebrew": "#!{python} -s -E\n",
    "Nix": "#! {python}\n",
    "env": "#!/usr/bin/env python3\n",
    "env -S": "#!/usr/bin/env -S python3 -s\n",
}


@pytest.mark.parametrize("tool", LAUNCHERS)
def test_scripts_of_every_tool(
    command: Command, fake: Place, tmp_path: Path, tool: str
) -> None:
    airflow = fake()
    folder = tmp_path / ("an env/bin" if "exec" in LAUNCHERS[tool] else "R&D('1)/bin")
    folder.mkdir(parents=True)
    (folder / "python3").symlink_to(sys.executable)
    script = folder / "airflow"
    # A script for both sh and Python has a docstring of its own.
    code = FAKE.read_text().partition('"""\n\n')[2]
    script.write_text(LAUNCHERS[tool].format(python=folder / "python3") + code)
    script.chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    more = {}
    if "-E" in LAUNCHERS[tool]:  # which hides PYTHONPATH, where the version is told
        del command.env["PYTHONPATH"]
        more["ECR_AIRFLOW_SYNC_AIRFLOW_VERSION"] = "2.11.2"
    command.options = []  # airflow is on PATH
    ran = command("-r", "us-east-1", PATH=path, **more)
    assert ran.status == 0, ran.stderr
    assert f", {script}, " in ran.stdout
    assert list(airflow.connections()) == ["docker_default"]
    link = tmp_path / "link"
    link.symlink_to(script)
    linked = command(
        "-r", "us-east-1", "--airflow", f'env PATH="{path}" {link}', **more
    )
    assert linked.status == 0


@pytest.mark.parametrize("first", ["#!/usr/bin/env bash", "#!/opt/python3/bin/bash"])
def test_a_shim_is_told(
    command: Command, tmp_path: Path, first: str, ecr: EcrStandIn
) -> None:
    """Of pyenv, or of a site; its path may have "python" in it."""
    shim = tmp_path / "airflow"
    shim.write_text(f'{first}\nexec pyenv exec airflow "$@"\n')
    shim.chmod(0o755)
    ran = command("-r", "us-east-1", "-q", "--airflow", str(shim))
    told = f"docker_default: {shim}: {shim} {WRAPPER} (exit status 126)\n"
    assert (ran.status, ran.stderr) == (1, told)


def test_the_python_of_a_uv_environment_that_can_be_moved(
    command: Command, tmp_path: Path
) -> None:
    import uv

    made = [uv.find_uv_bin(), "venv", "-q", "--relocatable", "--python", sys.executable]
    subprocess.run([*made, str(tmp_path / "was")], check=True)
    (tmp_path / "was").rename(tmp_path / "is")
    script = tmp_path / "is/bin/airflow"
    script.write_text(
        LAUNCHERS["uv, relocatable"].replace("python3", "python") + "print('airflow')\n"
    )
    script.chmod(0o755)
    ran = command("-r", "us-east-1", "--airflow", str(script), "-q")
    assert ran.stderr == (
        f"docker_default: {script} runs in a Python without the package apache-airflow: "
        "name another script with --airflow, or say --airflow-version\n"
    )


@pytest.mark.parametrize(
    ("airflow", "error"),
    [
        ("airflow", "airflow: not found, with PATH /usr/bin:/bin (cron's is short); "
         f"{HOW_TO_FIND} (exit status 127)"),
        ("/nowhere/airflow", "/nowhere/airflow: no such script; "
         f"{HOW_TO_FIND} (exit status 127)"),
        ("{tmp}", f"{{tmp}}: that is a folder; {HOW_TO_FIND} (exit status 126)"),
        ("docker-is-missing exec -i worker airflow", "cannot run docker-is-missing: "
         "No such file or directory; check --airflow, PATH"),
        ("sh -c 'echo sorry >&2; exit 5' airflow", "sh -c 'echo sorry >&2; exit 5' airflow: "
         "sorry (exit status 5)"),
        ("{tmp}/wrapper", f"{{tmp}}/wrapper: {{tmp}}/wrapper {WRAPPER} (exit status 126)"),
        ("/usr/bin/true", f"/usr/bin/true: /usr/bin/true {WRAPPER} (exit status 126)"),
        ("/bin/bash", f"/bin/bash: /bin/bash {WRAPPER} (exit status 126)"),
    ],
)  # fmt: skip
def test_no_airflow(
    command: Command, tmp_path: Path, ecr: EcrStandIn, airflow: str, error: str
) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec /opt/python3/bin/airflow "$@"\n')
    wrapper.chmod(0o755)
    ran = command(
        "-r", "us-east-1", "-q", "--airflow", airflow.replace("{tmp}", str(tmp_path))
    )
    assert ran.stderr == f"docker_default: {error.replace('{tmp}', str(tmp_path))}\n"
    assert (ran.status, ecr.calls) == (1, [])


def test_nothing_is_imported_from_the_folder_it_starts_in(
    command: Command, fake: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("json", "runpy", "tempfile", "boto3"):
        (trap / f"{name}.py").write_text(
            "raise SystemExit('imported from the current folder')"
        )
    monkeypatch.chdir(trap)
    assert command("-r", "us-east-1").status == 0


@pytest.mark.parametrize("version", ["1.10.15", "2.11.2"])
def test_what_cannot_be_imported_fails_every_command(
    command: Command, fake: Place, version: str
) -> None:
    script = fake(version).script
    script.write_text(f"#!{sys.executable}\nraise ImportError('no flask')\n")
    ran = command("-r", "us-east-1", *THREE, "--quiet")
    assert ran.status == 1
    conn_ids, _, error = ran.stderr.partition(": ")
    assert conn_ids.count(",") == 2
    assert error.endswith("exit status 1): ImportError: no flask\n")


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.13"])
def test_the_program_runs_on_every_python_that_airflow_has(
    tmp_path: Path, version: str
) -> None:
    try:
        python = airflows.find_python(version)
    except airflows.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    script = tmp_path / "airflow"
    script.write_text(
        f"#!{python}\n"
        "import sys\n"
        "print('hello from %s' % sys.argv[1:])\n"
        "if 'fail' in sys.argv: raise ValueError('as asked')\n"
        "if 'exit' in sys.argv: raise SystemExit('as told')\n"
        "if 'import' in sys.argv: print('read ' + open(sys.argv[-1]).read())\n"
    )
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
    assert [outcome.status for outcome in outcomes] == [1, 1, 0, 0]
    assert outcomes[0].output.endswith("\nValueError: as asked\n")
    assert outcomes[1].output.endswith("\nas told\n")
    assert large["a"]["password"] in outcomes[3].output
