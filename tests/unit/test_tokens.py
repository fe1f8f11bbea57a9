"""What ECR grants: which calls are made, and each answer as tokens or as one line."""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from _ecr_airflow_sync import tokens
from _ecr_airflow_sync.errors import ConnectionMissing, StepFailed
from _ecr_airflow_sync.model import HeldConnection, Target, Token
from _ecr_airflow_sync.tokens import Granted, fetch_tokens
from tests.support.command import HOST
from tests.support.ecr_stand_in import ACCOUNT, BUILDER, Call, EcrStandIn, Fault

from .conftest import NOT_ECR, TRY_AGAIN, A, B, read_pids, wait_for_end

US = "us-east-1"
MINE = Target(region=US)
BUILDERS = HeldConnection(
    "builder", True, "", "", BUILDER.access_key, BUILDER.secret_key, {}
)


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def fetch(target: Target) -> Granted:
    return fetch_tokens([target], {})[target]


def test_a_token(aws: EcrStandIn) -> None:
    """Its password may have colons."""
    end = 1_900_000_000
    token = encoded(b"AWS:pass:word==")
    aws.faults[US] = Fault(change={"expiresAt": end, "authorizationToken": token})
    target = Target("e_{registry}", US)
    granted = fetch(target)
    assert granted == Token(
        target=target,
        registry=ACCOUNT,
        region=US,
        registry_host=HOST,
        login="AWS",
        password="pass:word==",
        expires_at=datetime.fromtimestamp(end, timezone.utc),
    )
    assert isinstance(granted, Token)
    assert granted.expires_at.tzinfo is timezone.utc


def test_targets_that_can_share_a_call_do(aws: EcrStandIn) -> None:
    ids = [f"{number:012}" for number in range(11)]
    named = [Target(f"e{registry}", US, registry) for registry in ids]
    again = Target("again", US, ids[0], host="mirror.example.com")
    elsewhere = Target("elsewhere", "eu-west-1", A)
    own = [Target("own", US), Target("own too", US, extra="{}")]
    public = Target("public", US, "public")
    builder = Target("builder", US, A, aws_conn_id="builder")
    targets = [again, *named, elsewhere, *own, public, builder]
    granted = fetch_tokens(targets, {"builder": BUILDERS})
    assert len(aws.calls) == 6
    assert set(aws.calls) == {
        Call(US, tuple(ids[:9])),
        Call(US, tuple(ids[9:])),
        Call("eu-west-1", (A,)),
        Call(US, ()),
        Call(US, (), public=True),
        Call(US, (A,), BUILDER.account),
    }
    assert set(granted) == set(targets)
    for target, token in granted.items():
        assert isinstance(token, Token)
        assert token.target is target
        registry = target.registry or ACCOUNT
        assert token.registry == registry
        is_granted = token.password in aws.tokens[token.region, registry]
        assert is_granted


def test_calls_go_side_by_side(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ECR answers none of them before it has all four."""
    all_here = threading.Barrier(4, timeout=30)
    monkeypatch.setattr(time, "sleep", lambda _: all_here.wait())
    regions = ["us-east-1", "us-east-2", "eu-west-1", "eu-west-2"]
    for region in regions:
        aws.faults[region] = Fault(delay=1)
    granted = fetch_tokens([Target(region=region) for region in regions], {})
    assert all(isinstance(token, Token) for token in granted.values())


def test_the_host_of_an_endpoint(aws: EcrStandIn) -> None:
    local = f"{ACCOUNT}.localhost"
    endpoints = {f"http://{HOST}:5000/": HOST, HOST: HOST, local: local}
    for endpoint, host in endpoints.items():
        aws.faults[US] = Fault(change={"proxyEndpoint": endpoint})
        token = fetch(Target(region=US, registry=ACCOUNT))
        assert isinstance(token, Token)
        assert (token.host, token.registry) == (host, ACCOUNT)


NO_TEXT = f"ECR's token for {HOST} is not base64 of plain text"
NO_LOGIN = f"ECR's token for {HOST} is not login, colon, password"
NO_ENDPOINT = "ECR's answer for a registry has no proxyEndpoint"
FAULTS = [
    ("authorizationToken", None, f"ECR's answer for {HOST} has no authorizationToken"),
    ("expiresAt", None, f"ECR's answer for {HOST} has no expiresAt"),
    ("proxyEndpoint", None, NO_ENDPOINT),
    ("proxyEndpoint", f"https://{HOST}/v2/", NO_ENDPOINT),
    ("authorizationToken", f"!{encoded(b'AWS:password')}", NO_TEXT),
    ("authorizationToken", encoded(b"AWS:\xff\xfe"), NO_TEXT),
    ("authorizationToken", encoded(b"AWS:"), NO_LOGIN),
    ("authorizationToken", encoded(b":password"), NO_LOGIN),
]


@pytest.mark.parametrize(("key", "value", "error"), FAULTS)
def test_an_entry_with_a_fault(
    aws: EcrStandIn, key: str, value: str | None, error: str
) -> None:
    aws.faults[US] = Fault(change={key: value})
    failure = fetch(MINE)
    assert isinstance(failure, StepFailed)
    assert str(failure) == f"{error}; {TRY_AGAIN}"


def test_a_registry_that_is_left_out(aws: EcrStandIn) -> None:
    aws.faults[US] = Fault(change={"proxyEndpoint": HOST.replace(ACCOUNT, B)})
    granted = fetch_tokens([Target("a", US, A), Target("b", US, B)], {})
    failure, token = granted.values()
    assert str(failure) == (
        f"ECR in us-east-1 gave no token for registry {A}; check the id, and that "
        "this identity may read it"
    )
    assert isinstance(token, Token)


def test_an_answer_without_data(aws: EcrStandIn) -> None:
    aws.faults[US] = aws.faults["public"] = Fault(status=200, body=b"{}")
    own = f"ECR in {US} gave no token for the caller's own registry; {NOT_ECR}"
    assert str(fetch(MINE)) == own
    public = "ECR's answer for public.ecr.aws has no authorizationToken"
    assert str(fetch(Target(region=US, registry="public"))) == f"{public}; {TRY_AGAIN}"


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"authorizationData": [{"proxyEndpoint": 5}]}', b"\xff"],
    ids=str,
)
def test_what_is_no_answer_of_ecr(aws: EcrStandIn, body: bytes) -> None:
    aws.faults[US] = Fault(status=200, body=body)
    told = str(fetch(MINE))
    assert told.startswith(f"ECR in {US}: ")
    assert told.endswith(f"; {NOT_ECR}")
    assert "\n" not in told


ANSWERS = {
    "throttled": Fault(code="ThrottlingException", message="no"),
    "503": Fault(status=503, body=b""),
    "500": Fault(status=500, code="ServerException", message="no"),
    "dropped": Fault(drop=True),
}


@pytest.mark.parametrize("fault", ANSWERS.values(), ids=ANSWERS)
def test_five_attempts(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Without botocore's pauses, which take up to fifteen seconds."""
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda *_: 0)
    aws.faults[US] = replace(fault, times=4)
    assert isinstance(fetch(MINE), Token)
    assert len(aws.calls) == 5


