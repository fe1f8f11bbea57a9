"""What ECR grants: which calls are made, and each answer as tokens or as one line."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from _ecr_airflow_sync import tokens
from _ecr_airflow_sync.errors import ConnectionMissing, StepFailed
from _ecr_airflow_sync.model import HeldConnection, Target, Token
from _ecr_airflow_sync.tokens import Granted, fetch_tokens
from tests.support.ecr_stand_in import ACCOUNT, BUILDER, Call, EcrStandIn, Fault

A, B = "111111111111", "222222222222"
US = "us-east-1"
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
MINE = Target(region=US)
LATER = "the next run tries again"
BUILDERS = HeldConnection(
    "builder", True, "", "", BUILDER.access_key, BUILDER.secret_key, {}
)


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def fetch(target: Target) -> Granted:
    return fetch_tokens([target], {})[target]


def test_a_token(aws: EcrStandIn) -> None:
    end = 1_900_000_000
    aws.faults[US] = Fault(change={"expiresAt": end})
    target = Target("e_{registry}", US)
    assert fetch(target) == Token(
        target=target,
        registry=ACCOUNT,
        region=US,
        registry_host=HOST,
        login="AWS",
        password=aws.tokens[US, ACCOUNT][0],
        expires_at=datetime.fromtimestamp(end, timezone.utc),
    )


def test_targets_that_can_share_a_call_do(aws: EcrStandIn) -> None:
    named = [Target(f"e{number}", US, f"{number:012}") for number in range(11)]
    again = Target("again", US, named[0].registry, host="mirror.example.com")
    elsewhere = Target("elsewhere", "eu-west-1", A)
    own = [Target("own", US), Target("own too", US, extra="{}")]
    public = Target("public", US, "public")
    builder = Target("builder", US, A, aws_conn_id="builder")
    targets = [again, *named, elsewhere, *own, public, builder]
    granted = fetch_tokens(targets, {"builder": BUILDERS})
    assert set(granted) == set(targets)
    calls = sorted(aws.calls, key=str)
    assert calls == sorted(
        [
            Call(US, tuple(f"{number:012}" for number in range(9))),
            Call(US, (f"{9:012}", f"{10:012}")),
            Call("eu-west-1", (A,)),
            Call(US, ()),
            Call(US, (), public=True),
            Call(US, (A,), BUILDER.account),
        ],
        key=str,
    )
    for target, token in granted.items():
        assert isinstance(token, Token)
        assert token.target is target
        registry = target.registry or ACCOUNT
        assert token.registry == registry
        assert token.password in aws.tokens[token.region, registry]


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


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        (f"https://{HOST}", HOST),
        (f"http://{HOST}:5000/", HOST),
        (HOST, HOST),
        (f"{ACCOUNT}.localhost", f"{ACCOUNT}.localhost"),
    ],
)
def test_the_host_of_an_endpoint(aws: EcrStandIn, endpoint: str, host: str) -> None:
    aws.faults[US] = Fault(change={"proxyEndpoint": endpoint})
    token = fetch(Target(region=US, registry=ACCOUNT))
    assert isinstance(token, Token)
    assert (token.host, token.registry) == (host, ACCOUNT)


FAULTS = {
    "no token": (
        {"authorizationToken": None},
        f"ECR's answer for {HOST} has no authorizationToken; {LATER}",
    ),
    "no end": (
        {"expiresAt": None},
        f"ECR's answer for {HOST} has no expiresAt; {LATER}",
    ),
    "no endpoint": (
        {"proxyEndpoint": None},
        f"ECR's answer for a registry has no proxyEndpoint; {LATER}",
    ),
    "an endpoint with a path": (
        {"proxyEndpoint": f"https://{HOST}/v2/"},
        f"ECR's answer for a registry has no proxyEndpoint; {LATER}",
    ),
    "not base64": (
        {"authorizationToken": "!not base64!"},
        f"ECR's token for {HOST} is not base64 of plain text; {LATER}",
    ),
    "not text": (
        {"authorizationToken": encoded(b"AWS:\xff\xfe")},
        f"ECR's token for {HOST} is not base64 of plain text; {LATER}",
    ),
    "no colon": (
        {"authorizationToken": encoded(b"nocolon")},
        f"ECR's token for {HOST} is not login, colon, password; {LATER}",
    ),
    "no password": (
        {"authorizationToken": encoded(b"AWS:")},
        f"ECR's token for {HOST} is not login, colon, password; {LATER}",
    ),
    "no login": (
        {"authorizationToken": encoded(b":password")},
        f"ECR's token for {HOST} is not login, colon, password; {LATER}",
    ),
}


@pytest.mark.parametrize(("change", "error"), FAULTS.values(), ids=FAULTS)
def test_an_entry_with_a_fault(
    aws: EcrStandIn, change: dict[str, Any], error: str
) -> None:
    aws.faults[US] = Fault(change=change)
    failure = fetch(MINE)
    assert isinstance(failure, StepFailed)
    assert str(failure) == error


def test_a_password_may_have_colons(aws: EcrStandIn) -> None:
    aws.faults[US] = Fault(change={"authorizationToken": encoded(b"AWS:pass:word==")})
    token = fetch(MINE)
    assert isinstance(token, Token)
    assert (token.login, token.password) == ("AWS", "pass:word==")


def test_a_registry_that_is_left_out(aws: EcrStandIn) -> None:
    aws.faults[US] = Fault(without=(A,))
    granted = fetch_tokens([Target("a", US, A), Target("b", US, B)], {})
    failure, token = granted.values()
    assert str(failure) == (
        f"ECR in us-east-1 gave no token for registry {A}; check the id, and that "
        "this identity may read it"
    )
    assert isinstance(token, Token)


@pytest.mark.parametrize("registry", [None, "public"])
@pytest.mark.parametrize(
    "body", [b"{}", b'{"authorizationData": null}', b""], ids=["{}", "null", "empty"]
)
def test_an_answer_without_data(
    aws: EcrStandIn, registry: str | None, body: bytes
) -> None:
    place = "public" if registry else US
    aws.faults[place] = Fault(status=200, body=body)
    failure = fetch(Target(region=US, registry=registry))
    assert str(failure) in (
        "ECR in us-east-1 gave no token for the caller's own registry; that is no "
        "answer of ECR's; check AWS_ENDPOINT_URL, and the proxy",
        f"ECR's answer for public.ecr.aws has no authorizationToken; {LATER}",
    )


ANSWERS = {
    "throttled": Fault(code="ThrottlingException", message="no"),
    "503": Fault(status=503, body=b""),
    "500": Fault(status=500, code="ServerException", message="no"),
    "dropped": Fault(drop=True),
}


@pytest.mark.parametrize("times", [4, 5])
@pytest.mark.parametrize("fault", ANSWERS, ids=ANSWERS)
def test_five_attempts(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch, fault: str, times: int
) -> None:
    """Without botocore's pauses, which take up to fifteen seconds."""
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda *_: 0)
    aws.faults[US] = ANSWERS[fault]
    aws.faults[US].times = times
    answer = fetch(MINE)
    assert len(aws.calls) == 5
    assert isinstance(answer, Token) == (times == 4)


