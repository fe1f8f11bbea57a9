"""What is asked for: options, environment, targets, usage errors, the report's form."""

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
from typing import Callable

import click
import pytest

import ecr_airflow_sync
from ecr_airflow_sync import Airflow, SyncError, Target, UsageError
from tests.support.command import MODULE, ROOT, Command, FakeAirflow
from tests.support.ecr_stand_in import (
    ACCESS_KEY,
    ACCOUNT,
    SECRET_KEY,
    Call,
    EcrStandIn,
    Fault,
)

Place = Callable[..., FakeAirflow]
A, B, C = "111111111111", "222222222222", "333333333333"
DOCS = ROOT / "docs"
USAGE = "Usage: ecr-airflow-sync [OPTIONS]\nTry 'ecr-airflow-sync --help' for help.\n\nError: "


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param(
            ["--registry", ""],
            "registry '' is not an account id of twelve digits",
            id="empty registry",
        ),
        pytest.param(
            ["--registry", "12345"],
            "registry '12345' is not an account id of twelve digits",
            id="short registry",
        ),
        pytest.param(
            ["--registry", "١٢٣٤٥٦٧٨٩٠١٢"],
            "registry '١٢٣٤٥٦٧٨٩٠١٢' is not an account id of twelve digits",
            id="other digits",
        ),
        pytest.param(
            ["--conn-id", "ecr_{account}"],
            "conn id 'ecr_{account}': the placeholders are {registry} and {region}",
            id="unknown placeholder",
        ),
        *(
            pytest.param(
                ["--conn-id", conn_id],
                f"conn id {conn_id!r}: it must be 1 to 200 ASCII letters, digits, underscores, "
                "dashes (not in front) and dots (not two in a row)",
                id=f"conn id {conn_id[:9]!r}",
            )
            for conn_id in (
                *("", "a b", "a..b", "-a", "a/b", "a\n", "x" * 201),
                *("a2_ümlaut", "a٢"),
            )
        ),
        *(
            pytest.param(
                ["--region", region],
                f"region {region!r} is not one region: give one -r each (in a file, a section each)",
                id=f"region {region!r}",
            )
            for region in ("us-east-1,eu-west-1", "us-east-1 eu-west-1", "eu-west-1\n")
        ),
        *(
            pytest.param(
                ["--conn-id", conn_id, "--aws-conn-id", "aws_keys"],
                "aws_keys holds AWS credentials, which the token would replace: "
                "give another connection id than that of aws_conn_id",
                id=f"keys overwritten by {conn_id}",
            )
            for conn_id in ("aws_keys", "AWS_Keys")
        ),
        pytest.param(
            ["--conn-extra", "[1]"],
            'extra is not a JSON object, such as \'{"email": "me@example.com"}\'',
            id="extra not an object",
        ),
        pytest.param(
            ["--conn-extra", "{"],
            "extra is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            id="extra not JSON",
        ),
        *(
            pytest.param(
                ["--conn-extra", extra],
                "extra has reauth false: DockerOperator would not log in to ECR",
                id=f"extra {extra}",
            )
            for extra in (
                '{"reauth": false}',
                '{"reauth": "no"}',
                '{"reauth": "False"}',
            )
        ),
        *(
            pytest.param(
                ["--timeout", timeout],
                f"timeout {timeout} is not above 0 and below 1000000 seconds",
                id=f"timeout {timeout}",
            )
            for timeout in ("0", "-1", "nan", "inf")
        ),
        pytest.param(
            ["--airflow-version", "two"],
            "Airflow version 'two' is not of the form X.Y.Z",
            id="version in words",
        ),
        pytest.param(
            ["--airflow", "sudo 'airflow"],
            'airflow command "sudo \'airflow": No closing quotation',
            id="airflow command not closed",
        ),
    ],
)
def test_usage_errors_come_before_any_call(
    command: Command, fake: Place, ecr: EcrStandIn, options: list[str], error: str
) -> None:
    airflow = fake()
    region = [] if "--region" in options else ["--region", "us-east-1"]
    ran = command(*region, *options)
    assert (ran.status, ran.stdout, ran.stderr) == (2, "", f"{USAGE}{error}\n")
    assert ecr.calls == []
    assert airflow.connections() == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("-r us-east-1 -r eu-west-1", "2 connections would both be docker_default"),
        (f"-r us-east-1 --registry {A} --registry {B}", "2 connections would both be docker_default"),
        (f"-r a -r b --registry {A} --registry {B}", "4 connections would all be docker_default"),
        (f"-r a -r b --registry {A} --registry {B} --conn-id x_{{region}}", "2 connections would both be x_a"),
        ("-r a -r b --conn-id x_{registry}", "2 connections would both be x_{registry}"),
    ],
)  # fmt: skip
def test_two_registries_never_share_a_connection(
    command: Command, fake: Place, ecr: EcrStandIn, options: str, error: str
) -> None:
    fake()
    ran = command(*options.split())
    assert (ran.status, ecr.calls) == (2, [])
    assert (
        ran.stderr == f"{USAGE}{error}: give --conn-id 'ecr_{{registry}}_{{region}}'\n"
    )


