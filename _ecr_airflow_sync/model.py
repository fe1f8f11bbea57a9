"""What flows through a run: a Target is asked for, a Token granted, a Result told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

DEFAULT_CONN_ID = "docker_default"
PUBLIC = "public"  # stands for ECR Public wherever a registry id may stand
PUBLIC_HOST = "public.ecr.aws"
# The suffixes of registry hosts, by partition: aws and GovCloud, China, European
# sovereign, and the isolated ones.
SUFFIXES = (
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
)
WRITTEN_BY = "written by ecr-airflow-sync"
UTC_FORMAT = "%Y-%m-%d %H:%M UTC"

Status = Literal[
    # After a run that renews tokens:
    "written",
    "fresh",
    "planned",
    "failed",
    # After a check, which can fail too:
    "fine",
    "missing",
    "shadowed",
    "wrong host",
    "refused",
    "unreachable",
]


def fill(template: str, registry: str | None, region: str | None) -> str:
    """The template with {registry} and {region} filled in, as far as they are known."""
    known = {"{registry}": registry, "{region}": region}

    def value(placeholder: re.Match[str]) -> str:
        return known[placeholder[0]] or placeholder[0]

    return re.sub(r"\{(registry|region)\}", value, template)


def name_variable(conn_id: str) -> str:
    """The environment variable that Airflow reads instead of its database."""
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def format_left(until: datetime) -> str:
    """How long that is from now: in hours, or in minutes where it is less than one."""
    minutes = round((until - datetime.now(timezone.utc)).total_seconds() / 60)
    return f"{minutes // 60} h" if minutes >= 60 else f"{minutes} min"


@dataclass(frozen=True)
class Target:
    """A docker connection that is asked for, and the identity that asks ECR for it.

    ``region`` "" is the one that boto3 finds, ``registry`` None that of the identity's
    own account, ``host`` None the one that ECR names. ``conn_id`` and ``host`` may hold
    {registry} and {region}. ``extra`` is a JSON object, as text.
    """

    conn_id: str = DEFAULT_CONN_ID
    region: str = ""
    registry: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    aws_conn_id: str | None = None
    host: str | None = None
    extra: str | None = None


@dataclass(frozen=True)
class Token:
    """What ECR granted for a target: login, password, and until when (UTC)."""

    target: Target
    registry: str
    region: str
    registry_host: str
    login: str
    password: str = field(repr=False)
    expires_at: datetime

    @property
    def conn_id(self) -> str:
        return fill(self.target.conn_id, self.registry, self.region)

    @property
    def host(self) -> str:
        """The host in image names: the one asked for, or else ECR's own."""
        template = self.target.host or self.registry_host
        return fill(template, self.registry, self.region)


@dataclass(frozen=True)
class Connection:
    """A docker connection as Airflow is to hold it. Empty fields are left out."""

    conn_id: str
    host: str
    login: str
    password: str = field(repr=False)
    extra: str = ""
    description: str = ""

    @classmethod
    def holding(cls, token: Token) -> Connection:
        until = token.expires_at.strftime(UTC_FORMAT)
        return cls(
            conn_id=token.conn_id,
            host=token.host,
            login=token.login,
            password=token.password,
            extra=token.target.extra or "",
            description=f"ECR token valid until {until}, {WRITTEN_BY}",
        )


@dataclass(frozen=True)
class HeldConnection:
    """A connection as a task of Airflow finds it, wherever it comes from."""

    conn_id: str
    in_database: bool
    host: str
    port: int | str  # "" if there is none
    login: str
    password: str = field(repr=False)
    extra: Any = field(repr=False)  # of JSON, and a dict unless somebody blundered
    conn_type: str = ""
    description: str = ""


@dataclass(frozen=True)
class FoundAirflow:
    """The Airflow that a command line led to. ``place``: AIRFLOW_HOME, or a URL."""

    executable: str
    version: str
    place: str
    method: str
    database: str = ""  # the host of the metadata database, if it is known
    remark: str = ""  # on the method, for the user


@dataclass(frozen=True)
class Result:
    """What became of a target. ``error`` is one line for the user; None: all is well.

    ``expires_at``: until when (UTC) the token is valid that the connection holds, as
    far as this host knows; after a dry run, the one that it would hold.
    ``last_success``: when (UTC) this host last wrote it or found it fresh.
    ``remark``: after a dry run, that the connection is new, or what it replaces.
    """

    conn_id: str
    status: Status
    registry: str | None = None
    region: str | None = None
    host: str | None = None
    expires_at: datetime | None = None
    error: str | None = None
    last_success: datetime | None = None
    remark: str = ""

    @classmethod
    def failed(cls, target: Target, error: str) -> Result:
        return cls(
            conn_id=target.conn_id,
            status="failed",
            registry=target.registry,
            region=target.region,
            host=target.host,
            error=error,
        )

    @classmethod
    def planned(cls, token: Token, remark: str = "") -> Result:
        return cls(
            conn_id=token.conn_id,
            status="planned",
            registry=token.registry,
            region=token.region,
            host=token.host,
            expires_at=token.expires_at,
            remark=remark,
        )

    @classmethod
    def written(cls, token: Token) -> Result:
        now = datetime.now(timezone.utc)
        return replace(cls.planned(token), status="written", last_success=now)

    @classmethod
    def unwritten(cls, token: Token, error: str) -> Result:
        planned = cls.planned(token)
        return replace(planned, status="failed", error=error, expires_at=None)


@dataclass(frozen=True)
class Run:
    """A whole run. ``airflow`` is None where none was found, or none was needed."""

    results: list[Result]
    airflow: FoundAirflow | None = None
