"""The identity that asks ECR: a profile, a role, an Airflow connection's keys."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Mapping

from .errors import StepFailed
from .model import HeldConnection, Target

SESSION_NAME = "ecr-airflow-sync"
# What is read from a connection's extra as text.
TEXTS = (
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "endpoint_url",
    "external_id",
    "profile_name",
    "region_name",
    "role_arn",
)


@dataclass(frozen=True)
class _Identity:
    """Who asks, by the target's options and the Airflow connection that it names."""

    region: str | None
    profile: str | None
    access_key_id: str | None
    secret_access_key: str | None = field(repr=False)
    session_token: str | None = field(repr=False)
    role_arn: str | None
    role_arguments: Mapping[str, Any]
    endpoint_url: str | None


def create_client(target: Target, held: HeldConnection | None, service: str) -> Any:
    """A boto3 client of the target's identity, with a session of its own.

    ``held`` is the connection that aws_conn_id names. The client has its credentials,
    if there are any. Sessions are not thread-safe, so no two threads share one. Raises
    StepFailed, and what boto3 raises.
    """
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=5,
        read_timeout=10,
    )
    identity = _identify(target, held)
    session = _open_session(identity)
    if identity.role_arn:
        session = _assume_role(session, identity, config)
    _load_credentials(session)
    # The endpoint is for the service alone: STS has its own.
    return session.client(service, config=config, endpoint_url=identity.endpoint_url)


def _identify(target: Target, held: HeldConnection | None) -> _Identity:
    """Read as Airflow's own AwsConnectionWrapper does: provider amazon, utils."""
    extra = _get_extra(target, held)
    login = held.login if held else ""
    password = held.password if held else ""
    _refuse_other_sessions(target, extra)
    # boto3 does not read AWS_REGION, which AWS's other tools do.
    fallback_region = extra.get("region_name") or os.environ.get("AWS_REGION")
    return _Identity(
        region=target.region or fallback_region or None,
        profile=target.profile or extra.get("profile_name"),
        access_key_id=login or extra.get("aws_access_key_id"),
        secret_access_key=password or extra.get("aws_secret_access_key"),
        session_token=extra.get("aws_session_token"),
        role_arn=target.role_arn or extra.get("role_arn"),
        role_arguments=_list_role_arguments(target, extra),
        endpoint_url=extra.get("endpoint_url"),
    )


def _get_extra(target: Target, held: HeldConnection | None) -> Mapping[str, Any]:
    extra = held.extra if held else {}
    if not isinstance(extra, dict):  # Airflow 2 stores any JSON
        raise StepFailed(
            f"aws_conn_id {target.aws_conn_id}: its extra is no JSON object; "
            'give one, such as {"region_name": "us-east-1"}, or none'
        )
    for name in TEXTS:
        if not isinstance(extra.get(name) or "", str):
            why = f"{name} in its extra is no text; put it in quotes"
            raise StepFailed(f"aws_conn_id {target.aws_conn_id}: {why}")
    return extra


def _refuse_other_sessions(target: Target, extra: Mapping[str, Any]) -> None:
    """Rather than ask as somebody whom the connection does not mean."""
    known = (
        extra.get("assume_role_method", "assume_role") == "assume_role"
        and isinstance(extra.get("assume_role_kwargs") or {}, dict)
        and "session_kwargs" not in extra
        and "aws_iam_role" not in extra
    )
    if not known:
        raise StepFailed(
            f"aws_conn_id {target.aws_conn_id}: "
            "its extra has a role or session of another kind; use keys"
        )


def _list_role_arguments(target: Target, extra: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"RoleSessionName": SESSION_NAME}
    arguments.update(extra.get("assume_role_kwargs") or {})
    external_id = target.external_id or extra.get("external_id")
    if external_id:
        arguments["ExternalId"] = external_id
    if "DurationSeconds" in arguments:
        seconds = _read_duration(target, arguments["DurationSeconds"])
        arguments["DurationSeconds"] = seconds
    return arguments


def _read_duration(target: Target, value: Any) -> int:
    """Airflow's form stores it as text."""
    try:
        return int(value)
    except (ValueError, TypeError, OverflowError):
        raise StepFailed(
            f"aws_conn_id {target.aws_conn_id}: DurationSeconds in its extra is no "
            "number of seconds; give one, such as 3600"
        ) from None


def _open_session(identity: _Identity) -> Any:
    import boto3  # here and not above: --help and usage errors need not wait for it

    return boto3.Session(
        aws_access_key_id=identity.access_key_id,
        aws_secret_access_key=identity.secret_access_key,
        aws_session_token=identity.session_token,
        region_name=identity.region,
        profile_name=identity.profile,
    )


def _load_credentials(session: Any) -> None:
    """Have them now: boto3 would leave a profile's role for the first request."""
    credentials = session.get_credentials()
    if credentials:
        credentials.get_frozen_credentials()


def find_credential_process(target: Target, held: HeldConnection | None) -> str:
    """The profile whose credential_process the target's identity rests on, or ""."""
    from botocore.session import Session

    identity = _identify(target, held)
    if identity.access_key_id:
        return ""
    session = Session(profile=identity.profile)
    profiles = session.full_config["profiles"]
    name = session.profile or "default"
    for _ in profiles:  # no chain of source profiles is longer
        profile = profiles.get(name, {})
        if "credential_process" in profile:
            return name
        name = profile.get("source_profile", "")
    return ""


def _assume_role(session: Any, identity: _Identity, config: Any) -> Any:
    import boto3

    sts = session.client("sts", config=config)
    answer = sts.assume_role(RoleArn=identity.role_arn, **identity.role_arguments)
    credentials = answer["Credentials"]
    return boto3.Session(
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
        region_name=session.region_name,
    )
