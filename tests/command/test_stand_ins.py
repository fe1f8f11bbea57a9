"""The stand-ins themselves: what real clients get of them, and that they are strict."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.ecr_stand_in import (
    ACCOUNT,
    BUILDER,
    PARTNER,
    PUBLIC_HOST,
    WORKER,
    Assumption,
    Call,
    EcrStandIn,
    Fault,
    Identity,
    Role,
    environment,
    region_of,
)
from tests.support.registry_stand_in import (
    WRONG_HOST,
    RegistryStandIn,
    Request,
    Trouble,
)

ARN = "arn:aws:iam::210987654321:role/ecr-reader"
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
DENIED = (
    f"User: {WORKER.arn} is not authorized to perform: sts:AssumeRole on resource: {ARN}",
    "AccessDenied",
    403,
)
UNKNOWN = "The security token included in the request is invalid."
SESSION: Any = (
    boto3.Session()
)  # one, because it takes a while to load what it knows of AWS
HELD = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


@pytest.fixture(autouse=True)
def _environment(
    ecr: EcrStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in's environment, and nothing that this machine's user has configured."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in environment(ecr.url).items():
        monkeypatch.setenv(name, value)


def client(service: str, identity: Identity = WORKER, region: str = "us-east-1") -> Any:
    """A real client, which finds the stand-in by its environment."""
    return SESSION.client(
        service,
        region_name=region,
        aws_access_key_id=identity.access_key,
        aws_secret_access_key=identity.secret_key,
        aws_session_token=identity.session_token or None,
    )


def assume(identity: Identity = WORKER, **parameters: Any) -> Any:
    wanted = {"RoleArn": ARN, "RoleSessionName": "test", **parameters}
    return client("sts", identity).assume_role(**wanted)


def assumed(ecr: EcrStandIn) -> Identity:
    """Temporary keys, as a client gets them."""
    return ecr.identities[assume()["Credentials"]["AccessKeyId"]]


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, str, int]:
    response: Any = error.value.response
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    return response["Error"]["Message"], response["Error"]["Code"], status


def token(identity: Identity = WORKER, region: str = "us-east-1") -> str:
    """The authorization token for private registries, as ECR gives it."""
    (entry,) = client("ecr", identity, region).get_authorization_token()[
        "authorizationData"
    ]
    return str(entry["authorizationToken"])


def public_token() -> str:
    data = client("ecr-public").get_authorization_token()["authorizationData"]
    return str(data["authorizationToken"])


def password(authorization_token: str) -> str:
    return base64.b64decode(authorization_token).decode().partition(":")[2]


def test_a_role(ecr: EcrStandIn) -> None:
    ecr.roles[ARN] = Role("210987654321", external_id="ours")
    answer = assume(ExternalId="ours", DurationSeconds=900)
    keys = answer["Credentials"]
    assert keys["AccessKeyId"].startswith("ASIA")
    lifetime = keys["Expiration"] - datetime.now(timezone.utc)
    assert 890 < lifetime.total_seconds() <= 900
    assert answer["AssumedRoleUser"]["Arn"] == (
        "arn:aws:sts::210987654321:assumed-role/ecr-reader/test"
    )
    assert answer["ResponseMetadata"]["RequestId"]
    assert ecr.assumed == [Assumption(ARN, "test", "ours", 900)]


@pytest.mark.parametrize(
    ("role", "parameters"),
    [
        pytest.param(None, {}, id="no such role"),
        pytest.param(
            Role("210987654321", allowed=("345678901234",)), {}, id="not for us"
        ),
        pytest.param(Role("210987654321", "ours"), {}, id="no external id"),
        pytest.param(
            Role("210987654321", "ours"), {"ExternalId": "other"}, id="another one"
        ),
    ],
)
def test_a_role_that_is_refused(
    ecr: EcrStandIn, role: Role | None, parameters: dict[str, Any]
) -> None:
    ecr.roles = {ARN: role} if role else {}
    with pytest.raises(ClientError) as error:
        assume(**parameters)
    assert refusal(error) == DENIED
    assert [assumption.granted for assumption in ecr.assumed] == [False]


@pytest.mark.parametrize(
    "parameters",
    [
        {"DurationSeconds": 43201},
        {"RoleSessionName": "a b"},
        {"RoleArn": "arn:aws:iam::1:role/ecr-reader"},
        {"ExternalId": "a b"},
        {"SourceIdentity": "unknown-here"},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_what_sts_would_not_take(ecr: EcrStandIn, parameters: dict[str, Any]) -> None:
    ecr.roles[ARN] = Role("210987654321")
    with pytest.raises(ClientError) as error:
        assume(**parameters)
    assert refusal(error)[1:] == ("ValidationError", 400)
    assert ecr.assumed == []


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        (replace(WORKER, access_key="AKIAUNKNOWN"), "InvalidClientTokenId"),
        (replace(WORKER, secret_key="wrong"), "SignatureDoesNotMatch"),
        (replace(WORKER, session_token="made up"), "InvalidClientTokenId"),
    ],
    ids=["key", "secret", "token"],
)
def test_sts_knows_its_callers(ecr: EcrStandIn, identity: Identity, code: str) -> None:
    ecr.roles[ARN] = Role("210987654321")
    with pytest.raises(ClientError) as error:
        assume(identity)
    assert refusal(error)[1:] == (code, 403)


def test_sts_has_faults_too(ecr: EcrStandIn) -> None:
    ecr.roles[ARN] = Role("210987654321")
    ecr.faults["sts"] = Fault(code="Throttling", message="Rate exceeded", times=1)
    assume()
    assert len(ecr.assumed) == 2


def test_temporary_keys(ecr: EcrStandIn) -> None:
    ecr.roles[ARN] = Role("210987654321")
    temporary = assumed(ecr)
    (entry,) = client("ecr", temporary).get_authorization_token()["authorizationData"]
    assert (
        entry["proxyEndpoint"] == "https://210987654321.dkr.ecr.us-east-1.amazonaws.com"
    )
    assert ecr.calls == [Call("us-east-1", (), "210987654321")]


@pytest.mark.parametrize("session_token", ["", "another"], ids=["none", "another"])
def test_temporary_keys_need_their_token(ecr: EcrStandIn, session_token: str) -> None:
    ecr.roles[ARN] = Role("210987654321")
    temporary = replace(assumed(ecr), session_token=session_token)
    with pytest.raises(ClientError) as error:
        token(temporary)
    assert refusal(error) == (UNKNOWN, "UnrecognizedClientException", 400)


def test_temporary_keys_end(ecr: EcrStandIn) -> None:
    ecr.roles[ARN] = Role("210987654321")
    temporary = assumed(ecr)
    ecr.ahead = 3601
    with pytest.raises(ClientError) as error:
        token(temporary)
    assert refusal(error)[1] == "ExpiredTokenException"


def test_a_chain_of_roles_is_an_hour_at_most(ecr: EcrStandIn) -> None:
    ecr.roles[ARN] = Role("210987654321", allowed=(ACCOUNT, "210987654321"))
    temporary = assumed(ecr)
    assume(temporary)
    with pytest.raises(ClientError, match="1 hour session limit"):
        assume(temporary, DurationSeconds=3601)


def test_a_profile_with_a_role(
    ecr: EcrStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore's own way to a role, which has to find the stand-in by its environment."""
    ecr.roles[ARN] = Role("210987654321", external_id="ours")
    (tmp_path / "config").write_text(
        f"[profile reader]\nrole_arn = {ARN}\nexternal_id = ours\nrole_session_name = reader\n"
        "credential_source = Environment\n"
    )
    session: Any = boto3.Session(profile_name="reader")
    session.client("ecr").get_authorization_token()
    assert ecr.assumed == [Assumption(ARN, "reader", "ours")]
    assert ecr.calls == [Call("us-east-1", (), "210987654321")]


