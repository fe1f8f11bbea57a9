"""The syntaxes of `airflow connections`: what is said, and how an answer is judged.

A new Airflow is a new class here, or a new row in choose_syntax. Nobody else asks for
versions.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Sequence, Tuple

from .errors import StepFailed, UsageError
from .model import Connection

METHODS = ("auto", "import", "delete-add")
OLDEST = (1, 10)
SUBCOMMANDS_SINCE = (1, 10, 14)
DESCRIPTION_SINCE = (2, 0)
GET_SINCE = (2, 0)
IMPORT_SINCE = (2, 6)

Version = Tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """How a command of Airflow's ended, and all that it printed."""

    status: int
    output: str

    def says(self, pattern: str) -> bool:
        return bool(re.search(pattern, self.output, re.MULTILINE))


@dataclass(frozen=True)
class Command:
    """Words after `airflow`, and a file that is given as one more: a path of JSON."""

    words: Sequence[str]
    file: dict[str, Any] | None = None


class Syntax(ABC):
    """How one kind of Airflow is told to write connections."""

    method: str
    writes_many: bool  # whether the commands can be for several connections at once
    listing: Sequence[str] = ("connections", "list")

    @abstractmethod
    def list_commands(self, connections: Sequence[Connection]) -> list[Command]:
        """What is to be said for these connections to be written."""

    @abstractmethod
    def find_failure(self, conn_id: str, outcomes: Sequence[Outcome]) -> Outcome | None:
        """The outcome of the command that failed this connection, if one did."""


class DeleteAndAdd(Syntax):
    """1.10.14 to 2.5, which have two commands where one step is wanted."""

    method = "delete-add"
    writes_many = False

    def __init__(self, version: Version) -> None:
        self._takes_description = version >= DESCRIPTION_SINCE

    def list_commands(self, connections: Sequence[Connection]) -> list[Command]:
        (connection,) = connections
        deleting = self._delete(connection.conn_id)
        return [Command(deleting), Command(self._add(connection))]

    def find_failure(self, conn_id: str, outcomes: Sequence[Outcome]) -> Outcome | None:
        deleted, added = outcomes
        if not self._is_gone(conn_id, deleted):
            return deleted
        if not self._is_there(conn_id, added):
            return added
        return None

    def _delete(self, conn_id: str) -> list[str]:
        return ["connections", "delete", conn_id]

    def _add(self, connection: Connection) -> list[str]:
        # --conn-password is masked in the audit log, --conn_password is not.
        return ["connections", "add", connection.conn_id, *self._options(connection)]

    def _options(self, connection: Connection, prefix: str = "--conn-") -> list[str]:
        fields = list_fields(connection)
        if not self._takes_description:
            fields.pop("description", None)
        return [
            f"{prefix}{name.replace('conn_', '')}={value}"
            for name, value in fields.items()
        ]

    def _is_gone(self, conn_id: str, outcome: Outcome) -> bool:
        """1.10 to 2.5 say so before they commit, and may fail then."""
        name = rf"`conn_id`={re.escape(conn_id)}\s*$"
        if outcome.says(rf"Did not find a( connection with)? {name}"):
            return True
        deleted = outcome.says(rf"Successfully deleted( connection with)? {name}")
        return deleted and outcome.status == 0

    def _is_there(self, conn_id: str, outcome: Outcome) -> bool:
        """Where another host was quicker, what that wrote is as fresh."""
        name = rf"`conn_id`={re.escape(conn_id)}"
        if outcome.says(rf"with {name} already exists"):
            return True
        added = outcome.says(rf"Successfully added {name}(\s|$)")
        return added and outcome.status == 0


class DeleteAndAddByFlags(DeleteAndAdd):
    """1.10.0 to 1.10.13, which know flags instead of subcommands."""

    listing = ("connections", "--list")

    def _delete(self, conn_id: str) -> list[str]:
        return ["connections", "--delete", f"--conn_id={conn_id}"]

    def _add(self, connection: Connection) -> list[str]:
        options = self._options(connection, prefix="--conn_")
        conn_id = f"--conn_id={connection.conn_id}"
        return ["connections", "--add", conn_id, *options]


class Import(Syntax):
    """2.6 and later, which replace any number of connections from a file."""

    method = "import"
    writes_many = True
    overwrite: Sequence[str] = ("--overwrite",)

    def list_commands(self, connections: Sequence[Connection]) -> list[Command]:
        file = {
            connection.conn_id: list_fields(connection) for connection in connections
        }
        return [Command(["connections", "import", *self.overwrite], file)]

    def find_failure(self, conn_id: str, outcomes: Sequence[Outcome]) -> Outcome | None:
        """Each connection is committed by itself, so a later error does not undo it."""
        (imported,) = outcomes
        return None if self._is_imported(conn_id, imported) else imported

    def _is_imported(self, conn_id: str, outcome: Outcome) -> bool:
        return outcome.says(rf"Imported connection {re.escape(conn_id)}\s*$")


class ImportByApi(Import):
    """airflowctl, which sends the whole file to Airflow 3's API in one request."""

    overwrite = ("-a", "overwrite")

    def _is_imported(self, conn_id: str, outcome: Outcome) -> bool:
        name = re.escape(conn_id)
        return outcome.says(rf"Successfully imported \[.*'{name}'.*\] conn")


def choose_syntax(
    script: str, version: str, is_airflowctl: bool, method: str
) -> Syntax:
    """The syntax of that Airflow. Raises UsageError, or StepFailed: it is too old."""
    if is_airflowctl:
        if method == "delete-add":
            raise UsageError("airflowctl has the method import only")
        return ImportByApi()
    age = parse_version(version)
    if age < OLDEST:
        raise StepFailed(
            f"Airflow {version} at {script} is older than 1.10: upgrade it"
        )
    if method == "import" and age < IMPORT_SINCE:
        raise UsageError(
            f"method import needs Airflow 2.6 or later; {script} is {version}"
        )
    if age < SUBCOMMANDS_SINCE:
        return DeleteAndAddByFlags(age)
    if age < IMPORT_SINCE or method == "delete-add":
        return DeleteAndAdd(age)
    return Import()


def shows_connections(version: str, is_airflowctl: bool) -> bool:
    """Whether `connections get` is there, which answers as a task would find it."""
    return not is_airflowctl and parse_version(version) >= GET_SINCE


def parse_version(text: str) -> Version:
    """The number that a version begins with, also of 2.9.3+astro.1 and 3.0.0rc1."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,9}))?", text)
    if not found:
        raise UsageError(f"Airflow version {text!r} is not of the form X.Y.Z")
    return tuple(int(part or 0) for part in found.groups())


def list_fields(connection: Connection) -> dict[str, str]:
    """The connection as an import file has it. Fields that are empty stay NULL."""
    fields = {
        "conn_type": "docker",
        "host": connection.host,
        "login": connection.login,
        "password": connection.password,
        "extra": connection.extra,
        "description": connection.description,
    }
    return {name: value for name, value in fields.items() if value}
