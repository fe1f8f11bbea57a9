"""Who asks ECR: profiles, roles, Airflow connections; ECR Public, and other hosts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import HOST, A, B, Command, FakeAirflow, Place
from tests.support.ecr_stand_in import (
    ACCOUNT,
    BUILDER,
    WORKER,
    Assumption,
    Call,
    EcrStandIn,
    Fault,
    Role,
)

pytestmark = pytest.mark.usefixtures("airflow")

PULLER = "555555555555"
ROLE = f"arn:aws:iam::{PULLER}:role/puller"
KEYS = {"login": BUILDER.access_key, "password": BUILDER.secret_key}


@pytest.fixture(autouse=True)
def _role(ecr: EcrStandIn) -> None:
    ecr.roles[ROLE] = Role(PULLER, "night-42", (WORKER.account, BUILDER.account))


def forget_credentials(command: Command) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del command.env[name]


def test_a_role_is_assumed(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    """Its own registry is then the one that is meant."""
    ran = command("-r", "us-east-1", "--role-arn", ROLE, "--external-id", "night-42")
    assert (ran.status, ran.stderr) == (0, "")
    assert ecr.calls == [Call("us-east-1", (), PULLER)]
    assert ecr.assumed == [Assumption(ROLE, "ecr-airflow-sync", "night-42")]
    host = airflow.connections()["docker_default"]["host"]
    assert host == HOST.replace(ACCOUNT, PULLER)


def test_a_role_that_is_refused(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    ran = command("-r", "us-east-1", "-q", "--role-arn", ROLE)
    assert (ran.status, airflow.connections(), ecr.calls) == (1, {}, [])
    assert ran.stderr == (
        f"docker_default: STS in us-east-1: AccessDenied: User: {WORKER.arn} is not "
        f"authorized to perform: sts:AssumeRole on resource: {ROLE}; the role's trust "
        "policy (its external id?) and this identity's own must allow it\n"
    )


def test_a_profile_and_a_role(
    command: Command, ecr: EcrStandIn, tmp_path: Path
) -> None:
    """One that the profile assumes itself, and one that is assumed by it."""
    config = tmp_path / ".aws/config"  # of this HOME
    config.parent.mkdir()
    config.write_text(f"""\
