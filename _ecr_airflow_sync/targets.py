"""What is asked for: options and Python callers' targets, validated."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any, Iterable, Sequence

from .errors import UsageError
from .model import PUBLIC, PUBLIC_HOST, Target, Token, fill

PUBLIC_REGION = "us-east-1"  # the only one that gives tokens for ECR Public

# As Airflow's own: airflow/models/connection.py sanitizes ids, utils/helpers.py has
# validate_key. A leading dash would be taken for an option. Letters outside ASCII
# are not for every database, and so not for every Airflow.
CONN_ID = r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,199}"
CONN_ID_RULE = (
    "it must be 1 to 200 ASCII letters, digits, underscores, "
    "dashes (not in front) and dots (not two in a row)"
)
# What an id's placeholders stand for while only AWS knows it. No region is longer.
ANY_REGISTRY = "0" * 12
ANY_REGION = "ap-southeast-1"
REGISTRY = rf"[0-9]{{12}}|{PUBLIC}"
HOST = r"[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)*"


def combine_targets(
    common: Target, regions: Sequence[str], registries: Sequence[str]
) -> list[Target]:
    """Every registry in every region. None given: what boto3 finds, and one's own."""
    if len(regions) > 1 and "" in regions:
        raise UsageError("one of several regions is empty")
    own: list[str | None] = [None]
    pairs = itertools.product(regions or [""], registries or own)
    return [replace(common, region=region, registry=id_) for region, id_ in pairs]


def validate_targets(targets: Sequence[Target]) -> list[Target]:
    """Targets that may be asked for, each with a connection of its own.

    What is known is filled in, and repetitions are left out: ECR Public is one target,
    whatever the regions. Raises UsageError.
    """
    distinct = list(dict.fromkeys(validate_target(target) for target in targets))
    _refuse_shared_ids([target.conn_id for target in distinct])
    _refuse_overwritten_credentials(distinct)
    return distinct


def _refuse_shared_ids(conn_ids: Sequence[str]) -> None:
    for conn_id, count in Counter(conn_ids).items():
        if count > 1:
            would = "would both be" if count == 2 else "would all be"
            raise UsageError(
                f"{count} connections {would} {conn_id}: "
                "give --conn-id 'ecr_{registry}_{region}'"
            )
    first: dict[str, str] = {}
    for conn_id in conn_ids:
        other = first.setdefault(conn_id.lower(), conn_id)
        if other != conn_id:
            raise UsageError(
                f"{other} and {conn_id} differ in capitals only, and MySQL takes them "
                "for one connection: rename one"
            )


def _refuse_overwritten_credentials(targets: Sequence[Target]) -> None:
    written = {target.conn_id.lower() for target in targets}
    for target in targets:
        if target.aws_conn_id and target.aws_conn_id.lower() in written:
            raise UsageError(
                f"{target.aws_conn_id} holds AWS credentials, which the token would "
                "replace: give another connection id than that of aws_conn_id"
            )


def find_clashes(tokens: Sequence[Token], taken: Iterable[str]) -> dict[str, str]:
    """Why connections are not written that would replace another one of this run.

    Only ECR tells the own account of whoever asks: what a template comes to by that, no
    validation can know. ``taken`` has further ids that are in use.
    """
    ids = [token.conn_id for token in tokens]
    counts = Counter(conn_id.lower() for conn_id in (*ids, *taken))
    why = "another connection of this run has that id too; give each an id of its own"
    return {conn_id: why for conn_id in ids if counts[conn_id.lower()] > 1}


def validate_target(target: Target) -> Target:
    """The target with what is known filled in. Raises UsageError."""
    if target.registry == PUBLIC:
        target = replace(target, region=PUBLIC_REGION, host=PUBLIC_HOST)
    _validate_region(target.region)
    _validate_registry(target.registry)
    conn_id = fill(target.conn_id, target.registry, target.region)
    _validate_conn_id(conn_id)
    _validate_host(target.host)
    _validate_identity(target)
    _validate_extra(target.extra)
    return replace(target, conn_id=conn_id)


def _validate_region(region: str) -> None:
    """Whether it exists, AWS knows best."""
    if re.search(r"[\s,]", region):
        raise UsageError(
            f"region {region!r} is not one region: give one -r each "
            "(in a file, a section each)"
        )


def _validate_registry(registry: str | None) -> None:
    if registry is None:
        return
    if not re.fullmatch(REGISTRY, registry):
        raise UsageError(f"registry {registry!r} is not an account id of twelve digits")


def _validate_conn_id(conn_id: str) -> None:
    """As far as it is filled: its template may be shorter, and have other letters."""
    filled = fill(conn_id, ANY_REGISTRY, ANY_REGION)
    if "{" in filled or "}" in filled:
        placeholders = "the placeholders are {registry} and {region}"
        raise UsageError(f"conn id {conn_id!r}: {placeholders}")
    if not re.fullmatch(CONN_ID, filled) or ".." in filled:
        raise UsageError(f"conn id {conn_id!r}: {CONN_ID_RULE}")


def _validate_host(host: str | None) -> None:
    if host and not re.fullmatch(HOST, fill(host, "x", "x")):
        raise UsageError(f"host {host!r} is not a bare host, as in an image's name")


def _validate_identity(target: Target) -> None:
    if target.profile and target.aws_conn_id:
        raise UsageError(
            "profile and aws_conn_id are two sources of credentials: give one"
        )
    if target.external_id and not (target.role_arn or target.aws_conn_id):
        raise UsageError("external_id is for a role: give its role_arn")


def _validate_extra(text: str | None) -> None:
    if not text:
        return
    try:
        extra: Any = json.loads(text.encode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"extra is not JSON: {error}") from None
    if not isinstance(extra, dict):
        example = '\'{"email": "me@example.com"}\''
        raise UsageError(f"extra is not a JSON object, such as {example}")
    # Airflow 1.10 takes the word, later ones the boolean.
    if str(extra.get("reauth", True)).lower() in ("false", "no", "0"):
        raise UsageError(
            "extra has reauth false: DockerOperator would not log in to ECR"
        )
