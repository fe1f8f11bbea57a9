"""--check: would DockerOperator succeed now, with what Airflow holds?"""

from __future__ import annotations

import base64
import json
import logging
import re
from datetime import datetime, timezone
from functools import partial
from typing import Any, Collection, Mapping, Sequence

from .errors import (
    CHECK_NETWORK,
    TRY_AGAIN,
    ConnectionMissing,
    Held,
    StepFailed,
    UsageError,
    add_clause,
)
from .masking import mask
from .model import (
    PUBLIC,
    PUBLIC_HOST,
    SUFFIXES,
    UTC_FORMAT,
    HeldConnection,
    Result,
    Status,
    Target,
    fill,
    name_variable,
)
from .side_by_side import run_side_by_side

log = logging.getLogger("ecr_airflow_sync")

PATIENCE = 180.0  # seconds for all registries to answer
ANSWER_WITHIN = 10.0  # seconds for one to say something
CHECK_CA = (
    "check SSL_CERT_FILE, a CA bundle that must know this network's proxy, and this "
    "host's clock"
)
REFUSALS = (400, 401, 403)  # as ECR answers a wrong or expired token


def validate_for_check(targets: Sequence[Target]) -> None:
    """A check asks no AWS, so it must know the connections' ids. Raises UsageError."""
    if any("{" in target.conn_id for target in targets):
        raise UsageError(
            "--check never asks AWS: give the conn id's regions and registries"
        )


def check_connections(
    targets: Sequence[Target], held: Mapping[str, Held], variables: Collection[str]
) -> list[Result]:
    """What is wrong with each connection, if anything is.

    ``held`` is what Airflow found, by connection id. ``variables`` are those of its
    environment that stand for connections.
    """
    log.info("Logging in with %d connection(s) ...", len(targets))
    answers = run_side_by_side(partial(_check, held, variables), targets, PATIENCE)
    results = []
    for target in targets:
        silence = f"its registry gave no whole answer; {CHECK_NETWORK}"
        results.append(answers.get(target) or _tell(target, "unreachable", silence))
    return results


def _check(
    held: Mapping[str, Held], variables: Collection[str], target: Target
) -> Result:
    connection = held[target.conn_id]
    if isinstance(connection, ConnectionMissing):
        return _tell(target, "missing", str(connection))
    if isinstance(connection, StepFailed):
        return _tell(target, "failed", str(connection))
    if not connection.in_database:
        return _tell(target, "shadowed", _name_shadow(target, variables), connection)
    wrong = _find_wrong_host(target, connection)
    if wrong:
        return _tell(target, "wrong host", wrong, connection)
    return _log_in(target, connection)


def _tell(
    target: Target,
    status: Status,
    error: str | None,
    connection: HeldConnection | None = None,
    expires_at: datetime | None = None,
) -> Result:
    return Result(
        conn_id=target.conn_id,
        status=status,
        registry=target.registry,
        region=target.region,
        host=connection.host if connection else target.host,
        error=error,
        expires_at=expires_at,
    )


def _name_shadow(target: Target, variables: Collection[str]) -> str:
    variable = name_variable(target.conn_id)
    never_read = "answers instead of the database, so what is synced is never read"
    if variable in variables:
        return f"{variable} {never_read}; unset it where the tasks run"
    return f"a secrets backend {never_read}; remove the connection there"


def _find_wrong_host(target: Target, connection: HeldConnection) -> str:
    """Why images are not at the connection's host, or "". No token is sent there."""
    template = target.host or "{registry}.dkr.ecr.{region}.*"
    wanted = fill(template, target.registry, target.region)
    pattern = re.escape(wanted).replace(
        r"\*", f"({'|'.join(map(re.escape, SUFFIXES))})"
    )
    pattern = re.sub(r"\\\{\w+\\\}", r"[\\w-]+", pattern)  # what was not filled in
    if re.fullmatch(pattern, connection.host) and not connection.port:
        return ""
    shown = connection.host or "empty"
    if connection.port:
        shown += f":{connection.port}"
    return (
        f"its host is {shown}, and not {_describe_host(target)}; run without --check "
        "to write it, or check --conn-id, --region, --registry and --host"
    )


def _describe_host(target: Target) -> str:
    """In words, without what is not known."""
    if target.host:
        host = fill(target.host, target.registry, target.region)
        if "{" not in host:
            return host
        return f"one such as {fill(host, '123456789012', 'us-east-1')}"
    whose = f"registry {target.registry}" if target.registry else "an ECR registry"
    where = f" in {target.region}" if target.region else ""
    return f"the bare host of {whose}{where}"


def _log_in(target: Target, connection: HeldConnection) -> Result:
    """Log in as Docker does."""
    from http.client import HTTPException  # slow to import, and rarely needed

    host = connection.host
    try:
        status, reason = _ask_registry(target, connection)
    except (OSError, HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(cause)
        advice = CHECK_CA if untrusted else CHECK_NETWORK
        why = mask(add_clause(f"{host} cannot be reached: {cause}", advice))
        return _tell(target, "unreachable", why, connection)
    expires_at = _read_expiration(connection.password)
    if status == 200:
        return _tell(target, "fine", None, connection, expires_at)
    why = f"{host} answered {status} {reason}".rstrip(" .")
    if expires_at:
        why += f"; its token is valid until {expires_at.strftime(UTC_FORMAT)}"
    if status in REFUSALS:
        why += "; sync again, and see whether the timer runs"
        return _tell(target, "refused", why, connection, expires_at)
    return _tell(target, "unreachable", f"{why}; {TRY_AGAIN}", connection, expires_at)


def _ask_registry(target: Target, connection: HeldConnection) -> tuple[int, str]:
    """Status and reason. No redirect is followed, for it would get the token."""
    from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request

    opener = OpenerDirector()
    opener.add_handler(ProxyHandler())
    opener.add_handler(HTTPSHandler())
    # ECR Public takes no password at /v2/, only at the address where Docker trades it.
    public = target.registry == PUBLIC
    path = f"token/?service={PUBLIC_HOST}" if public else "v2/"
    login = base64.b64encode(f"{connection.login}:{connection.password}".encode())
    request = Request(
        f"https://{connection.host}/{path}",
        headers={"Authorization": f"Basic {login.decode()}"},
    )
    answer: Any = opener.open(request, timeout=ANSWER_WITHIN)
    return answer.status, answer.reason


def _read_expiration(password: str) -> datetime | None:
    """Until when the token lives, if it is one: ECR's are base64 of JSON."""
    try:
        expiration = json.loads(base64.b64decode(password))["expiration"]
        return datetime.fromtimestamp(expiration, timezone.utc)
    except Exception:  # noqa: BLE001 - any password may stand there
        return None