def test_what_is_refused_is_not_asked_again(aws: EcrStandIn) -> None:
    aws.faults[US] = Fault(code="AccessDeniedException", message="no")
    targets = [Target("a", US, A), Target("b", US, B), Target("c", "eu-west-1", A)]
    granted = fetch_tokens(targets, {})
    first, second, elsewhere = granted.values()
    assert str(first) == str(second)
    assert str(first).startswith("ECR in us-east-1: AccessDeniedException: no; allow")
    assert isinstance(elsewhere, Token)
    assert len(aws.calls) == 2


def test_no_credentials_of_somebody_else(aws: EcrStandIn) -> None:
    missing = "Airflow has no such connection; check the id, or create it, with AWS"
    reasons = {
        ConnectionMissing("Connection not found"): f"{missing} credentials",
        StepFailed("no database"): "no database",
    }
    target = Target(region=US, aws_conn_id="gone")
    for held, why in reasons.items():
        failure = fetch_tokens([target], {"gone": held})[target]
        assert str(failure) == f"aws_conn_id gone: {why}"
    assert aws.calls == []


def test_an_answer_that_does_not_come(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.faults[US] = Fault(delay=10)
    told = ""
    for patience in (0.2, 1, 5):  # a slow host takes so long to ask
        monkeypatch.setattr(tokens, "PATIENCE", patience)
        told = str(fetch(MINE))
        if "no AWS credentials came" not in told:
            break
    assert told == f"ECR gave no whole answer; {TRY_AGAIN}"


def test_credentials_that_do_not_come(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PATIENCE", 0.2)
    aws.faults["sts"] = Fault(delay=2)
    role = "arn:aws:iam::111111111111:role/pull"
    assert str(fetch(Target(region=US, role_arn=role))) == (
        "no AWS credentials came in 0.2 s; check the profile, the role, and this host's "
        "network"
    )


def test_a_program_that_gives_no_credentials(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is ended, with what it has started; the profile that has it is named."""
    pids = tmp_path / "pids"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nsleep 60 &\necho $$ $! >{pids}\nwait\n")
    program.chmod(0o755)
    (tmp_path / "config").write_text(
        f"[profile slow]\ncredential_process = {program}\n"
        "[profile role]\nrole_arn = arn:aws:iam::111111111111:role/pull\n"
        "source_profile = slow\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    target = Target(region=US, aws_conn_id="aws")
    held = HeldConnection("aws", True, "", "", "", "", {"profile_name": "role"})
    for patience in (0.4, 2, 10):  # a slow host takes so long to start it
        monkeypatch.setattr(tokens, "PATIENCE", patience)
        assert str(fetch_tokens([target], {"aws": held})[target]) == (
            "no AWS credentials came: the credential_process of the profile slow gave "
            f"none in {patience:g} s; run it by hand, as this user"
        )
        if pids.exists() and pids.read_text().endswith("\n"):
            break
    wait_for_end(read_pids(pids))