@pytest.mark.parametrize(
    "identity", [WORKER, BUILDER, PARTNER], ids=lambda known: known.account
)
def test_each_account_has_its_own_registry(
    ecr: EcrStandIn, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(ecr.url, identity).items():
        monkeypatch.setenv(name, value)
    session: Any = boto3.Session()
    (entry,) = session.client("ecr").get_authorization_token()["authorizationData"]
    assert entry["proxyEndpoint"].startswith(
        f"https://{identity.account}.dkr.ecr.us-east-1."
    )
    assert ecr.calls == [Call("us-east-1", (), identity.account)]


def test_the_environment_of_temporary_keys(ecr: EcrStandIn) -> None:
    ecr.roles[ARN] = Role("210987654321")
    assert HELD <= environment(ecr.url, assumed(ecr)).keys()


def test_ecr_public(ecr: EcrStandIn) -> None:
    data = client("ecr-public").get_authorization_token()["authorizationData"]
    assert data.keys() == {"authorizationToken", "expiresAt"}
    assert [password(data["authorizationToken"])] == ecr.tokens["us-east-1", "public"]
    assert ecr.calls == [Call("us-east-1", (), public=True)]


def test_ecr_public_is_in_one_region(ecr: EcrStandIn) -> None:
    with pytest.raises(ClientError, match="scoped to a valid region"):
        client("ecr-public", region="eu-west-1").get_authorization_token()
    assert ecr.calls == []


def test_ecr_public_has_faults_of_its_own(ecr: EcrStandIn) -> None:
    ecr.faults["public"] = Fault(code="AccessDeniedException", message="no")
    with pytest.raises(ClientError, match="no"):
        public_token()
    assert token()
    ecr.faults["public"] = Fault(change={"expiresAt": None})
    data = client("ecr-public").get_authorization_token()["authorizationData"]
    assert data.keys() == {"authorizationToken"}


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (f"{ACCOUNT}.dkr.ecr.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com", None),
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com.cn", None),
        (f"{ACCOUNT}.dkr.ecr.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        (f"{ACCOUNT}.dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
        (f"{ACCOUNT}.dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1"),
        (f"{ACCOUNT}.dkr-ecr.us-east-1.on.aws", "us-east-1"),
        (f"{ACCOUNT}.dkr-ecr.us-east-1.amazonaws.com", None),
        (f"{ACCOUNT}.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", "cn-north-1"),
        ("12345.dkr.ecr.us-east-1.amazonaws.com", None),
        (f"{HOST}.example.com", None),
        (f"{HOST}:443", None),
        (PUBLIC_HOST, "public"),
        ("example.com", None),
    ],
)
def test_hosts(host: str, region: str | None) -> None:
    assert region_of(host) == region


