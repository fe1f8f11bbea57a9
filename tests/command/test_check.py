"""--check: would DockerOperator succeed now? And what a plain run says of a variable in the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.support.command import Command, FakeAirflow
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, new_token
from tests.support.registry_stand_in import RegistryStandIn, Trouble

Place = Callable[..., FakeAirflow]
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
FINE = rf"docker_default  fine     {re.escape(HOST)}, until \d\d:\d\d UTC \(12 h\)\n"
WRITE_IT = "run without --check to write it, or check --conn-id, --region, --registry and --host"
SHADOWED = "docker_default: AIRFLOW_CONN_DOCKER_DEFAULT answers instead of the database, so what is synced is never read\n"


def test_all_is_well(
    command: Command, fake: Place, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    fake()
    assert command("-r", "us-east-1", "-q").status == 0
    calls = len(ecr.calls)
    before = list(ecr.tokens.values())
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, ran.stderr) == (0, "")
    assert re.fullmatch(rf"Airflow 2\.11\.2, .*\n{FINE}", ran.stdout)
    assert registry.told() == {HOST}
    assert (len(ecr.calls), list(ecr.tokens.values())) == (calls, before)
    assert command("--check", "-q").stdout == ""  # the region need not be known


def test_what_is_missing(
    command: Command, fake: Place, registry: RegistryStandIn, tmp_path: Path
) -> None:
    airflow = fake()
    ran = command("-r", "us-east-1", "--check")
    assert ran.status == 1
    assert ran.stdout.endswith("\ndocker_default  missing\n")
    assert ran.stderr == (
        f"docker_default: Airflow (AIRFLOW_HOME {tmp_path}/airflow, exit status 1): Connection not found; "
        "let ecr-airflow-sync write it, or create it\n"
    )
    assert airflow.connections() == {}


def test_what_was_refused(
    command: Command, fake: Place, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    airflow = fake()
    assert command("-r", "us-east-1", "-q").status == 0
    ecr.ahead = 13 * 3600
    ran = command("-r", "us-east-1", "--check")
    assert ran.status == 1
    assert re.fullmatch(
        rf"docker_default: {HOST} answered 403 Forbidden; its token is valid until [\d-]+ [\d:]+ UTC; "
        r"sync again, and see whether the timer runs\n",
        ran.stderr,
    )
    ecr.ahead = 0
    stored = airflow.connections()["docker_default"]
    for password in (new_token(1), "short", None):
        airflow.store.write_text(
            json.dumps({"docker_default": {**stored, "password": password}})
        )
        ran = command("-r", "us-east-1", "--check", "--json")
        (told,) = json.loads(ran.stdout)["connections"]
        assert (ran.status, told["status"], told["host"]) == (1, "refused", HOST)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"host": f"https://{HOST}"}, f"https://{HOST}"),
        ({"host": None}, "empty"),
        ({"host": HOST, "port": "443"}, f"{HOST}:443"),
    ],
)  # fmt: skip
def test_the_wrong_host_gets_no_token(
    command: Command,
    fake: Place,
    ecr: EcrStandIn,
    registry: RegistryStandIn,
    fields: dict[str, Any],
    told: str,
) -> None:
    airflow = fake()
    assert command("-r", "us-east-1", "-q").status == 0
    stored = airflow.connections()["docker_default"]
    airflow.store.write_text(json.dumps({"docker_default": {**stored, **fields}}))
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, registry.requests) == (1, [])
    assert "docker_default  wrong host\n" in ran.stdout
    assert ran.stderr == (
        f"docker_default: its host is {told}, and not the bare host of an ECR registry in us-east-1; "
        f"{WRITE_IT}\n"
    )


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", "the bare host of an ECR registry"),
        (
            "-r us-east-1 --registry 111111111111",
            "the bare host of registry 111111111111 in us-east-1",
        ),
        ("--registry public", "public.ecr.aws"),
        ("--host mirror.example.com", "mirror.example.com"),
        (
            "-r eu-west-1 --host {registry}.dkr.ecr-fips.{region}.amazonaws.com",
            "one such as 123456789012.dkr.ecr-fips.eu-west-1.amazonaws.com",
        ),
    ],
)
def test_the_right_host_is_told_without_placeholders(
    command: Command, fake: Place, registry: RegistryStandIn, options: str, wanted: str
) -> None:
    airflow = fake()
    airflow.store.write_text('{"docker_default": {"host": "db.example.com"}}')
    ran = command(*options.split(), "--check")
    assert (ran.status, registry.requests) == (1, [])
    assert ran.stderr == (
        f"docker_default: its host is db.example.com, and not {wanted}; {WRITE_IT}\n"
    )


def test_a_host_of_ones_own_is_the_right_one(
    command: Command, fake: Place, registry: RegistryStandIn
) -> None:
    fake()
    host = ("--host", "{registry}.dkr.ecr-fips.{region}.amazonaws.com")
    assert command("-r", "us-east-1", *host, "-q").status == 0
    ran = command("-r", "us-east-1", *host, "--check")
    assert ran.status == 0, ran.stderr
    assert registry.told() == {f"{ACCOUNT}.dkr.ecr-fips.us-east-1.amazonaws.com"}


def test_china(command: Command, fake: Place, registry: RegistryStandIn) -> None:
    fake()
    assert command("-r", "cn-north-1", "-q").status == 0
    assert command("-r", "cn-north-1", "--check").status == 0
    assert registry.told() == {f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn"}


def test_ecr_public(
    command: Command, fake: Place, registry: RegistryStandIn, ecr: EcrStandIn
) -> None:
    fake()
    assert command("--registry", "public", "-q").status == 0
    ran = command("--registry", "public", "--check")
    assert ran.status == 0, ran.stderr
    ecr.ahead = 13 * 3600
    assert command("--registry", "public", "--check").status == 1


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (Trouble(status=503), f"{HOST} answered 503 Service Unavailable"),
        (
            Trouble(status=302, location="https://evil.example/v2/"),
            f"{HOST} answered 302 Found",
        ),
        (Trouble(drop=True), f"{HOST} cannot be reached: "),
        (
            Trouble(wrong_name=True),
            f"{HOST} cannot be reached: [SSL: CERTIFICATE_VERIFY_FAILED] ",
        ),
    ],
    ids=["503", "redirect", "dropped", "wrong certificate"],
)
def test_a_registry_that_does_not_answer(
    command: Command,
    fake: Place,
    registry: RegistryStandIn,
    trouble: Trouble,
    error: str,
) -> None:
    fake()
    assert command("-r", "us-east-1", "-q").status == 0
    registry.troubles[HOST] = trouble
    ran = command("-r", "us-east-1", "--check")
    assert ran.status == 1
    assert "docker_default  unreachable\n" in ran.stdout
    assert ran.stderr.startswith(f"docker_default: {error}")
    assert ran.stderr.count("\n") == 1
    assert registry.told() <= {HOST}


def test_a_registry_whose_certificate_is_not_trusted(
    command: Command, fake: Place, registry: RegistryStandIn
) -> None:
    fake()
    assert command("-r", "us-east-1", "-q").status == 0
    del command.env["SSL_CERT_FILE"]
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, registry.told()) == (1, set())
    assert re.fullmatch(
        rf"docker_default: {HOST} cannot be reached: \[SSL: CERTIFICATE_VERIFY_FAILED\] .*; "
        "check SSL_CERT_FILE, a CA bundle that must know this network's proxy, and this host's clock\n",
        ran.stderr,
    )


def test_a_proxy_that_is_gone(command: Command, fake: Place) -> None:
    fake()
    assert command("-r", "us-east-1", "-q").status == 0
    ran = command("-r", "us-east-1", "--check", https_proxy="http://127.0.0.1:9")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert (
        f"{HOST} cannot be reached: [Errno 111] Connection refused; check the region"
        in ran.stderr
    )
    ran = command(
        "-r", "us-east-1", "--check", https_proxy="http:/me:s3cret@127.0.0.1:9"
    )
    assert (ran.status, ran.stderr.count("\n"), "s3cret" in ran.stderr) == (1, 1, False)


def test_a_host_that_no_name_server_takes(command: Command, fake: Place) -> None:
    airflow = fake()
    host = f"{'x' * 64}.dkr.ecr.us-east-1.amazonaws.com"
    airflow.store.write_text(
        json.dumps({"docker_default": {"host": host, "login": "AWS", "password": "x"}})
    )
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.startswith(
        "docker_default: ***.dkr.ecr.us-east-1.amazonaws.com cannot be reached: "
    )


def test_what_stands_in_the_way(
    command: Command, fake: Place, registry: RegistryStandIn
) -> None:
    fake()
    variable = json.dumps({"host": HOST, "login": "AWS", "password": "old"})
    ran = command("-r", "us-east-1", AIRFLOW_CONN_DOCKER_DEFAULT=variable)
    assert ran.status == 0
    assert ran.stderr == (
        "docker_default: tasks read the variable AIRFLOW_CONN_DOCKER_DEFAULT instead; unset it\n"
    )
    ran = command("-r", "us-east-1", "--check", AIRFLOW_CONN_DOCKER_DEFAULT=variable)
    assert (ran.status, ran.stderr) == (1, SHADOWED)
    ran = command("-r", "us-east-1", "--check", FAKE_AIRFLOW_TROUBLE="backend")
    assert ran.stderr == SHADOWED.replace(
        "AIRFLOW_CONN_DOCKER_DEFAULT", "a secrets backend"
    )
    assert registry.requests == []


def test_several_in_one_airflow_start(
    command: Command,
    fake: Place,
    ecr: EcrStandIn,
    registry: RegistryStandIn,
    tmp_path: Path,
) -> None:
    airflow = fake()
    options = (
        "-r",
        "us-east-1",
        "-r",
        "eu-west-1",
        "--registry",
        ACCOUNT,
        "--registry",
        "111111111111",
    )
    template = ("--conn-id", "e_{registry}_{region}")
    assert command(*options, *template, "-q").status == 0
    stored = airflow.connections()
    del stored["e_111111111111_us-east-1"]
    airflow.store.write_text(json.dumps(stored))
    Path(f"{airflow.store}.starts").unlink()
    ran = command(*options, *template, "--check", "--json")
    told = {c["conn_id"]: c["status"] for c in json.loads(ran.stdout)["connections"]}
    assert ran.status == 1
    assert sorted(told.values()) == ["fine", "fine", "fine", "missing"]
    assert told["e_111111111111_us-east-1"] == "missing"
    starts = Path(f"{airflow.store}.starts").read_text().splitlines()
    assert len({line.split()[0] for line in starts}) == 1
    assert airflow.connections() == stored


def test_ids_that_only_aws_knows(command: Command, fake: Place) -> None:
    fake()
    ran = command("-r", "us-east-1", "--conn-id", "e_{registry}", "--check")
    assert ran.status == 2
    assert ran.stderr.endswith(
        "--check never asks AWS: give the conn id's regions and registries\n"
    )
