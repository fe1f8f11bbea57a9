"""An Airflow that runs: reads and writes its connections, all in one start."""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any, Iterable, Sequence, Union

from .airflow_errors import explain_airflow_error
from .airflow_syntax import Command, Outcome, Syntax
from .errors import ConnectionMissing, Held, StepFailed, TimedOut, UsageError
from .interpreter import Interpreter
from .masking import mask
from .model import Connection, FoundAirflow, HeldConnection

Failure = Union[Outcome, StepFailed]

log = logging.getLogger("ecr_airflow_sync")


class RunningAirflow:
    """Reads and writes connections, all in one start of Airflow.

    ``variables`` are those in its environment that stand for connections.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        found: FoundAirflow,
        syntax: Syntax,
        can_read: bool,
        variables: Sequence[str],
    ) -> None:
        self.found = found
        self.variables = frozenset(variables)
        self._interpreter = interpreter
        self._syntax = syntax
        self._can_read = can_read
        self._is_importing = False
        self._import_failure: Outcome | None = None

    def start_import(self) -> None:
        """Import Airflow's command line, without waiting for it."""
        self._interpreter.start_import()
        self._is_importing = True

    def read(self, conn_ids: Iterable[str]) -> dict[str, Held]:
        """Each connection as a task finds it, or why it cannot be had."""
        distinct = list(dict.fromkeys(conn_ids))
        if distinct and not self._can_read:
            raise UsageError(
                f"{self.found.executable} ({self.found.version}) does not show "
                "connections as tasks find them: that takes the airflow script of 2.0 "
                "or later (AWS credentials can also come from --profile, --role-arn or "
                "AWS_ACCESS_KEY_ID)"
            )
        return {conn_id: self._read_one(conn_id) for conn_id in distinct}

    def look_up(self, conn_ids: Iterable[str]) -> dict[str, Held]:
        """As ``read``; nothing where this Airflow does not show its connections."""
        return self.read(conn_ids) if self._can_read else {}

    def open_database(self) -> None:
        """Raises StepFailed where no connection could be read or written."""
        listed = self._list()
        if listed.status != 0:
            raise StepFailed(self._explain("", listed, []))

    def _list(self) -> Outcome:
        """What is listed holds secrets, and is looked at by nobody."""
        return self._run(Command(self._syntax.listing))

    def _read_one(self, conn_id: str) -> Held:
        """Of what is printed nothing is shown, if it may be the connection."""
        getting = Command(["connections", "get", conn_id, "--output", "json"])
        outcome = self._run(getting)
        printed = re.findall(r"^\[(\{.*\})\]\s*$", outcome.output, re.MULTILINE)
        with suppress(ValueError, LookupError):
            return _parse_held(conn_id, json.loads(printed[-1]))
        if outcome.says(r"^Connection not found\."):
            return self._find_out_why(conn_id, outcome)
        if outcome.status == 0:
            answer = "the answer to `connections get` is not understood"
            return StepFailed(f"Airflow ({self.found.place}): {answer}")
        return StepFailed(self._explain(conn_id, outcome, []))

    def _find_out_why(self, conn_id: str, not_found: Outcome) -> StepFailed:
        """`get` says so too where it cannot ask the database, or cannot decrypt."""
        listed = self._list()
        if listed.status != 0:
            return StepFailed(self._explain(conn_id, listed, []))
        return ConnectionMissing(self._explain(conn_id, not_found, []))

    def write(self, connections: Sequence[Connection]) -> dict[str, str]:
        """Have Airflow hold them; returns why not, by the ids of those that failed."""
        if not connections:
            return {}
        count = len(connections)
        version = self.found.version
        log.info("Airflow %s is writing %d connection(s) ...", version, count)
        failures: dict[str, Failure] = {}
        if self._syntax.writes_many:
            failures = self._write_together(connections)
        else:
            for connection in connections:
                failures.update(self._write_together([connection]))
        self._try_again(connections, failures)
        secrets = [connection.password for connection in connections]
        return {
            conn_id: self._explain(conn_id, failure, secrets)
            for conn_id, failure in failures.items()
        }

    def _try_again(
        self, connections: Sequence[Connection], failures: dict[str, Failure]
    ) -> None:
        """Write those alone, once more, that an error stopped.

        Another host may have been in the way, or another connection of the same import.
        What Airflow refused without an error, it would refuse again.
        """
        for connection in connections:
            failure = failures.get(connection.conn_id)
            if isinstance(failure, Outcome) and failure.status != 0:
                del failures[connection.conn_id]
                failures.update(self._write_together([connection]))

    def _write_together(self, connections: Sequence[Connection]) -> dict[str, Failure]:
        """Returns what went wrong, by the connection's id."""
        commands = self._syntax.list_commands(connections)
        try:
            if len(commands) > 1:
                return self._run_in_transaction(commands, connections)
            return self._run_all(commands, connections)
        except StepFailed as failure:
            return {connection.conn_id: failure for connection in connections}

    def _run_in_transaction(
        self, commands: Sequence[Command], connections: Sequence[Connection]
    ) -> dict[str, Failure]:
        """All that the commands change is seen at once, or not at all."""
        if not self._begin():
            self.found = replace(self.found, remark="not in one transaction")
            return self._run_all(commands, connections)
        failures = self._run_all(commands, connections)
        if failures:
            self._in_transaction("rollback")
            return failures
        committed = self._in_transaction("commit")
        if committed.status != 0:
            return {connection.conn_id: committed for connection in connections}
        return {}

    def _begin(self) -> bool:
        self._finish_import()
        return not self._import_failure and self._in_transaction("begin").status == 0

    def _in_transaction(self, action: str) -> Outcome:
        return self._interpreter.execute("transaction.py", action)

    def _run_all(
        self, commands: Sequence[Command], connections: Sequence[Connection]
    ) -> dict[str, Failure]:
        outcomes = [self._run(command) for command in commands]
        self._show(outcomes, connections)
        failures: dict[str, Failure] = {}
        for connection in connections:
            failed = self._syntax.find_failure(connection.conn_id, outcomes)
            if failed:
                failures[connection.conn_id] = failed
        return failures

    def _run(self, command: Command) -> Outcome:
        """How a command ends. Where Airflow cannot be imported, they all end so."""
        self._finish_import()
        return self._import_failure or self._interpreter.run(command)

    def _finish_import(self) -> None:
        if not self._is_importing:
            return
        imported = self._interpreter.finish_import()
        self._is_importing = False
        if imported.status != 0:
            self._import_failure = imported

    def _show(
        self, outcomes: Iterable[Outcome], connections: Sequence[Connection]
    ) -> None:
        if not log.isEnabledFor(logging.DEBUG):
            return
        secrets = [connection.password for connection in connections]
        for outcome in outcomes:
            log.debug("%s", mask(outcome.output, secrets).strip())

    def _explain(self, conn_id: str, failure: Failure, secrets: Sequence[str]) -> str:
        if isinstance(failure, TimedOut) and self.found.database:
            return f"{failure}; the database is at {self.found.database}"
        if isinstance(failure, StepFailed):
            return mask(str(failure), secrets)
        return explain_airflow_error(failure, conn_id, self.found.place, secrets)


def _parse_held(conn_id: str, fields: dict[str, Any]) -> HeldConnection:
    return HeldConnection(
        conn_id=conn_id,
        # Those from variables and secrets backends have no id.
        in_database=bool(fields["id"]),
        conn_type=fields["conn_type"] or "",
        description=fields.get("description") or "",
        host=fields["host"] or "",
        port=fields["port"] or "",
        login=fields["login"] or "",
        password=fields["password"] or "",
        extra=fields["extra_dejson"] or {},
    )
