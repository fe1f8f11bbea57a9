"""What is asked for: options, environment, targets, usage errors, the report's form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Callable

import pytest
from conftest import MODULE, Command, FakeAirflow
from ecr_stand_in import ACCESS_KEY, ACCOUNT, SECRET_KEY, Call, EcrStandIn

import ecr_airflow_sync

Place = Callable[..., FakeAirflow]
A, B, C = "111111111111", "222222222222", "333333333333"
USAGE = "Usage: ecr-airflow-sync [OPTIONS]\nTry 'ecr-airflow-sync --help' for help.\n\nError: "


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ["--registry", "12345"],
            "registry '12345' is not an account id of twelve digits",
        ),
        (
            ["--conn-id", "ecr_{account}"],
            "conn id 'ecr_{account}': the placeholders are {registry} and {region}",
        ),
        (
            ["--conn-extra", "{"],
            "extra is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            ["--host", "https://x"],
            "host 'https://x' is not a bare host, as in an image's name",
        ),
        (["--external-id", "x"], "external_id is for a role: give its role_arn"),
        (["--timeout", "nan"], "timeout nan is not a positive number of seconds"),
        (
            ["--airflow-version", "two"],
            "Airflow version 'two' is not of the form X.Y.Z",
        ),
        (
            ["--airflow", "sudo 'airflow"],
            'airflow command "sudo \'airflow": No closing quotation',
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_usage_errors_come_before_any_call(
    sync: Command, fake: Place, ecr: EcrStandIn, options: list[str], error: str
) -> None:
    airflow = fake()
    ran = sync("--region", "us-east-1", *options)
    assert (ran.status, ran.stdout, ran.stderr) == (2, "", f"{USAGE}{error}\n")
    assert ecr.calls == []
    assert airflow.connections() == {}


@pytest.mark.parametrize(
    "options",
    [
        ["-r", "us-east-1", "-r", "eu-west-1"],
        ["-r", "us-east-1", "--registry", A, "--registry", B],
        ["-r", "a", "-r", "b", "--registry", A, "--registry", B],
        [
            "-r",
            "a",
            "-r",
            "b",
            "--registry",
            A,
            "--registry",
            B,
            "--conn-id",
            "x_{region}",
        ],
        ["-r", "a", "-r", "b", "--conn-id", "x_{registry}"],
    ],
)
def test_two_registries_never_share_a_connection(
    sync: Command, fake: Place, ecr: EcrStandIn, options: list[str]
) -> None:
    fake()
    ran = sync(*options)
    assert ran.status == 2
    assert re.search(r"Error: \d registries overwrite each other: ", ran.stderr)
    assert ran.stderr.endswith("give --conn-id 'ecr_{registry}_{region}'\n")
    assert ecr.calls == []


def test_regions_times_registries_in_one_call_a_region(
    sync: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake()
    ran = sync(
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


def test_a_template_may_name_the_callers_own_registry(
    sync: Command, fake: Place
) -> None:
    airflow = fake()
    assert sync("-r", "eu-west-1", "--conn-id", "ecr_{registry}.{region}").status == 0
    assert list(airflow.connections()) == [f"ecr_{ACCOUNT}.eu-west-1"]


def test_every_option_is_an_environment_variable(sync: Command, fake: Place) -> None:
    airflow = fake("2.5.3")
    sync.options = []
    ran = sync(
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
    sync: Command, fake: Place, ecr: EcrStandIn, tmp_path: object, env: dict[str, str]
) -> None:
    fake()
    with open(f"{tmp_path}/aws-config", "w") as config:
        config.write("[profile ireland]\nregion = eu-west-1\n")
        config.write(
            f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        )
    ran = sync(AWS_CONFIG_FILE=f"{tmp_path}/aws-config", **env)
    assert ran.status == 0, ran.stderr
    assert ecr.calls == [Call("eu-west-1", ())]


def test_no_region_at_all(sync: Command, fake: Place) -> None:
    fake()
    ran = sync()
    assert ran.status == 1
    assert ran.stderr == (
        "docker_default: ECR: You must specify a region; give --region, or set AWS_REGION, "
        "AWS_DEFAULT_REGION or the profile's\n"
    )


def test_what_a_run_tells(sync: Command, fake: Place) -> None:
    airflow = fake()
    ran = sync("-r", "us-east-1", AIRFLOW_HOME="/srv/airflow")
    assert (ran.status, ran.stderr) == (0, "")
    first, second = ran.stdout.splitlines()
    assert (
        first == f"Airflow 2.11.2, {airflow.script}, AIRFLOW_HOME /srv/airflow, import"
    )
    assert re.fullmatch(
        rf"docker_default  written  {ACCOUNT}\.dkr\.ecr\.us-east-1\.amazonaws\.com, "
        r"valid for 12 h 0 min, until \d{4}-\d\d-\d\d \d\d:\d\d UTC",
        second,
    )


def test_quiet_says_nothing_when_all_is_well(sync: Command, fake: Place) -> None:
    airflow = fake()
    ran = sync("-r", "us-east-1", "-q")
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    assert list(airflow.connections()) == ["docker_default"]


def test_json(sync: Command, fake: Place, ecr: EcrStandIn) -> None:
    airflow = fake(trouble=f"skip e_{B}")
    options = ["--registry", A, "--registry", B, "--conn-id", "e_{registry}", "--json"]
    ran = sync("-r", "us-east-1", *options)
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


def test_json_also_when_there_is_no_airflow(sync: Command, ecr: EcrStandIn) -> None:
    ran = sync("-r", "us-east-1", "--json", "--airflow", "/nowhere/airflow")
    assert ran.status == 1
    report = json.loads(ran.stdout)
    assert report["airflow"] == {"executable": None, "version": None, "method": None}
    assert [c["status"] for c in report["connections"]] == ["failed"]
    assert ecr.calls == []


def test_dry_run_fetches_and_writes_nothing(
    sync: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake("1.10.15")
    ran = sync("-r", "us-east-1", "--dry-run")
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


def test_a_version_in_the_environment_is_none_of_ours(
    sync: Command, fake: Place
) -> None:
    fake()
    assert sync("-r", "us-east-1", ECR_AIRFLOW_SYNC_VERSION="0.1.0").status == 0


def test_a_full_disk(sync: Command, fake: Place) -> None:
    airflow = fake()
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(MODULE), *sync.options, "-r", "us-east-1"]
        done = subprocess.run(
            command,
            env=sync.env,
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
