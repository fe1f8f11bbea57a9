"""--check: would DockerOperator succeed now? And what a plain run says of a variable in the way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.command import HOST, A, Command, FakeAirflow, Place
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn
from tests.support.registry_stand_in import RegistryStandIn, Trouble

pytestmark = pytest.mark.usefixtures("airflow")


def test_all_is_well(
    command: Command, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    assert command("-r", "us-east-1", "-q").status == 0
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, ran.stderr) == (0, "")
    first, second = ran.stdout.splitlines()
    assert first.startswith("Airflow 2.11.2, ")
    line = rf"docker_default  fine     {HOST}, until \d\d:\d\d UTC \(12 h\)"
    assert re.fullmatch(line, second)
    assert registry.told() == {HOST}
    assert len(ecr.calls) == 1  # of the first run
    assert command("--check", "-q").stdout == ""  # the region need not be known


def test_what_is_missing(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    ran = command("-r", "us-east-1", "--check")
    assert ran.status == 1
    assert ran.stdout.endswith("\ndocker_default  missing\n")
    assert ran.stderr == (
        f"docker_default: Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit status 1): "
        "Connection not found; let ecr-airflow-sync write it, or create it\n"
    )
    assert airflow.connections() == {}


def test_what_was_refused(
    command: Command, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    assert command("-r", "us-east-1", "-q").status == 0
    ecr.ahead = 13 * 3600
    ran = command("-r", "us-east-1", "--check", "--json")
    (told,) = json.loads(ran.stdout)["connections"]
    assert (ran.status, told["status"], told["host"]) == (1, "refused", HOST)
    why = (
        rf"{HOST} answered 403 Forbidden; its token is valid until [\d-]+ [\d:]+ UTC; "
        "sync again, and see whether the timer runs"
    )
    assert re.fullmatch(why, told["error"])
    assert ran.stderr == f"docker_default: {told['error']}\n"


def test_the_wrong_host_gets_no_token(
    command: Command, airflow: FakeAirflow, registry: RegistryStandIn
) -> None:
    airflow.hold(docker_default={"host": f"https://{HOST}"})
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, registry.requests) == (1, [])
    assert "docker_default  wrong host\n" in ran.stdout
    assert ran.stderr == (
        f"docker_default: its host is https://{HOST}, and not the bare host of an ECR "
        "registry in us-east-1; run without --check to write it, or check --conn-id, "
        "--region, --registry and --host\n"
    )


def test_ecr_public(
    command: Command, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    assert command("--registry", "public", "-q").status == 0
    ran = command("--registry", "public", "--check")
    assert ran.status == 0, ran.stderr
    ecr.ahead = 13 * 3600
    assert command("--registry", "public", "--check").status == 1


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (Trouble(status=302, location="https://evil.example/v2/"), "answered 302 Found"),
        (Trouble(wrong_name=True), "cannot be reached: [SSL: CERTIFICATE_VERIFY_FAILED"),
    ],
    ids=["redirect", "wrong certificate"],
)  # fmt: skip
def test_a_registry_that_does_not_answer(
    command: Command, registry: RegistryStandIn, trouble: Trouble, error: str
) -> None:
    assert command("-r", "us-east-1", "-q").status == 0
    registry.troubles[HOST] = trouble
    ran = command("-r", "us-east-1", "--check")
    assert ran.status == 1
    assert "docker_default  unreachable\n" in ran.stdout
    assert ran.stderr.startswith(f"docker_default: {HOST} {error}")
    assert ran.stderr.count("\n") == 1
    assert registry.told() <= {HOST}


def test_a_registry_whose_certificate_is_not_trusted(
    command: Command, registry: RegistryStandIn
) -> None:
    assert command("-r", "us-east-1", "-q").status == 0
    del command.env["SSL_CERT_FILE"]
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, registry.told()) == (1, set())
    assert "[SSL: CERTIFICATE_VERIFY_FAILED] " in ran.stderr
    assert ran.stderr.endswith(
        "; check SSL_CERT_FILE, a CA bundle that must know this network's proxy, and "
        "this host's clock\n"
    )


def test_a_host_that_no_name_server_takes(
    command: Command, airflow: FakeAirflow
) -> None:
    """Its first part is too long, and looks like a token."""
    host = f"{'x' * 64}.dkr.ecr.us-east-1.amazonaws.com"
    airflow.hold(docker_default={"host": host, "login": "AWS", "password": "x"})
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    told = "docker_default: ***.dkr.ecr.us-east-1.amazonaws.com cannot be reached: "
    assert ran.stderr.startswith(told)


def test_what_stands_in_the_way(command: Command, registry: RegistryStandIn) -> None:
    name = "AIRFLOW_CONN_DOCKER_DEFAULT"
    variable = {name: json.dumps({"host": HOST, "login": "AWS", "password": "old"})}
    ran = command("-r", "us-east-1", **variable)
    assert (ran.status, ran.stderr) == (
        0,
        f"docker_default: tasks read the variable {name} instead; unset it\n",
    )
    what = "answers instead of the database, so what is synced is never read"
    ran = command("-r", "us-east-1", "--check", **variable)
    assert (ran.status, ran.stderr) == (1, f"docker_default: {name} {what}\n")
    ran = command("-r", "us-east-1", "--check", FAKE_AIRFLOW_TROUBLE="backend")
    assert ran.stderr == f"docker_default: a secrets backend {what}\n"
    assert registry.requests == []


def test_several_in_one_airflow_start(
    command: Command, airflow: FakeAirflow, registry: RegistryStandIn
) -> None:
    options = ["-r", "us-east-1", "-r", "eu-west-1", "--registry", ACCOUNT]
    options += ["--registry", A, "--conn-id", "e_{registry}_{region}"]
    assert command(*options, "-q").status == 0
    stored = airflow.connections()
    del stored[f"e_{A}_us-east-1"]
    airflow.store.write_text(json.dumps(stored))
    airflow.count_starts()
    ran = command(*options, "--check", "--json")
    results = json.loads(ran.stdout)["connections"]
    told = {result["conn_id"]: result["status"] for result in results}
    assert told.pop(f"e_{A}_us-east-1") == "missing"
    assert (ran.status, list(told.values())) == (1, ["fine"] * 3)
    assert airflow.count_starts() == 1
    unchanged = airflow.connections() == stored
    assert unchanged


def test_a_check_that_takes_too_long_names_its_airflow(
    command: Command, fake: Place
) -> None:
    fake(trouble="hang")
    ran = command("-r", "us-east-1", "--check", "--timeout", "1")
    assert ran.status == 1
    assert ran.stdout.startswith("Airflow 2.11.2, ")
    assert ran.stdout.endswith("\ndocker_default  failed\n")