[profile night]
region = eu-west-1
role_arn = {ROLE}
external_id = night-42
source_profile = day
[profile day]
aws_access_key_id = {BUILDER.access_key}
aws_secret_access_key = {BUILDER.secret_key}
""")
    ran = command("--profile", "night")
    assert (ran.status, ran.stderr) == (0, "")
    by_options = ("--role-arn", ROLE, "--external-id", "night-42", "-r", "eu-west-1")
    assert command("--profile", "day", *by_options).status == 0
    assert ecr.calls == [Call("eu-west-1", (), PULLER)] * 2
    assert [assumed.account for assumed in ecr.assumed] == [BUILDER.account] * 2


# --- Airflow connections ---


@pytest.mark.parametrize("version", ["2.0.1", "3.3.2"])
def test_keys_of_an_airflow_connection(
    command: Command, fake: Place, ecr: EcrStandIn, version: str
) -> None:
    airflow = fake(version)
    airflow.hold(aws_default={**KEYS, "extra": '{"region_name": "eu-west-1"}'})
    forget_credentials(command)
    ran = command("--aws-conn-id", "aws_default", "-v")
    assert ran.status == 0, ran.stderr
    assert ecr.calls == [Call("eu-west-1", (), BUILDER.account)]
    assert BUILDER.secret_key not in ran.stdout + ran.stderr
    assert airflow.count_starts() == 1


def test_a_role_and_a_session_token_of_an_airflow_connection(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    kwargs = {"role_arn": ROLE, "assume_role_kwargs": {"ExternalId": "night-42"}}
    airflow.hold(role={**KEYS, "extra": json.dumps(kwargs)})
    forget_credentials(command)
    assert command("-r", "us-east-1", "--aws-conn-id", "role").status == 0
    temporary = next(i for i in ecr.identities.values() if i.session_token)
    keys = {"login": temporary.access_key, "password": temporary.secret_key}
    extra = {"aws_session_token": temporary.session_token}
    airflow.hold(temporary={**keys, "extra": extra}, half=keys)
    assert command("-r", "us-east-1", "--aws-conn-id", "temporary").status == 0
    assert ecr.calls == [Call("us-east-1", (), PULLER)] * 2
    ran = command("-r", "us-east-1", "--aws-conn-id", "half", "-q")
    assert (ran.status, "UnrecognizedClientException" in ran.stderr) == (1, True)


@pytest.mark.parametrize("option", [["--aws-conn-id", "aws_default"], ["--check"]])
def test_an_airflow_that_shows_no_connections(
    command: Command, fake: Place, ecr: EcrStandIn, option: list[str]
) -> None:
    airflow = fake("1.10.15")
    ran = command("-r", "us-east-1", *option)
    assert (ran.status, ecr.calls) == (2, [])
    assert ran.stderr.endswith(
        f"Error: {airflow.script} (1.10.15) does not show connections as tasks find "
        "them: that takes the airflow script of 2.0 or later (AWS credentials can also "
        "come from --profile, --role-arn or AWS_ACCESS_KEY_ID)\n"
    )


@pytest.mark.parametrize("trouble", ["", "get fails late", "get crashes"])
def test_nothing_of_the_credentials_is_shown_or_kept(
    command: Command, fake: Place, tmp_path: Path, trouble: str
) -> None:
    secret = "a secret key that no mask would know by its looks"
    extra = {"aws_session_token": "tiny"}
    unknown = {"login": "AKIAIOSFODNN7UNKNOWN", "password": secret, "extra": extra}
    airflow = fake(trouble=trouble)
    airflow.hold(aws=unknown)
    ran = command("-r", "us-east-1", "--aws-conn-id", "aws", "-v", "--json")
    assert ran.status == 1
    assert secret not in ran.stdout + ran.stderr
    assert "tiny" not in ran.stdout + ran.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    holding = [path for path in files if secret.encode() in path.read_bytes()]
    assert holding == [airflow.store]


def test_credentials_that_are_missing(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, tmp_path: Path
) -> None:
    """Then ECR is not asked with those of somebody else."""
    config = tmp_path / "sync.ini"
    config.write_text(
        "[DEFAULT]\nregion = us-east-1\n[good]\n[bad]\naws_conn_id = gone\n"
    )
    ran = command("--config", str(config))
    assert (ran.status, list(airflow.connections())) == (1, ["good"])
    assert ran.stderr == (
        "bad: aws_conn_id gone: Airflow has no such connection; check the id, or "
        "create it, with AWS credentials\n"
    )
    assert len(ecr.calls) == 1


def test_ten_connections_of_three_identities_in_two_regions(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, tmp_path: Path
) -> None:
    """A call for each identity and region, and one start of Airflow."""
    airflow.hold(aws_builder=KEYS)
    who = {
        WORKER.account: "",
        PULLER: f"role_arn = {ROLE}\nexternal_id = night-42\n",
        BUILDER.account: "aws_conn_id = aws_builder\n",
    }
    sections = []
    for account, keys in who.items():
        for region in ("us-east-1", "eu-west-1"):
            for registry in (A,) if account == PULLER else (A, B):
                asked = f"region = {region}\nregistry = {registry}\n{keys}"
                sections.append(f"[c{account}_{region}_{registry}]\n{asked}")
    config = tmp_path / "sync.ini"
    config.write_text("".join(sections))
    ran = command("--config", str(config))
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.count("  written  ") == len(sections) == 10
    calls = {(call.account, call.region) for call in ecr.calls}
    assert (len(calls), len(ecr.calls), airflow.count_starts()) == (6, 6, 1)


# --- registries and hosts ---


def test_ecr_public_beside_a_private_one(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    """It is one, in us-east-1, whatever the regions."""
    options = ["--registry", "public", "--registry", ACCOUNT]
    options += ["-r", "eu-west-1", "-r", "us-east-1"]
    ran = command(*options, "--conn-id", "e_{registry}_{region}")
    assert ran.status == 0, ran.stderr
    assert len(ecr.calls) == len(airflow.connections()) == 3
    assert set(ecr.calls) == {
        Call("eu-west-1", (ACCOUNT,)),
        Call("us-east-1", (ACCOUNT,)),
        Call("us-east-1", (), public=True),
    }
    fields = airflow.connections()["e_public_us-east-1"]
    assert (fields["host"], fields["login"]) == ("public.ecr.aws", "AWS")
    is_its_own = [fields["password"]] == ecr.tokens["us-east-1", "public"]
    assert is_its_own
    ecr.faults["public"] = Fault(code="AccessDeniedException", message="no")
    ran = command(*options, "--conn-id", "e_{registry}_{region}")
    assert (ran.status, ran.stdout.count("  written  ")) == (1, 2)
    told = "e_public_us-east-1: ECR in us-east-1: AccessDeniedException: no; allow"
    assert ran.stderr.startswith(told)


@pytest.mark.parametrize(
    ("region", "options", "host"),
    [
        ("cn-north-1", (), f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        (
            "us-east-1",
            ("--host", "{registry}.dkr-ecr.{region}.on.aws"),
            f"{ACCOUNT}.dkr-ecr.us-east-1.on.aws",
        ),
    ],
    ids=["another partition", "dual-stack"],
)
def test_the_host(
    command: Command,
    airflow: FakeAirflow,
    region: str,
    options: tuple[str, ...],
    host: str,
) -> None:
    assert command("-r", region, *options).status == 0
    assert airflow.connections()["docker_default"]["host"] == host
