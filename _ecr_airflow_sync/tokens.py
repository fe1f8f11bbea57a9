"""Targets -> tokens: what ECR grants, asked for all of them side by side."""

from __future__ import annotations

import base64
import logging
import re
from dataclasses import dataclass, replace
from datetime import timezone
from functools import partial
from typing import Any, Iterable, Mapping, Sequence, Tuple, Union

from .aws_errors import NOT_ECR, explain_aws_error
from .errors import TRY_AGAIN, ConnectionMissing, Held, StepFailed
from .identities import create_client, find_credential_process
from .model import PUBLIC, PUBLIC_HOST, HeldConnection, Target, Token
from .side_by_side import run_side_by_side

PATIENCE = 180.0  # seconds for ECR to answer; botocore's five attempts take some 90
REGISTRIES_A_CALL = 10  # GetAuthorizationToken, registryIds: at most ten

log = logging.getLogger("ecr_airflow_sync")

Call = Tuple[Target, ...]  # of one identity, region and kind of registry
Granted = Union[Token, StepFailed]
Credentials = Mapping[str, Held]


def fetch_tokens(
    targets: Sequence[Target], credentials: Credentials
) -> dict[Target, Granted]:
    """A token for each target, or why ECR gave none.

    One call for each identity and region, and for ten registries that are named.
    ``credentials`` has the connections that aws_conn_ids name.
    """
    log.info("Asking ECR for %d token(s) ...", len(targets))
    calls = _plan_calls(targets)
    with_credentials: set[Call] = set()
    ask = partial(_ask, credentials, with_credentials)
    answers = run_side_by_side(ask, calls, PATIENCE)
    granted: dict[Target, Granted] = {}
    for call in calls:
        if call in answers:
            granted.update(answers[call])
        else:
            reached_ecr = call in with_credentials
            silence = _explain_silence(call[0], credentials, reached_ecr)
            granted.update(dict.fromkeys(call, silence))
    return granted


def _plan_calls(targets: Iterable[Target]) -> list[Call]:
    alike: dict[Target, list[Target]] = {}
    for target in targets:
        named = target.registry not in (None, PUBLIC)
        # All but what makes no difference to the call: so a new field of the identity
        # cannot be forgotten here.
        key = replace(
            target,
            conn_id="",
            host=None,
            extra=None,
            registry="named" if named else target.registry,
        )
        alike.setdefault(key, []).append(target)
    calls: list[Call] = []
    for group in alike.values():
        starts = range(0, len(group), REGISTRIES_A_CALL)
        calls += [tuple(group[start : start + REGISTRIES_A_CALL]) for start in starts]
    return calls


def _ask(
    credentials: Credentials, with_credentials: set[Call], call: Call
) -> dict[Target, Granted]:
    """What one call to ECR grants. Nothing is raised: it runs in a thread.

    The call is added to ``with_credentials`` as soon as it has some.
    """
    region = call[0].region
    try:
        client = _create_client(call[0], credentials)
        with_credentials.add(call)
        region = client.meta.region_name
        entries = _get_authorization_data(client, call)
        return {target: _pick(target, region, entries) for target in call}
    except StepFailed as failure:
        return dict.fromkeys(call, failure)
    except Exception as error:  # noqa: BLE001 - what is not ECR may answer anything
        explained = StepFailed(explain_aws_error(error, region))
        return dict.fromkeys(call, explained)


def _create_client(target: Target, credentials: Credentials) -> Any:
    held = credentials.get(target.aws_conn_id or "")
    if isinstance(held, ConnectionMissing):
        raise StepFailed(
            f"aws_conn_id {target.aws_conn_id}: Airflow has no such connection; "
            "check the id, or create it, with AWS credentials"
        )
    if isinstance(held, StepFailed):
        raise StepFailed(f"aws_conn_id {target.aws_conn_id}: {held}")
    service = "ecr-public" if target.registry == PUBLIC else "ecr"
    return create_client(target, held, service)