def test_an_empty_region_beside_another(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    ran = command(
        "-r", "", "-r", "eu-west-1", "--conn-id", "x_{region}", AWS_REGION="us-east-1"
    )
    assert (ran.status, ran.stderr) == (2, f"{USAGE}one of several regions is empty\n")
    assert ecr.calls == []


def test_regions_times_registries_in_one_call_a_region(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake()
    ran = command(
        *("-r", "us-east-1", "-r", "eu-west-1", "-r", "us-east-1"),
        *("--registry", A, "--registry", B, "--registry", C),
        *("--conn-id", "ecr_{registry}_{region}"),
    )
    assert ran.status == 0, ran.stderr
    assert sorted(ecr.calls, key=str) == [
        Call("eu-west-1", (A, B, C)),
        Call("us-east-1", (A, B, C)),
    ]
    hosts = {
        conn_id: fields["host"] for conn_id, fields in airflow.connections().items()
    }
    assert hosts == {
        f"ecr_{registry}_{region}": f"{registry}.dkr.ecr.{region}.amazonaws.com"
        for registry in (A, B, C)
        for region in ("us-east-1", "eu-west-1")
    }
    for conn_id, fields in airflow.connections().items():
        _, registry, region = conn_id.split("_")
        assert [fields["password"]] == ecr.tokens[region, registry]


def test_more_than_ten_registries_take_a_second_call(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake()
    registries = [f"{number:012}" for number in range(23)]
    options = [option for registry in registries for option in ("--registry", registry)]
    ran = command("-r", "us-east-1", *options, "--conn-id", "ecr_{registry}")
    assert ran.status == 0, ran.stderr
    assert sorted(len(call.registries) for call in ecr.calls) == [3, 10, 10]
    assert len(airflow.connections()) == 23


def test_a_template_may_name_the_callers_own_registry(
    command: Command, fake: Place
) -> None:
    airflow = fake()
    assert (
        command("-r", "eu-west-1", "--conn-id", "ecr_{registry}.{region}").status == 0
    )
    assert list(airflow.connections()) == [f"ecr_{ACCOUNT}.eu-west-1"]


def test_every_option_is_an_environment_variable(command: Command, fake: Place) -> None:
    airflow = fake("2.5.3")
    command.options = []
    ran = command(
        ECR_AIRFLOW_SYNC_REGION="us-east-1 eu-west-1",
        ECR_AIRFLOW_SYNC_REGISTRY=f"{A} {B}",
        ECR_AIRFLOW_SYNC_CONN_ID="e_{registry}_{region}",
        ECR_AIRFLOW_SYNC_CONN_EXTRA='{"email": "ops@example.com"}',
        ECR_AIRFLOW_SYNC_AIRFLOW=f"env FAKE_AIRFLOW_VERSION=2.4.0 {airflow.script}",
        ECR_AIRFLOW_SYNC_AIRFLOW_VERSION="2.4.0",
        ECR_AIRFLOW_SYNC_METHOD="delete-add",
        ECR_AIRFLOW_SYNC_TIMEOUT="60",
        ECR_AIRFLOW_SYNC_DRY_RUN="",
        ECR_AIRFLOW_SYNC_JSON="1",
        ECR_AIRFLOW_SYNC_QUIET="",
        ECR_AIRFLOW_SYNC_VERBOSE="0",
    )
    assert ran.status == 0, ran.stderr
    assert json.loads(ran.stdout)["airflow"] == {
        "executable": str(airflow.script),
        "version": "2.4.0",
        "method": "delete-add",
    }
    assert len(airflow.connections()) == 4
    extras = {fields["conn_extra"] for fields in airflow.connections().values()}
    assert extras == {'{"email": "ops@example.com"}'}


@pytest.mark.parametrize(
    "env",
    [
        {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1"},
        {"AWS_DEFAULT_REGION": "eu-west-1"},
        {"AWS_PROFILE": "ireland"},
        {"ECR_AIRFLOW_SYNC_PROFILE": "ireland"},
    ],
    ids=lambda env: next(iter(env)),
)
def test_the_region_is_found_where_people_set_it(
    command: Command,
    fake: Place,
    ecr: EcrStandIn,
    tmp_path: object,
    env: dict[str, str],
) -> None:
    fake()
    with open(f"{tmp_path}/aws-config", "w") as config:
        config.write("[profile ireland]\nregion = eu-west-1\n")
        config.write(
            f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        )
    ran = command(AWS_CONFIG_FILE=f"{tmp_path}/aws-config", **env)
    assert ran.status == 0, ran.stderr
    assert ecr.calls == [Call("eu-west-1", ())]


def test_no_region_at_all(command: Command, fake: Place) -> None:
    fake()
    ran = command()
    assert ran.status == 1
    assert ran.stderr == (
        "docker_default: ECR: You must specify a region; give --region, or set AWS_REGION, "
        "AWS_DEFAULT_REGION or the profile's\n"
    )


def test_what_a_run_tells(command: Command, fake: Place) -> None:
    airflow = fake()
    ran = command("-r", "us-east-1", AIRFLOW_HOME="/srv/airflow")
    assert (ran.status, ran.stderr) == (0, "")
    first, second = ran.stdout.splitlines()
    assert (
        first == f"Airflow 2.11.2, {airflow.script}, AIRFLOW_HOME /srv/airflow, import"
    )
    assert re.fullmatch(
        rf"docker_default  written  {ACCOUNT}\.dkr\.ecr\.us-east-1\.amazonaws\.com, "
        r"until \d\d:\d\d UTC \(12 h\)",
        second,
    )


def test_a_result_is_a_line_of_eighty_columns_where_names_allow(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    (line,) = command("-r", "us-east-1", "--conn-id", "e").stdout.splitlines()[1:]
    assert len(line) == 80
    for lifetime, until in (
        (12 * 3600, r"until \d\d:\d\d UTC \(12 h\)"),
        (11.8 * 3600, r"until \d\d:\d\d UTC \(11 h\)"),
        (44.9 * 60, r"until \d\d:\d\d UTC \(45 min\)"),
        (36 * 3600, r"until 20\d\d-\d\d-\d\d \d\d:\d\d UTC \(36 h\)"),
        (-60, r"expired at 20\d\d-\d\d-\d\d \d\d:\d\d UTC"),
    ):
        ecr.lifetime = lifetime
        ran = command("-r", "us-east-1")
        assert re.search(rf"\.amazonaws\.com, {until}\n$", ran.stdout)


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


RED = "\x1b[31mfailed\x1b[0m"


def test_a_terminal_shows_a_failure_in_red_and_then_why(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="No.")
    shown = look(command, "-r", "us-east-1")
    _, header, result, why = shown.splitlines()
    assert header.startswith("Airflow 2.11.2, ")
    assert result == f"docker_default  {RED}"
    assert why.startswith(
        "docker_default: ECR in us-east-1: AccessDeniedException: No;"
    )
    plain = shown.replace(RED, "failed")
    assert look(command, "-r", "us-east-1", NO_COLOR="1") == plain
    ran = command("-r", "us-east-1")
    assert f"{ran.stdout}{ran.stderr}" == plain.partition("\n")[2]


def test_a_terminal_shows_what_a_check_is_waiting_for(
    command: Command, fake: Place
) -> None:
    fake()
    shown = look(command, "-r", "us-east-1", "--check")
    assert shown.startswith("Asking Airflow for 1 connection(s) ...\n")
    assert "\nLogging in with 1 connection(s) ...\n" in shown
    assert command("-r", "us-east-1", "--check").stderr.startswith("docker_default: ")


def test_no_error_is_lost_where_nobody_reads_the_report(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message="no")
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


def test_no_full_stop_before_what_comes_next(command: Command, fake: Place) -> None:
    airflow = fake()
    assert command("-r", "us-east-1").status == 0
    airflow.script.write_text(
        f"#!{sys.executable}\nraise SystemExit('The database is asleep.')\n"
    )
    ran = command("-r", "us-east-1", "-q")
    assert ran.status == 1
    assert ": The database is asleep; the token written there at " in ran.stderr


def test_nothing_leaves_a_core_dump(command: Command, fake: Place) -> None:
    """Airflow's Python is told by what the command is allowed itself."""
    airflow = fake()
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


def test_quiet_says_nothing_when_all_is_well(command: Command, fake: Place) -> None:
    airflow = fake()
    ran = command("-r", "us-east-1", "-q")
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    assert list(airflow.connections()) == ["docker_default"]


def test_json(command: Command, fake: Place, ecr: EcrStandIn) -> None:
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
        "host": f"{A}.dkr.ecr.us-east-1.amazonaws.com",
        "status": "written",
        "error": None,
    }
    assert failed["status"] == "failed"
    assert failed["error"].endswith(
        f"exit status 0): Could not import connection. The key 'e_{B}' has to be made of ..."
    )


def test_json_also_when_there_is_no_airflow(command: Command, ecr: EcrStandIn) -> None:
    ran = command("-r", "us-east-1", "--json", "--airflow", "/nowhere/airflow")
    assert ran.status == 1
    report = json.loads(ran.stdout)
    assert report["airflow"] == {"executable": None, "version": None, "method": None}
    assert [c["status"] for c in report["connections"]] == ["failed"]
    assert ecr.calls == []


def test_dry_run_fetches_and_writes_nothing(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake("1.10.15")
    ran = command("-r", "us-east-1", "--dry-run")
    assert ran.status == 0
    assert " planned  " in ran.stdout
    assert ", delete-add\n" in ran.stdout
    assert len(ecr.calls) == 1
    assert airflow.connections() == {}


def test_help_and_version_import_no_boto3() -> None:
    for option in ("--help", "-h", "--version"):
        command = [sys.executable, "-X", "importtime", str(MODULE), option]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "| click" in done.stderr
        assert "boto" not in done.stderr
    assert done.stdout == f"ecr-airflow-sync {ecr_airflow_sync.__version__}\n"


def test_help_has_examples_headings_and_the_place_of_the_docs(command: Command) -> None:
    command.options = []
    told = command("--help").stdout
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    examples = [
        line.split() for line in lines if line.startswith("    ecr-airflow-sync ")
    ]
    assert len(examples) == 2
    for example in examples:  # of options that there are
        assert ecr_airflow_sync.main.make_context(example[0], example[1:])
    options_page = (DOCS / "options.md").read_text()
    headings = re.findall(r"^### (.*)$", options_page, re.MULTILINE)
    assert re.findall(r"^(\w.*):$", told, re.MULTILINE) == headings
    folder = Path(lines[-1].partition("Documentation: ")[2])
    assert (folder / "options.md").read_text() == options_page
    for option in ecr_airflow_sync.main.params:  # whole phrases
        assert isinstance(option, click.Option)
        assert re.fullmatch(r"[A-Z]\w+ .+\.", option.help or "")


def test_sync_is_callable(
    command: Command, fake: Place, monkeypatch: pytest.MonkeyPatch, ecr: EcrStandIn
) -> None:
    airflow = fake()
    for name, value in command.env.items():
        monkeypatch.setenv(name, value)
    mine = Target("mine", "us-east-1", A, extra='{"email": "a@b.example"}')
    there = Airflow(str(airflow.script))
    results = ecr_airflow_sync.sync([mine], there)
    (result,) = results
    assert (result.conn_id, result.status, result.registry) == ("mine", "written", A)
    assert ecr.tokens["us-east-1", A][0] not in repr(results)
    assert ecr_airflow_sync.sync([mine], there, renew_before=60)[0].status == "fresh"
    assert ecr_airflow_sync.sync([mine], there, dry_run=True)[0].status == "planned"
    monkeypatch.setenv("FAKE_AIRFLOW_TROUBLE", "skip mine")
    with pytest.raises(SyncError, match="Could not import") as caught:
        ecr_airflow_sync.sync([mine], there)
    assert caught.value.results[0].status == "failed"
    two = [Target(registry=A), Target(registry=B)]
    with pytest.raises(
        UsageError, match=r"2 connections would both be .*'ecr_{registry}_"
    ):
        ecr_airflow_sync.sync(two, Airflow())
    with pytest.raises(UsageError, match="not an account id"):
        ecr_airflow_sync.sync([Target(registry="12")], Airflow())
    with pytest.raises(UsageError, match="method 'add' is none of"):
        Airflow(method="add")


def test_a_version_in_the_environment_is_none_of_ours(
    command: Command, fake: Place
) -> None:
    fake()
    assert command("-r", "us-east-1", ECR_AIRFLOW_SYNC_VERSION="0.1.0").status == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(command: Command, fake: Place) -> None:
    airflow = fake()
    with open("/dev/full", "w") as full:
        arguments = command.arguments("-r", "us-east-1")
        done = subprocess.run(
            arguments,
            env=command.env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (
        done.stderr
        == "Error: the report could not be printed: No space left on device\n"
    )
    assert done.returncode == 1
    assert list(airflow.connections()) == ["docker_default"]
