"""What is asked for: options, their variables, usage errors; and what a run tells."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

import ecr_airflow_sync
from tests.support.command import HOST, MODULE, ROOT, A, B, Command, FakeAirflow, Place
from tests.support.ecr_stand_in import (
    ACCOUNT,
    EcrStandIn,
    Fault,
)

MAIN = ecr_airflow_sync.main
PREFIX = "ECR_AIRFLOW_SYNC_"
DENIED = Fault(code="AccessDeniedException", message="No.")
USAGE = (
    "Usage: ecr-airflow-sync [OPTIONS]\nTry 'ecr-airflow-sync --help' for help.\n\n"
    "Error: "
)


# --- how it was used wrongly ---


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
    ],
    ids=["a target", "Airflow", "targets in each other's way"],
)
def test_usage_errors_come_before_any_call(
    command: Command,
    airflow: FakeAirflow,
    ecr: EcrStandIn,
    tmp_path: Path,
    options: list[str],
    error: str,
) -> None:
    """Nor are metrics written. Their rules have tables in tests/unit."""
    metrics = tmp_path / "ecr.prom"
    ran = command("-r", "us-east-1", "--metrics-file", str(metrics), *options)
    assert (ran.status, ran.stdout, ran.stderr) == (2, "", f"{USAGE}{error}\n")
    assert (ecr.calls, airflow.connections(), metrics.exists()) == ([], {}, False)


# --- the environment ---

# A text for the option's variable, what it means, and another text for the option.
# Flags have no text: then the variable says no, and the option yes.
VARIABLES: dict[str, tuple[str, Any, str | None]] = {
    "region": ("us-east-1 eu-west-1", ("us-east-1", "eu-west-1"), "x"),
    "registry": (f"{A} {B}", (A, B), "x"),
    "conn_id": ("e_{registry}", "e_{registry}", "x"),
    "config": ("/etc/sync.ini", "/etc/sync.ini", "x"),
    "host": ("mirror.example.com", "mirror.example.com", "x"),
    "conn_extra": ('{"a": 1}', '{"a": 1}', "x"),
    "profile": ("staff", "staff", "x"),
    "role_arn": ("arn", "arn", "x"),
    "external_id": ("night-42", "night-42", "x"),
    "aws_conn_id": ("aws_default", "aws_default", "x"),
    "airflow": ("docker exec -i worker airflow", "docker exec -i worker airflow", "x"),
    "airflow_version": ("2.4.0", "2.4.0", "x"),
    "method": ("delete-add", "delete-add", "import"),
    "timeout": ("60", 60.0, "7"),
    "splay": ("300", 300, "7"),
    "renew_before": ("1h30m", 5400, "7s"),
    "metrics_file": ("/tmp/ecr.prom", "/tmp/ecr.prom", "x"),
    **dict.fromkeys(
        ("replace", "force", "check", "dry_run", "json", "quiet", "verbose"),
        ("1", True, None),
    ),
}


def test_every_option_has_a_variable() -> None:
    names = {option.name for option in MAIN.params}
    assert set(VARIABLES) == names - {"version"}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_stands_for_its_option_which_beats_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def parse(*arguments: str) -> object:
        return MAIN.make_context("x", list(arguments)).params[name]

    text, meaning, another = VARIABLES[name]
    option = f"--{name.replace('_', '-')}"
    given = [option] if another is None else [option, another]
    without = parse(*given)
    monkeypatch.setenv(PREFIX + name.upper(), text)
    assert parse() == meaning
    if another is None:
        monkeypatch.setenv(PREFIX + name.upper(), "0")
        assert parse() is False
    assert parse(*given) == without != parse()


def test_a_run_by_variables_alone(command: Command, fake: Place) -> None:
    """As EnvironmentFile= has them. A version there is none of ours."""
    airflow = fake("2.5.3")
    command.options = []
    variables = {
        "REGION": "us-east-1 eu-west-1",
        "CONN_ID": "e_{region}",
        "AIRFLOW": f"env FAKE_AIRFLOW_VERSION=2.4.0 {airflow.script}",
        "AIRFLOW_VERSION": "2.4.0",
        "JSON": "1",
        "DRY_RUN": "",
        "VERSION": "0.1.0",
    }
    ran = command(**{PREFIX + name: text for name, text in variables.items()})
    assert ran.status == 0, ran.stderr
    assert json.loads(ran.stdout)["airflow"]["version"] == "2.4.0"
    assert sorted(airflow.connections()) == ["e_eu-west-1", "e_us-east-1"]


# --- what a run tells ---


def look(command: Command, *options: str, **more: str) -> str:
    """What a terminal shows of a run."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command.arguments(*options),
        env={**command.env, **more},
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


