"""Whether a connection that is there already is this command's to replace."""

from __future__ import annotations

import re
from typing import Iterable, Mapping

from .errors import Held
from .masking import mask
from .model import PUBLIC_HOST, SUFFIXES, WRITTEN_BY, Connection, HeldConnection

# ECR's registries, by their plain, FIPS and dual-stack names, in every partition.
_SUFFIX = "|".join(map(re.escape, (*SUFFIXES, "on.aws")))
_PRIVATE = rf"[0-9]{{12}}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.({_SUFFIX})"
ECR_HOST = re.compile(rf"(https?://)?({_PRIVATE}|{re.escape(PUBLIC_HOST)})/?")


def find_foreign(
    wanted: Iterable[Connection], held: Mapping[str, Held]
) -> dict[str, str]:
    """Why connections are not replaced that are somebody else's, by their ids.

    ``held`` is what is there, as far as that is known.
    """
    foreign = {}
    for connection in wanted:
        there = held.get(connection.conn_id)
        # What hides the database's own is told elsewhere.
        if isinstance(there, HeldConnection) and there.in_database:
            foreign[connection.conn_id] = explain_foreign(there, connection)
    return {conn_id: why for conn_id, why in foreign.items() if why}


def explain_foreign(held: HeldConnection, wanted: Connection) -> str:
    """What it is instead, and what to do; "" if it may be replaced.

    It may if this command wrote it, as its description tells, or if it is for Docker
    and has no host, one of ECR's, or the one that is wanted.
    """
    if WRITTEN_BY in held.description:
        return ""
    known_host = held.host in ("", wanted.host) or ECR_HOST.fullmatch(held.host)
    if held.conn_type in ("", "docker") and known_host:
        return ""
    return (
        f"there is a connection of that id already, {describe(held)}, "
        "which ecr-airflow-sync did not write: "
        "choose another --conn-id, or replace it with --replace"
    )


def describe(held: HeldConnection) -> str:
    """What it is, in a few words. Somebody may have put a password into its host."""
    kind = f"of type {held.conn_type}" if held.conn_type else "without a type"
    return mask(f"{kind} at {held.host}") if held.host else kind
