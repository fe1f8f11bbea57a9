"""Who asks ECR: each option and connection field, by what the stand-in was asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError, NoRegionError

from _ecr_airflow_sync.errors import StepFailed
from _ecr_airflow_sync.identities import create_client, find_credential_process
from _ecr_airflow_sync.model import HeldConnection, Target
from tests.support.ecr_stand_in import (
    BUILDER,
    PARTNER,
    WORKER,
    Assumption,
    Call,
    EcrStandIn,
    Identity,
    LoopbackServer,
    QuietHandler,
    Role,
    serving_here,
)

from .conftest import catch

PULLER = "arn:aws:iam::555555555555:role/puller"
OTHER = "arn:aws:iam::666666666666:role/other"
THEIRS = "arn:aws:iam::777777777777:role/theirs"
HERE = Target(region="us-east-1")


@pytest.fixture(autouse=True)
def _roles(aws: EcrStandIn) -> None:
    aws.roles[PULLER] = Role("555555555555", "night-42")
    aws.roles[OTHER] = Role("666666666666")
    aws.roles[THEIRS] = Role("777777777777", allowed=(PARTNER.account,))


BUILDERS = {"login": BUILDER.access_key, "password": BUILDER.secret_key}
PARTNERS = {
    "aws_access_key_id": PARTNER.access_key,
    "aws_secret_access_key": PARTNER.secret_key,
}


def holding(login: str = "", password: str = "", **extra: Any) -> HeldConnection:
    """An Airflow connection, as one of the type aws."""
    return HeldConnection("aws", True, "", "", login, password, extra)


ROLE = Target(region="us-east-1", role_arn=OTHER)


def test_who_asks(
    aws: EcrStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(target: Target, held: HeldConnection | None = None) -> str:
        create_client(target, held, "ecr").get_authorization_token()
        return aws.calls.pop().account

    (tmp_path / "config").write_text(
        f"[profile partner]\naws_access_key_id = {PARTNER.access_key}\n"
        f"aws_secret_access_key = {PARTNER.secret_key}\n"
        f"[profile other]\nrole_arn = {OTHER}\ncredential_source = Environment\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert ask(HERE) == WORKER.account
    assert ask(HERE, holding(**PARTNERS)) == PARTNER.account
    assert ask(HERE, holding(**BUILDERS, **PARTNERS)) == BUILDER.account
    assert ask(HERE, holding(role_arn=OTHER)) == "666666666666"
    assert ask(ROLE, holding(role_arn=PULLER)) == "666666666666"
    other = replace(HERE, profile="other")
    assert ask(other, holding(profile_name="partner")) == "666666666666"
    assert ask(HERE, holding(profile_name="partner")) == PARTNER.account
    assert ask(replace(HERE, profile="partner", role_arn=THEIRS)) == "777777777777"


def open_session(aws: EcrStandIn) -> Identity:
    """Keys that last for an hour, and only with their token."""
    create_client(ROLE, None, "ecr")
    return next(each for each in aws.identities.values() if each.session_token)


def test_keys_that_are_of_a_session(aws: EcrStandIn) -> None:
    role = open_session(aws)
    token = {"aws_session_token": role.session_token}
    held = holding(role.access_key, role.secret_key, **token)
    create_client(HERE, held, "ecr").get_authorization_token()
    assert aws.calls == [Call("us-east-1", (), role.account)]


def test_an_instance_profile(aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose keys an EC2 instance tells whoever runs on it (IMDSv2)."""
    role = open_session(aws)
    keys = {
        "Code": "Success",
        "AccessKeyId": role.access_key,
        "SecretAccessKey": role.secret_key,
        "Token": role.session_token,
        "Expiration": "2099-01-02T03:04:05Z",
    }

    class Metadata(QuietHandler):
        def do_PUT(self) -> None:
            self._say("a session")

        def do_GET(self) -> None:
            assert self.headers["X-aws-ec2-metadata-token"] == "a session"
            is_list = self.path == "/latest/meta-data/iam/security-credentials/"
            self._say("puller" if is_list else json.dumps(keys))

        def _say(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    for name in ("AWS_ACCESS_KEY_ID", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    with serving_here(LoopbackServer(Metadata)) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        create_client(HERE, None, "ecr").get_authorization_token()
    assert aws.calls == [Call("us-east-1", (), role.account)]


def test_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_region(target: Target, **extra: str) -> object:
        return create_client(target, holding(**extra), "ecr").meta.region_name

    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-4")
    target = Target(region="eu-west-1")
    assert find_region(target, region_name="eu-west-2") == "eu-west-1"
    assert find_region(Target(), region_name="eu-west-2") == "eu-west-2"
    assert find_region(Target(), region_name="") == "eu-west-3"
    monkeypatch.setenv("AWS_REGION", "")
    assert find_region(Target()) == "eu-west-4"


def test_a_role_without_a_region(aws: EcrStandIn) -> None:
    with pytest.raises(NoRegionError):
        create_client(Target(role_arn=OTHER), None, "ecr")
    assert aws.assumed == []


NIGHT = Assumption(PULLER, "ecr-airflow-sync", "night-42")
PASSED_ON = {
    "ExternalId": "night-42",
    "RoleSessionName": "airflow",
    "DurationSeconds": "900",
}
ASSUMED: dict[str, tuple[str | None, dict[str, Any], Assumption]] = {
    "option before extra": (
        "night-42",
        {"external_id": "x1", "assume_role_kwargs": {"ExternalId": "x2"}},
        NIGHT,
    ),
    "extra": (None, {"external_id": "night-42", "assume_role_kwargs": None}, NIGHT),
    "what Airflow passes on": (
        None,
        {"assume_role_method": "assume_role", "assume_role_kwargs": PASSED_ON},
        Assumption(PULLER, "airflow", "night-42", 900),
    ),
}


@pytest.mark.parametrize(
    ("external_id", "extra", "asked"), ASSUMED.values(), ids=ASSUMED
)
def test_how_a_role_is_assumed(
    aws: EcrStandIn, external_id: str | None, extra: dict[str, Any], asked: Assumption
) -> None:
    target = Target(region="eu-west-1", role_arn=PULLER, external_id=external_id)
    create_client(target, holding(**extra), "ecr").get_authorization_token()
    assert aws.assumed == [asked]
    assert aws.calls == [Call("eu-west-1", (), "555555555555")]


OTHER_KIND = "its extra has a role or session of another kind; use keys"
NO_OBJECT = 'its extra is no JSON object; give one, such as {"region_name": "us-east-1"}, or none'
NO_DURATION = (
    "DurationSeconds in its extra is no number of seconds; give one, such as 3600"
)
REFUSED: list[tuple[Any, str]] = [
    ({"assume_role_method": "assume_role_with_web_identity"}, OTHER_KIND),
    ({"assume_role_kwargs": "ExternalId=night-42"}, OTHER_KIND),
    ({"session_kwargs": {}}, OTHER_KIND),
    ({"aws_iam_role": "puller"}, OTHER_KIND),
    ("region_name=us-east-1", NO_OBJECT),
    ({"external_id": 42}, "external_id in its extra is no text; put it in quotes"),
    *(
        ({"assume_role_kwargs": {"DurationSeconds": seconds}}, NO_DURATION)
        for seconds in ("an hour", None, float("inf"))
    ),
]


@pytest.mark.parametrize(("extra", "why"), REFUSED, ids=str)
def test_an_extra_that_is_refused(aws: EcrStandIn, extra: Any, why: str) -> None:
    target = Target(region="us-east-1", aws_conn_id="aws_default", role_arn=OTHER)
    held = replace(holding(**BUILDERS), extra=extra)
    told = catch(StepFailed, create_client, target, held, "ecr")
    assert told == f"aws_conn_id aws_default: {why}"
    assert (aws.calls, aws.assumed) == ([], [])


def test_nobody_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    client = create_client(HERE, None, "ecr")
    with pytest.raises(NoCredentialsError):
        client.get_authorization_token()


def test_whose_program_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the profile, or of one that it rests on."""
    (tmp_path / "config").write_text(
        "[default]\ncredential_process = a\n[profile b]\ncredential_process = b\n"
        "[profile c]\nsource_profile = b\n[profile d]\nsource_profile = e\n"
        "[profile e]\nsource_profile = d\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert find_credential_process(HERE, None) == "default"
    assert find_credential_process(HERE, holding(**BUILDERS)) == ""
    for profile, name in {"b": "b", "c": "b", "d": ""}.items():
        target = Target(profile=profile)
        assert find_credential_process(target, None) == name


def test_the_endpoint_is_for_ecr_alone(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_ECR")
    held = holding(endpoint_url=aws.url, role_arn=OTHER)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    create_client(HERE, held, "ecr").get_authorization_token()
    assert (len(aws.assumed), len(aws.calls)) == (1, 1)


def test_where_ecr_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_url() -> object:
        return create_client(HERE, None, "ecr").meta.endpoint_url

    monkeypatch.delenv("AWS_ENDPOINT_URL_ECR")
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    assert find_url() == "https://ecr.us-east-1.api.aws"
    monkeypatch.delenv("AWS_USE_DUALSTACK_ENDPOINT")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    assert find_url() == "https://ecr-fips.us-east-1.amazonaws.com"


def test_how_long_aws_may_take() -> None:
    """Five attempts of ten seconds end before the command's own patience does."""
    config = create_client(HERE, None, "ecr").meta.config
    assert (config.connect_timeout, config.read_timeout) == (5, 10)
    assert config.retries["mode"] == "standard"
    assert config.retries["total_max_attempts"] == 5