def test_a_terminal_shows_a_failure_in_red_and_then_why(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    ecr.faults["us-east-1"] = DENIED
    red = "\x1b[31mfailed\x1b[0m"
    shown = look(command, "-r", "us-east-1")
    progress, header, result, why = shown.splitlines()
    assert progress == "Asking ECR for 1 token(s) ..."
    assert header.startswith("Airflow 2.11.2, ")
    assert result == f"docker_default  {red}"
    assert why.startswith("docker_default: ECR in us-east-1: AccessDeniedException: ")
    plain = shown.replace(red, "failed")
    assert look(command, "-r", "us-east-1", NO_COLOR="1") == plain
    ran = command("-r", "us-east-1")
    assert f"{progress}\n{ran.stdout}{ran.stderr}" == plain


def test_a_terminal_shows_what_a_check_is_waiting_for(
    command: Command, airflow: FakeAirflow
) -> None:
    shown = look(command, "-r", "us-east-1", "--check")
    assert shown.startswith("Asking Airflow for 1 connection(s) ...\n")
    assert "\nLogging in with 1 connection(s) ...\n" in shown


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


def test_quiet_says_nothing_when_all_is_well(
    command: Command, airflow: FakeAirflow
) -> None:
    ran = command("-r", "us-east-1", "-q")
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    assert list(airflow.connections()) == ["docker_default"]


def test_json(command: Command, fake: Place) -> None:
    airflow = fake(trouble=f"skip e_{B}")
    options = ["--registry", A, "--registry", B, "--conn-id", "e_{registry}", "--json"]
    ran = command("-r", "us-east-1", *options)
    assert ran.status == 1
    report = json.loads(ran.stdout)
    assert report["airflow"] == {
        "executable": str(airflow.script),
        "version": "2.11.2",
        "method": "import",
    }
    written, failed = report["connections"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", written.pop("expires_at"))
    assert written == {
        "conn_id": f"e_{A}",
        "registry": A,
        "region": "us-east-1",
        "host": HOST.replace(ACCOUNT, A),
        "status": "written",
        "error": None,
    }
    assert failed["status"] == "failed"
    assert f"Could not import connection. The key 'e_{B}' has" in failed["error"]


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_and_version_import_no_boto3(command: Command, option: str) -> None:
    command.program = ("-X", "importtime", str(MODULE))
    ran = command(option)
    assert "| click" in ran.stderr
    assert "boto" not in ran.stderr
    version = f"ecr-airflow-sync {ecr_airflow_sync.__version__}\n"
    assert (ran.stdout == version) == (option == "--version")


def test_help_has_examples_headings_and_the_place_of_the_docs(command: Command) -> None:
    told = command("--help").stdout
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    examples = [line.split() for line in lines if line.startswith("    ecr-airflow")]
    assert len(examples) == 2
    for example in examples:  # of options that there are
        assert MAIN.make_context(example[0], example[1:])
    options_page = (ROOT / "docs/options.md").read_text()
    headings = re.findall(r"^### (.*)$", options_page, re.MULTILINE)
    assert re.findall(r"^(\w.*):$", told, re.MULTILINE) == headings
    folder = Path(lines[-1].partition("Documentation: ")[2])
    assert (folder / "options.md").read_text() == options_page
    for option in MAIN.params:  # whole phrases
        assert isinstance(option, click.Option)
        assert re.fullmatch(r"[A-Z]\w+ .+\.", option.help or "")


def test_nothing_leaves_a_core_dump(command: Command, airflow: FakeAirflow) -> None:
    """Airflow's Python is told by what the command is allowed itself."""
    told = airflow.script.with_name("limits")
    with airflow.script.open("a") as script:
        script.write(
            f"import resource\nPath({str(told)!r}).write_text("
            "str(resource.getrlimit(resource.RLIMIT_CORE)))\n"
        )
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("this machine allows none anyway")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        assert command("-r", "us-east-1").status == 0
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert told.read_text() == "(0, 0)"