def test_what_ecr_accepts(ecr: EcrStandIn) -> None:
    private, public = password(token()), password(public_token())
    others = HOST.replace(ACCOUNT, "210987654321")
    assert ecr.accepts(HOST, "AWS", private)
    assert ecr.accepts(others, "AWS", private)
    assert ecr.accepts(PUBLIC_HOST, "AWS", public)
    assert not ecr.accepts(HOST, "aws", private)
    assert not ecr.accepts(HOST, "AWS", private[:-1])
    assert not ecr.accepts(HOST, "AWS", public)
    assert not ecr.accepts(PUBLIC_HOST, "AWS", private)
    assert not ecr.accepts(HOST.replace("us-east-1", "eu-west-1"), "AWS", private)


class Registry:
    """Asks the registries with urllib, which finds the proxy and the CA by its environment."""

    def __init__(self) -> None:
        self.opener = urllib.request.build_opener()

    def __call__(
        self, url: str, authorization: str = "", method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {"Authorization": authorization} if authorization else {}
        request = urllib.request.Request(
            f"https://{url}", headers=headers, method=method
        )
        try:
            answer = self.opener.open(request, timeout=10)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status or 0, dict(answer.headers), answer.read()


@pytest.fixture
def ask(registry: RegistryStandIn, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, value in registry.environment().items():
        monkeypatch.setenv(name, value)
    return Registry()


def test_a_registry_lets_a_token_in(ask: Registry, registry: RegistryStandIn) -> None:
    status, headers, _ = ask(f"{HOST}/v2/", f"Basic {token()}")
    assert (status, headers["Docker-Distribution-Api-Version"]) == (200, "registry/2.0")
    assert registry.requests == [Request(HOST, "GET", "/v2/", credentials=True)]
    assert registry.told() == {HOST}


def test_a_registry_asks_for_credentials(
    ask: Registry, registry: RegistryStandIn
) -> None:
    status, headers, body = ask(f"{HOST}/v2/")
    challenge = f'Basic realm="https://{HOST}/",service="ecr.amazonaws.com"'
    assert (status, headers["WWW-Authenticate"], body) == (
        401,
        challenge,
        b"Not Authorized\n",
    )
    assert registry.told() == set()


def test_a_registry_refuses_other_tokens(ask: Registry) -> None:
    made_up = base64.b64encode(b"AWS:made up").decode()
    for other in (token(region="eu-west-1"), public_token(), made_up, "no base64"):
        status, headers, body = ask(f"{HOST}/v2/", f"Basic {other}")
        assert (status, "WWW-Authenticate" in headers) == (400, False)
        assert b"Your Authorization Token is invalid." in body


def test_a_registry_refuses_an_expired_token(ask: Registry, ecr: EcrStandIn) -> None:
    basic = f"Basic {token()}"
    ecr.ahead = ecr.lifetime - 60
    assert ask(f"{HOST}/v2/", basic)[0] == 200
    ecr.ahead = ecr.lifetime
    status, headers, body = ask(f"{HOST}/v2/", basic)
    assert (status, "WWW-Authenticate" in headers) == (403, False)
    assert b"Your authorization token has expired." in body


def test_a_registry_serves_nothing_else(ask: Registry) -> None:
    basic = f"Basic {token()}"
    assert ask(f"{HOST}/v2/web_scraper/tags/list", basic)[0] == 404
    assert ask(f"{HOST}/v2/", basic, "HEAD")[0] == 405
    assert ask(f"{HOST}/v2/", basic, "POST")[0] == 405


def test_the_public_registry_wants_bearer(ask: Registry, ecr: EcrStandIn) -> None:
    given = public_token()
    status, headers, _ = ask(f"{PUBLIC_HOST}/v2/")
    assert status == 401
    assert headers["WWW-Authenticate"].startswith(
        f'Bearer realm="https://{PUBLIC_HOST}/token/"'
    )
    assert ask(f"{PUBLIC_HOST}/v2/", f"Basic {given}")[0] == 400
    assert ask(f"{PUBLIC_HOST}/v2/", f"Bearer {given}")[0] == 200
    assert ask(f"{PUBLIC_HOST}/v2/", f"Bearer {token()}")[0] == 400
    ecr.ahead = ecr.lifetime
    assert ask(f"{PUBLIC_HOST}/v2/", f"Bearer {given}")[0] == 400


def test_the_public_registry_gives_bearer_tokens(
    ask: Registry, ecr: EcrStandIn
) -> None:
    question = f"{PUBLIC_HOST}/token/?service={PUBLIC_HOST}&scope=aws"
    assert ask(question, f"Basic {token()}")[0] == 400
    for authorization in (f"Basic {public_token()}", ""):
        status, _, body = ask(question, authorization)
        assert status == 200
        assert (
            ask(f"{PUBLIC_HOST}/v2/", f"Bearer {json.loads(body)['token']}")[0] == 200
        )


def test_the_proxy_knows_its_hosts(ask: Registry, registry: RegistryStandIn) -> None:
    for host in ("example.com", f"a.{HOST}", f"{HOST}:5000"):
        with pytest.raises(urllib.error.URLError, match="502"):
            ask(f"{host}/v2/", "Basic never-sent")
    assert [request.method for request in registry.requests] == ["CONNECT"] * 3
    assert registry.told() == set()


def test_a_certificate_for_another_host(
    ask: Registry, registry: RegistryStandIn
) -> None:
    registry.troubles[HOST] = Trouble(wrong_name=True)
    with pytest.raises(urllib.error.URLError, match="Hostname mismatch"):
        ask(f"{HOST}/v2/", f"Basic {token()}")
    assert registry.requests == []
    assert not registry.serves(WRONG_HOST)


def test_troubles_of_a_registry(ask: Registry, registry: RegistryStandIn) -> None:
    basic = f"Basic {token()}"
    registry.troubles[HOST] = Trouble(status=503, times=1)
    assert [ask(f"{HOST}/v2/", basic)[0] for _ in range(2)] == [503, 200]
    registry.troubles[HOST] = Trouble(drop=True)
    with pytest.raises(ConnectionError):
        ask(f"{HOST}/v2/", basic)
    registry.troubles[HOST] = Trouble(delay=0.2)
    assert ask(f"{HOST}/v2/", basic)[0] == 200


def test_a_redirect_shows_who_sends_credentials_on(
    ask: Registry, registry: RegistryStandIn
) -> None:
    """urllib does, to any host: a client of ours must not follow."""
    other = HOST.replace(ACCOUNT, "210987654321")
    registry.troubles[HOST] = Trouble(status=302, location=f"https://{other}/v2/")
    assert ask(f"{HOST}/v2/", f"Basic {token()}")[0] == 200
    assert registry.told() == {HOST, other}
