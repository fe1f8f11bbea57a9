"""What can go wrong, and how advice on what to do next is found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Sequence, Union

import click

from .model import HeldConnection, Result

TRY_AGAIN = "the next run tries again"
CHECK_NETWORK = "check the region, and this host's DNS, proxy and network"


UsageError = click.UsageError  # what was asked for cannot be done at all


class StepFailed(Exception):
    """Why a step failed: one line with what to do next, and no secret in it."""


class TimedOut(StepFailed):
    """Airflow did not answer within --timeout."""


class ConnectionMissing(StepFailed):
    """Airflow was asked for a connection, and has none of that id."""


# What reading a connection gives: the connection, or why it is not to be had.
Held = Union[HeldConnection, StepFailed]


class SyncError(Exception):
    """At least one connection is not as it should be. ``str()`` has a line a reason."""

    def __init__(self, results: list[Result]) -> None:
        super().__init__("\n".join(_list_reasons(results)))
        self.results = results


def _list_reasons(results: Iterable[Result]) -> list[str]:
    """A line for each error, with all the connections that it struck."""
    struck: dict[str, list[str]] = {}
    for result in results:
        if result.error:
            struck.setdefault(result.error, []).append(result.conn_id)
    return [f"{', '.join(conn_ids)}: {error}" for error, conn_ids in struck.items()]


@dataclass(frozen=True)
class Advice:
    """What to do about errors that match ``pattern``. ``sample`` is one of them."""

    pattern: str
    next_step: str
    sample: str


def advise(text: str, table: Sequence[Advice]) -> str:
    """The next step of the first row that matches, or ""."""
    for advice in table:
        if re.search(advice.pattern, text):
            return advice.next_step
    return ""


def add_clause(said: str, more: str) -> str:
    """One line of both, without the full stop that others end a sentence with."""
    return re.sub(r"(?<!\.)\.$", "", said) + f"; {more}"