def _explain_silence(
    target: Target, credentials: Credentials, reached_ecr: bool
) -> StepFailed:
    if reached_ecr:
        return StepFailed(f"ECR gave no whole answer; {TRY_AGAIN}")
    held = credentials.get(target.aws_conn_id or "")
    known = held if isinstance(held, HeldConnection) else None
    profile = find_credential_process(target, known)
    if profile:
        return StepFailed(
            f"no AWS credentials came: the credential_process of the profile {profile} "
            f"gave none in {PATIENCE:g} s; run it by hand, as this user"
        )
    return StepFailed(
        f"no AWS credentials came in {PATIENCE:g} s; "
        "check the profile, the role, and this host's network"
    )


def _get_authorization_data(client: Any, call: Call) -> list[Mapping[str, Any]]:
    """GetAuthorizationToken's entries. ECR Public has one, without an endpoint."""
    registries = list(dict.fromkeys(target.registry for target in call))
    if registries == [PUBLIC]:
        answer = client.get_authorization_token()
        entry = answer.get("authorizationData") or {}
        return [{**entry, "proxyEndpoint": PUBLIC_HOST}]
    if registries == [None]:
        answer = client.get_authorization_token()
    else:
        answer = client.get_authorization_token(registryIds=registries)
    return answer.get("authorizationData") or []


@dataclass(frozen=True)
class _Endpoint:
    """A proxyEndpoint, without scheme and port. Its first label is the registry."""

    host: str
    registry: str


def _parse_endpoint(text: str) -> _Endpoint:
    """Both are "" where it is none."""
    found = re.fullmatch(r"(?:https?://)?(([\w-]+)[\w.-]*)(?::\d+)?/?", text)
    if not found:
        return _Endpoint("", "")
    return _Endpoint(host=found[1], registry=found[2])


def _pick(target: Target, region: str, entries: Iterable[Mapping[str, Any]]) -> Granted:
    """The target's token out of ECR's answer, or why there is none."""
    for entry in entries:
        endpoint = _parse_endpoint(entry.get("proxyEndpoint") or "")
        if target.registry in (None, endpoint.registry):
            return _read_entry(target, region, endpoint, entry)
    return StepFailed(f"ECR in {region} gave no token for {_name_registry(target)}")


def _read_entry(
    target: Target, region: str, endpoint: _Endpoint, entry: Mapping[str, Any]
) -> Granted:
    """What is wrong with the entry is told, but never what it holds."""
    needed = {
        "proxyEndpoint": endpoint.host,
        "authorizationToken": entry.get("authorizationToken"),
        "expiresAt": entry.get("expiresAt"),
    }
    whose = endpoint.host or "a registry"
    for key, value in needed.items():
        if not value:
            return StepFailed(f"ECR's answer for {whose} has no {key}; {TRY_AGAIN}")
    try:
        login, password = _decode(entry["authorizationToken"])
    except ValueError as error:
        return StepFailed(f"ECR's token for {whose} is not {error}; {TRY_AGAIN}")
    return Token(
        target=target,
        registry=endpoint.registry,
        region=region,
        registry_host=endpoint.host,
        login=login,
        password=password,
        expires_at=entry["expiresAt"].astimezone(timezone.utc),
    )


def _name_registry(target: Target) -> str:
    if not target.registry:
        return f"the caller's own registry; {NOT_ECR}"
    advice = "check the id, and that this identity may read it"
    return f"registry {target.registry}; {advice}"


def _decode(authorization_token: str) -> tuple[str, str]:
    """Login and password. Raises ValueError, which says what the token should be."""
    try:
        decoded = base64.b64decode(authorization_token, validate=True).decode("ascii")
    except ValueError:
        raise ValueError("base64 of plain text") from None
    login, _, password = decoded.partition(":")
    if not login or not password:
        raise ValueError("login, colon, password")
    return login, password
