"""The contract of the stand-ins: what real clients get of them, and that they are strict."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any, Callable, Tuple

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.command import HOST
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
)
from tests.support.registry_stand_in import RegistryStandIn, Request, Trouble

READER = "210987654321"
ARN = f"arn:aws:iam::{READER}:role/ecr-reader"
SESSION: Any = boto3.Session()  # one, for it takes a while to load what it knows of AWS
Ask = Callable[..., Tuple[int, str, bytes]]


@pytest.fixture(autouse=True)
def _role(ecr: EcrStandIn) -> None:
    ecr.roles[ARN] = Role(READER, "ours")


def client(
    ecr: EcrStandIn,
    service: str,
    identity: Identity = WORKER,
    region: str = "us-east-1",
) -> Any:
    return SESSION.client(
        service,
        region_name=region,
        endpoint_url=ecr.url,
        aws_access_key_id=identity.access_key,
        aws_secret_access_key=identity.secret_key,
        aws_session_token=identity.session_token or None,
    )


def assume(ecr: EcrStandIn, identity: Identity = WORKER, **parameters: Any) -> Identity:
    """The temporary keys, as a client gets them."""
    wanted = {"RoleArn": ARN, "RoleSessionName": "test", "ExternalId": "ours"}
    answer = client(ecr, "sts", identity).assume_role(**{**wanted, **parameters})
    return ecr.identities[answer["Credentials"]["AccessKeyId"]]


def get_token(
    ecr: EcrStandIn, identity: Identity = WORKER, region: str = "us-east-1"
) -> str:
    """The authorization token for private registries, as ECR gives it."""
    answer = client(ecr, "ecr", identity, region).get_authorization_token()
    (entry,) = answer["authorizationData"]
    host = f"{identity.account}.dkr.ecr.{region}.amazonaws.com"
    assert entry["proxyEndpoint"] == f"https://{host}"
    return str(entry["authorizationToken"])


def get_public_token(ecr: EcrStandIn, region: str = "us-east-1") -> str:
    answer = client(ecr, "ecr-public", region=region).get_authorization_token()
    return str(answer["authorizationData"]["authorizationToken"])


def refuse(call: Callable[..., Any], *arguments: Any, **more: Any) -> tuple[str, int]:
    """AWS's code and the HTTP status with which a call ends."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **more)
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


# --- ECR and STS ---


def test_each_account_has_its_own_registry(ecr: EcrStandIn) -> None:
    for identity in (WORKER, BUILDER, PARTNER):
        get_token(ecr, identity)
        assert ecr.calls[-1] == Call("us-east-1", (), identity.account)


def test_ecr_public_is_in_one_region(ecr: EcrStandIn) -> None:
    get_public_token(ecr)
    assert ecr.calls == [Call("us-east-1", (), public=True)]
    elsewhere = refuse(get_public_token, ecr, "eu-west-1")
    assert elsewhere == ("InvalidSignatureException", 400)


def test_a_role_gives_temporary_keys(ecr: EcrStandIn) -> None:
    """For ECR of the role's account, with their token, until their end."""
    keys = assume(ecr, DurationSeconds=900)
    assert ecr.assumed == [Assumption(ARN, "test", "ours", 900)]
    get_token(ecr, keys)
    assert ecr.calls == [Call("us-east-1", (), READER)]
    for other in ("", "another"):
        wrong = replace(keys, session_token=other)
        assert refuse(get_token, ecr, wrong) == ("UnrecognizedClientException", 400)
    ecr.ahead = 901
    assert refuse(get_token, ecr, keys) == ("ExpiredTokenException", 400)


def test_a_role_is_for_whom_it_trusts(ecr: EcrStandIn) -> None:
    denied = ("AccessDenied", 403)
    assert refuse(assume, ecr, RoleArn=f"{ARN}s") == denied
    assert refuse(assume, ecr, ExternalId="other") == denied
    assert refuse(assume, ecr, PARTNER) == denied


@pytest.mark.parametrize(
    "asked",
    [{"DurationSeconds": 43201}, {"ExternalId": "a b"}, {"SourceIdentity": "unknown"}],
    ids=lambda asked: next(iter(asked)),
)
def test_what_sts_would_not_take(ecr: EcrStandIn, asked: dict[str, Any]) -> None:
    assert refuse(assume, ecr, **asked) == ("ValidationError", 400)
    assert ecr.assumed == []


@pytest.mark.parametrize(
    ("caller", "code"),
    [
        (replace(WORKER, access_key="AKIAUNKNOWN"), "InvalidClientTokenId"),
        (replace(WORKER, secret_key="wrong"), "SignatureDoesNotMatch"),
        (replace(WORKER, session_token="made up"), "InvalidClientTokenId"),
    ],
    ids=["key", "secret", "token"],
)
def test_who_signs_is_known(ecr: EcrStandIn, caller: Identity, code: str) -> None:
    assert refuse(assume, ecr, caller) == (code, 403)


