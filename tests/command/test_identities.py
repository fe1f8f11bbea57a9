"""Who asks ECR: profiles, roles, Airflow connections; ECR Public and the hosts of partitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.support.command import Command, FakeAirflow
from tests.support.ecr_stand_in import (
    ACCOUNT,
    BUILDER,
    PARTNER,
    WORKER,
    Call,
    EcrStandIn,
    Fault,
    Role,
)

Place = Callable[..., FakeAirflow]
PULLER = "arn:aws:iam::555555555555:role/puller"
POLICY = (
    "the role's trust policy (its external id?) and this identity's own must allow it"
)


@pytest.fixture
def role(ecr: EcrStandIn) -> str:
    ecr.roles[PULLER] = Role("555555555555", external_id="night-42")
    return PULLER


def starts(airflow: FakeAirflow) -> int:
    """Processes that ran a command of the fake."""
    return len(
        {
            line.split()[0]
            for line in Path(f"{airflow.store}.starts").read_text().splitlines()
        }
    )


def store(airflow: FakeAirflow, **connections: dict[str, Any]) -> None:
    airflow.store.write_text(json.dumps({**airflow.connections(), **connections}))


def test_a_role_is_assumed(
    command: Command, fake: Place, ecr: EcrStandIn, role: str
) -> None:
    airflow = fake()
    ran = command("-r", "us-east-1", "--role-arn", role, "--external-id", "night-42")
    assert (ran.status, ran.stderr) == (0, "")
    assert ecr.calls == [Call("us-east-1", (), "555555555555")]
    assert (
        airflow.connections()["docker_default"]["host"]
        == "555555555555.dkr.ecr.us-east-1.amazonaws.com"
    )
    (assumed,) = ecr.assumed
    assert (assumed.role, assumed.session) == (role, "ecr-airflow-sync")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--role-arn", PULLER], id="no external id"),
        pytest.param(
            ["--role-arn", PULLER, "--external-id", "other"], id="wrong external id"
        ),
        pytest.param(["--role-arn", f"{PULLER}-of-nobody"], id="no such role"),
    ],
)
def test_a_role_that_is_refused(
    command: Command, fake: Place, ecr: EcrStandIn, role: str, options: list[str]
) -> None:
    airflow = fake()
    ran = command("-r", "us-east-1", "-q", *options)
    assert (ran.status, airflow.connections(), ecr.calls) == (1, {}, [])
    assert ran.stderr == (
        f"docker_default: STS in us-east-1: AccessDenied: User: {WORKER.arn} is not authorized to perform: "
        f"sts:AssumeRole on resource: {options[1]}; {POLICY}\n"
    )


def without_credentials(command: Command) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del command.env[name]


KEYS = {"login": BUILDER.access_key, "password": BUILDER.secret_key}


@pytest.mark.parametrize("version", ["2.0.1", "2.5.3", "2.11.2", "3.3.2"])
def test_credentials_from_an_airflow_connection(
    command: Command, fake: Place, ecr: EcrStandIn, version: str
) -> None:
    airflow = fake(version)
    store(airflow, aws_default={**KEYS, "extra": '{"region_name": "eu-west-1"}'})
    without_credentials(command)
    ran = command("--aws-conn-id", "aws_default", "-v")
    assert ran.status == 0, ran.stderr
    assert ecr.calls == [Call("eu-west-1", (), BUILDER.account)]
    assert BUILDER.secret_key not in ran.stdout + ran.stderr
    assert starts(airflow) == 1


def test_a_role_and_a_session_token_from_an_airflow_connection(
    command: Command, fake: Place, ecr: EcrStandIn, role: str
) -> None:
    ecr.roles[role] = Role("555555555555", "night-42", allowed=(BUILDER.account,))
    airflow = fake()
    extra: dict[str, Any] = {
        "role_arn": role,
        "assume_role_kwargs": {"ExternalId": "night-42"},
    }
    store(
        airflow,
        in_kwargs={**KEYS, "extra": json.dumps(extra)},
        by_itself={
            **KEYS,
            "extra": json.dumps({"role_arn": role, "external_id": "night-42"}),
        },
        keys_alone={**KEYS, "extra": {}},
    )
    without_credentials(command)
    for conn_id in ("in_kwargs", "by_itself"):
        assert command("-r", "us-east-1", "--aws-conn-id", conn_id).status == 0
    options = ("--role-arn", role, "--external-id", "night-42")
    assert (
        command("-r", "us-east-1", "--aws-conn-id", "keys_alone", *options).status == 0
    )
    assert ecr.calls == [Call("us-east-1", (), "555555555555")] * 3
    temporary = next(i for i in ecr.identities.values() if i.session_token)
    keys = {"login": temporary.access_key, "password": temporary.secret_key}
    store(
        airflow,
        temporary={**keys, "extra": {"aws_session_token": temporary.session_token}},
        half=keys,
    )
    assert command("-r", "us-east-1", "--aws-conn-id", "temporary").status == 0
    ran = command("-r", "us-east-1", "--aws-conn-id", "half", "-q")
    assert (ran.status, "UnrecognizedClientException" in ran.stderr) == (1, True)


def test_keys_in_the_extra_of_an_airflow_connection(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    extra = {
        "aws_access_key_id": PARTNER.access_key,
        "aws_secret_access_key": PARTNER.secret_key,
    }
    store(fake(), aws={"extra": extra})
    assert (
        command("-r", "us-east-1", "--aws-conn-id", "aws").status == 0
    )  # never as the host's own identity
    assert ecr.calls == [Call("us-east-1", (), PARTNER.account)]


@pytest.mark.parametrize(
    "extra",
    [
        {"assume_role_method": "assume_role_with_saml"},
    ],
)
def test_a_role_that_is_assumed_otherwise(
    command: Command, fake: Place, ecr: EcrStandIn, role: str, extra: dict[str, Any]
) -> None:
    store(fake(), aws={**KEYS, "extra": {"role_arn": role, **extra}})
    ran = command("-r", "us-east-1", "--aws-conn-id", "aws", "-q")
    assert ran.stderr == (
        "docker_default: aws_conn_id aws: its extra has a role or session of another kind; use keys\n"
    )
    assert (ran.status, ecr.calls, ecr.assumed) == (1, [], [])


def test_a_profile_and_an_endpoint_from_an_airflow_connection(
    command: Command, fake: Place, ecr: EcrStandIn, tmp_path: Path
) -> None:
    airflow = fake()
    (tmp_path / "aws-config").write_text(
        f"[profile partner]\naws_access_key_id = {PARTNER.access_key}\n"
        f"aws_secret_access_key = {PARTNER.secret_key}\nregion = eu-west-1\n"
    )
    store(airflow, aws={"extra": {"profile_name": "partner", "endpoint_url": ecr.url}})
    without_credentials(command)
    del command.env["AWS_ENDPOINT_URL_ECR"]
    ran = command("--aws-conn-id", "aws", AWS_CONFIG_FILE=str(tmp_path / "aws-config"))
    assert (ran.status, ran.stderr) == (0, "")
    assert ecr.calls == [Call("eu-west-1", (), PARTNER.account)]


@pytest.mark.parametrize("version", ["1.10.7", "1.10.15"])
def test_an_airflow_that_shows_no_connections(
    command: Command, fake: Place, ecr: EcrStandIn, version: str
) -> None:
    airflow = fake(version)
    for option in (["--aws-conn-id", "aws_default"], ["--check"]):
        ran = command("-r", "us-east-1", *option)
        assert (ran.status, ecr.calls) == (2, [])
        assert ran.stderr.endswith(
            f"Error: {airflow.script} ({version}) does not show connections as tasks find them: that takes the "
            "airflow script of 2.0 or later (AWS credentials can also come from --profile, --role-arn or "
            "AWS_ACCESS_KEY_ID)\n"
        )


@pytest.mark.parametrize("trouble", ["", "get fails late", "get crashes"])
def test_nothing_of_the_credentials_is_shown(
    command: Command, fake: Place, trouble: str
) -> None:
    airflow = fake(trouble=trouble)
    secret = "a secret key that no mask would know by its looks"
    store(
        airflow,
        aws={
            "login": "AKIAIOSFODNN7UNKNOWN",
            "password": secret,
            "extra": {"aws_session_token": "tiny"},
        },
    )
    for options in ((), ("-v",), ("--json",)):
        ran = command("-r", "us-east-1", "--aws-conn-id", "aws", *options)
        assert ran.status == 1
        assert secret not in ran.stdout + ran.stderr
        assert "tiny" not in ran.stdout + ran.stderr


def test_a_connection_with_credentials_that_is_missing(
    command: Command, fake: Place, ecr: EcrStandIn, tmp_path: Path
) -> None:
    airflow = fake()
    config = tmp_path / "sync.ini"
    config.write_text(
        "[DEFAULT]\nregion = us-east-1\n[good]\n[bad]\naws_conn_id = gone\n"
    )
    ran = command("--config", str(config))
    assert (ran.status, list(airflow.connections())) == (1, ["good"])
    assert ran.stderr == (
        "bad: aws_conn_id gone: Airflow has no such connection; check the id, or create it, "
        "with AWS credentials\n"
    )
    assert len(ecr.calls) == 1  # not with the credentials of somebody else


def test_ten_connections_of_three_identities_in_two_regions(
    command: Command, fake: Place, ecr: EcrStandIn, tmp_path: Path, role: str
) -> None:
    airflow = fake()
    store(airflow, aws_builder={**KEYS, "extra": {}})
    who = [
        "",
        f"role_arn = {role}\nexternal_id = night-42",
        "aws_conn_id = aws_builder",
    ]
    registries = ["111111111111", "222222222222"]
    sections = [
        f"[c_{number}_{region}_{registry}]\nregion = {region}\nregistry = {registry}\n{who[number]}\n"
        for number in range(3)
        for region in ("us-east-1", "eu-west-1")
        for registry in registries[: 1 if number == 2 else 2]
    ]
    config = tmp_path / "sync.ini"
    config.write_text("\n".join(sections))
    ran = command("--config", str(config))
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.count("  written  ") == len(sections) == 10
    assert (len(ecr.calls), starts(airflow)) == (6, 1)
    calls = {(call.account, call.region) for call in ecr.calls}
    assert calls == {
        (a, r)
        for a in (ACCOUNT, "555555555555", BUILDER.account)
        for r in ("us-east-1", "eu-west-1")
    }


def test_ecr_public(command: Command, fake: Place, ecr: EcrStandIn) -> None:
    airflow = fake()
    ran = command(
        "-r",
        "eu-west-1",
        "-r",
        "us-east-1",
        "--registry",
        "public",
        "--conn-id",
        "ecr_{registry}",
    )
    assert ran.status == 0, ran.stderr
    assert ecr.calls == [Call("us-east-1", (), ACCOUNT, public=True)]
    fields = airflow.connections()["ecr_public"]
    assert (fields["host"], fields["login"]) == ("public.ecr.aws", "AWS")
    assert [fields["password"]] == ecr.tokens["us-east-1", "public"]


def test_ecr_public_beside_private_ones(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake()
    options = (
        "--registry",
        "public",
        "--registry",
        ACCOUNT,
        "--conn-id",
        "ecr_{registry}",
    )
    ecr.faults["public"] = Fault(code="AccessDeniedException", message="no")
    ran = command("-r", "us-east-1", *options)
    assert (ran.status, list(airflow.connections())) == (1, [f"ecr_{ACCOUNT}"])
    assert ran.stderr.startswith(
        "ecr_public: ECR in us-east-1: AccessDeniedException: no; allow"
    )
    assert sorted(ecr.calls, key=str)[0] == Call("us-east-1", (ACCOUNT,))


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-gov-west-1", f"{ACCOUNT}.dkr.ecr.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", f"{ACCOUNT}.dkr.ecr.eusc-de-east-1.amazonaws.eu"),
        ("us-iso-east-1", f"{ACCOUNT}.dkr.ecr.us-iso-east-1.c2s.ic.gov"),
    ],
)
def test_hosts_of_partitions(
    command: Command, fake: Place, region: str, host: str
) -> None:
    airflow = fake()
    assert command("-r", region).status == 0
    assert airflow.connections()["docker_default"]["host"] == host


@pytest.mark.parametrize(
    ("template", "host"),
    [
        (
            "{registry}.dkr.ecr-fips.{region}.amazonaws.com",
            f"{ACCOUNT}.dkr.ecr-fips.us-east-1.amazonaws.com",
        ),
        ("{registry}.dkr-ecr.{region}.on.aws", f"{ACCOUNT}.dkr-ecr.us-east-1.on.aws"),
        ("mirror.example.com", "mirror.example.com"),
    ],
)
def test_a_host_of_ones_own(
    command: Command, fake: Place, template: str, host: str
) -> None:
    airflow = fake()
    assert command("-r", "us-east-1", "--host", template).status == 0
    assert airflow.connections()["docker_default"]["host"] == host