def test_what_is_refused_is_not_asked_again(aws: EcrStandIn) -> None:
    aws.faults[US] = Fault(code="AccessDeniedException", message="no")
    targets = [Target("a", US, A), Target("b", US, B), Target("c", "eu-west-1", A)]
    granted = fetch_tokens(targets, {})
    told = "ECR in us-east-1: AccessDeniedException: no; allow this identity "
    told += "ecr:GetAuthorizationToken on resource *"
    assert [str(granted[target]) for target in targets[:2]] == [told, told]
    assert isinstance(granted[targets[2]], Token)
    assert len(aws.calls) == 2


def test_no_credentials_of_somebody_else(aws: EcrStandIn) -> None:
    target = Target(region=US, aws_conn_id="gone")
    credentials = {"gone": ConnectionMissing("Connection not found")}
    failure = fetch_tokens([target], credentials)[target]
    assert str(failure) == (
        "aws_conn_id gone: Airflow has no such connection; check the id, or create it, "
        "with AWS credentials"
    )
    assert aws.calls == []


def test_no_region(aws: EcrStandIn) -> None:
    assert str(fetch(Target())).startswith("ECR: You must specify a region; give")


def test_an_answer_that_does_not_come(
    aws: EcrStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PATIENCE", 0.2)
    aws.faults[US] = Fault(delay=2)
    assert str(fetch(MINE)) == f"ECR gave no whole answer; {LATER}"


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
    monkeypatch.setattr(tokens, "PATIENCE", 2)
    failure = fetch(Target(region=US, profile="role"))
    assert str(failure) == (
        "no AWS credentials came: the credential_process of the profile slow gave none "
        "in 2 s; run it by hand, as this user"
    )
    deadline = time.monotonic() + 10
    for pid in map(int, pids.read_text().split()):
        while is_alive(pid):
            assert time.monotonic() < deadline, "a program outlives the run"
            time.sleep(0.02)


def is_alive(pid: int) -> bool:
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return listed.stdout.strip()[:1] not in ("", "Z")


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just("AWS:x")
)
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just("expiresAt"), inner, max_size=3)
    ),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "authorizationToken": documents | st.binary().map(encoded),
        "proxyEndpoint": documents | st.just(f"https://{A}.dkr.ecr.x.amazonaws.com"),
        "expiresAt": documents | st.integers(0, 2**40),
    },
)
answers = documents | st.fixed_dictionaries(
    {"authorizationData": documents | st.lists(entries | documents, max_size=3)}
)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    answers.map(lambda answer: json.dumps(answer).encode()) | st.binary(),
    st.sampled_from([None, A]),
)
@example(b"[]", None)
@example(b"null", A)
@example(b'{"authorizationData": [{"proxyEndpoint": 5}]}', None)
@example(b'{"authorizationData": [{"proxyEndpoint": "https://["}]}', None)
def test_whatever_ecr_answers(
    aws: EcrStandIn, body: bytes, registry: str | None
) -> None:
    aws.faults[US] = Fault(status=200, body=body, times=1)
    got = fetch(Target(region=US, registry=registry))
    if isinstance(got, StepFailed):
        assert "\n" not in str(got)
    else:
        assert got.login
        assert got.password
        assert got.host