def test_each_service_has_faults_of_its_own(ecr: EcrStandIn) -> None:
    ecr.faults["public"] = Fault(code="AccessDeniedException", message="no", times=1)
    ecr.faults["sts"] = Fault(code="Throttling", message="Rate exceeded", times=1)
    get_token(ecr)
    assert refuse(get_public_token, ecr) == ("AccessDeniedException", 400)
    get_public_token(ecr)
    assume(ecr)
    assert len(ecr.assumed) == 2


# --- the registries ---


@pytest.fixture
def ask(registry: RegistryStandIn, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks with urllib, which finds the proxy and the CA by its environment."""
    for name, value in registry.environment().items():
        monkeypatch.setenv(name, value)
    opener = urllib.request.build_opener()

    def ask(url: str, auth: str = "") -> tuple[int, str, bytes]:
        headers = {"Authorization": auth} if auth else {}
        request = urllib.request.Request(f"https://{url}", None, headers)
        try:
            answer = opener.open(request, timeout=10)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            challenge = answer.headers.get("WWW-Authenticate", "")
            return answer.status or 0, challenge, answer.read()

    return ask


def test_a_registry_lets_a_token_in(
    ask: Ask, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    challenge = f'Basic realm="https://{HOST}/",service="ecr.amazonaws.com"'
    assert ask(f"{HOST}/v2/") == (401, challenge, b"Not Authorized\n")
    assert registry.told() == set()
    basic = f"Basic {get_token(ecr)}"
    assert ask(f"{HOST}/v2/", basic)[0] == 200
    assert registry.requests[1:] == [Request(HOST, "GET", "/v2/", credentials=True)]
    assert registry.told() == {HOST}
    assert ask(f"{HOST}/v2/web_scraper/tags/list", basic)[0] == 404


def test_a_registry_refuses_other_tokens(ask: Ask, ecr: EcrStandIn) -> None:
    made_up = base64.b64encode(b"AWS:made up").decode()
    elsewhere = get_token(ecr, region="eu-west-1")
    for other in (elsewhere, get_public_token(ecr), made_up, "no base64"):
        status, challenge, body = ask(f"{HOST}/v2/", f"Basic {other}")
        assert (status, challenge) == (400, "")
        assert b"Your Authorization Token is invalid." in body
    expired = f"Basic {get_token(ecr)}"
    ecr.ahead = ecr.lifetime
    status, challenge, body = ask(f"{HOST}/v2/", expired)
    assert (status, challenge) == (403, "")
    assert b"Your authorization token has expired." in body


def test_the_public_registry_trades_a_login(ask: Ask, ecr: EcrStandIn) -> None:
    """Or nothing, for the token of nobody."""
    public, private = get_public_token(ecr), get_token(ecr)
    question = f"{PUBLIC_HOST}/token/?service={PUBLIC_HOST}&scope=aws"
    for auth in ("", f"Basic {public}"):
        status, _, body = ask(question, auth)
        assert (status, "token" in json.loads(body)) == (200, True)
    for wrong in (f"Basic {private}", f"Bearer {public}"):
        assert ask(question, wrong)[0] == 400
    ecr.ahead = ecr.lifetime
    assert ask(question, f"Basic {public}")[0] == 400


def test_the_proxy_knows_its_hosts(ask: Ask, registry: RegistryStandIn) -> None:
    for host in ("example.com", f"a.{HOST}", f"{HOST}:5000"):
        with pytest.raises(urllib.error.URLError, match="502"):
            ask(f"{host}/v2/", "Basic never-sent")
    assert [request.method for request in registry.requests] == ["CONNECT"] * 3
    assert registry.told() == set()


def test_troubles_of_a_registry(
    ask: Ask, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    """urllib follows a redirect with credentials, to any host: ours must not."""
    basic = f"Basic {get_token(ecr)}"
    registry.troubles[HOST] = Trouble(wrong_name=True, times=1)
    with pytest.raises(urllib.error.URLError, match="Hostname mismatch"):
        ask(f"{HOST}/v2/", basic)
    assert registry.requests == []
    registry.troubles[HOST] = Trouble(status=503, times=1)
    assert [ask(f"{HOST}/v2/", basic)[0] for _ in range(2)] == [503, 200]
    registry.troubles[HOST] = Trouble(drop=True)
    with pytest.raises(ConnectionError):
        ask(f"{HOST}/v2/", basic)
    other = HOST.replace(ACCOUNT, READER)
    registry.troubles[HOST] = Trouble(status=302, location=f"https://{other}/v2/")
    assert ask(f"{HOST}/v2/", basic)[0] == 200
    assert registry.told() == {HOST, other}
