"""How it is asked, and how it answers: variables, usage errors, terminals, streams."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import ecr_airflow_sync
from _ecr_airflow_sync import airflow_syntax
from _ecr_airflow_sync.interpreter import run_interpreter
from tests.support.command import MODULE, A, Command, FakeAirflow, Place
from tests.support.ecr_stand_in import EcrStandIn, Fault

PREFIX = "ECR_AIRFLOW_SYNC_"
DENIED = Fault(code="AccessDeniedException", message="No.")
USAGE = (
    "Usage: ecr-airflow-sync [OPTIONS]\nTry 'ecr-airflow-sync --help' for help.\n\n"
    "Error: "
)
NOT_SHOWN = (
    "{script} (1.10.15) does not show connections as tasks find them: that takes the "
    "airflow script of 2.0 or later (AWS credentials can also come from --profile, "
    "--role-arn or AWS_ACCESS_KEY_ID)"
)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--registry", ""], "registry '' is not an account id of twelve digits"),
        (["--timeout", "nan"], "timeout nan is not above 0 and below 1000000 seconds"),
        (
            ["-r", "eu-west-1"],
            "2 connections would both be docker_default: "
            "give --conn-id 'ecr_{registry}_{region}'",
        ),
        (["--aws-conn-id", "aws_default"], NOT_SHOWN),
    ],
    ids=["a target", "Airflow", "targets in each other's way", "what Airflow can do"],
)
def test_usage_errors_come_before_any_call(
    command: Command,
    fake: Place,
    ecr: EcrStandIn,
    tmp_path: Path,
    options: list[str],
    error: str,
) -> None:
    """Nor are metrics written. Their rules have tables in tests/unit."""
    airflow = fake("1.10.15")
    metrics = tmp_path / "ecr.prom"
    ran = command("-r", "us-east-1", "--metrics-file", str(metrics), *options)
    told = error.replace("{script}", str(airflow.script))
    assert (ran.status, ran.stdout, ran.stderr) == (2, "", f"{USAGE}{told}\n")
    assert (ecr.calls, airflow.connections(), metrics.exists()) == ([], {}, False)


# --- variables ---


def test_a_run_by_variables(command: Command, fake: Place) -> None:
    """As EnvironmentFile= has them. An option wins, and a version there is none of ours."""
    airflow = fake("2.5.3")
    command.options = []
    variables = {
        "REGION": "us-east-1 eu-west-1",
        "CONN_ID": "docker_default",
        "AIRFLOW": f"env FAKE_AIRFLOW_VERSION=2.4.0 {airflow.script}",
        "AIRFLOW_VERSION": "2.4.0",
        "JSON": "1",
        "QUIET": "1",
        "DRY_RUN": "",
        "VERSION": "0.1.0",
    }
    for name, text in variables.items():
        command.env[PREFIX + name] = text
    ran = command("--conn-id", "e_{region}")
    assert ran.status == 0, ran.stderr
    assert json.loads(ran.stdout)["airflow"]["version"] == "2.4.0"
    assert sorted(airflow.connections()) == ["e_eu-west-1", "e_us-east-1"]


def test_an_empty_variable_says_nothing(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    """So it may stand beside a file."""
    config = tmp_path / "sync.ini"
    config.write_text(f"[e_{A}]\nregion = us-east-1\n")
    for name, text in {"REGION": "", "CONN_ID": "", "CONFIG": str(config)}.items():
        command.env[PREFIX + name] = text
    ran = command()
    assert (ran.status, ran.stderr) == (0, "")
    assert list(airflow.connections()) == [f"e_{A}"]


# --- streams ---


def look(command: Command, *options: str) -> str:
    """What a terminal shows of a run."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command.arguments(*options),
        env=command.env,
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    with suppress(OSError):  # which is the end of a terminal
        while True:
            shown += os.read(parent, 65536)
    os.close(parent)
    process.wait()
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal_shows_progress_and_a_failure_in_red_and_then_why(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    """At once, whatever the splay."""
    ecr.faults["us-east-1"] = DENIED
    shown = look(command, "-r", "us-east-1", "--splay", "86400")
    progress, header, result, why = shown.splitlines()
    assert progress == "Asking ECR for 1 token(s) ..."
    assert header.startswith("Airflow 2.11.2, ")
    assert result == "docker_default  \x1b[31mfailed\x1b[0m"
    assert why.startswith("docker_default: ECR in us-east-1: AccessDeniedException: ")
    ran = command("-r", "us-east-1")
    assert ran.status == 1
    assert ran.stdout == f"{header}\ndocker_default  failed\n"
    assert ran.stderr == f"{why}\n"


def test_no_error_is_lost_where_nobody_reads_the_report(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    ecr.faults["us-east-1"] = DENIED
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command.arguments("-r", "us-east-1"),
        env=command.env,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert re.fullmatch("docker_default: ECR in us-east-1: .*\n", done.stderr)


# --- the process ---


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_boto3(command: Command, option: str) -> None:
    command.program = ("-X", "importtime", str(MODULE))
    ran = command(option)
    assert "| click" in ran.stderr
    assert "boto" not in ran.stderr
    version = f"ecr-airflow-sync {ecr_airflow_sync.__version__}\n"
    assert (ran.stdout == version) == (option == "--version")


def test_nothing_leaves_a_core_dump(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    """Nor does Airflow's Python where the command's own limit does not reach."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("this machine allows none anyway")
    told = tmp_path / "limit"
    prefix = f'sh -c \'ulimit -Hc >{told}; exec "$0" "$@"\''
    script = tmp_path / "airflow"
    limit = "resource.getrlimit(resource.RLIMIT_CORE)"
    script.write_text(f"#!{sys.executable}\nimport resource; print({limit})\n")
    script.chmod(0o755)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        ran = command("-r", "us-east-1", "--airflow", f"{prefix} {airflow.script}")
        with run_interpreter(str(script), 60) as interpreter:
            outcome = interpreter.run(airflow_syntax.Command([]))
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert (ran.status, told.read_text()) == (0, "0\n")
    assert outcome.output == "(0, 0)\n"
