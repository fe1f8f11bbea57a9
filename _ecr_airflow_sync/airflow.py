"""The Airflow that a command line leads to: read and write its connections."""

from __future__ import annotations

import json
import logging
import re
import shlex
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Sequence, Union

from .airflow_errors import LOG_IN, explain_airflow_error
from .airflow_syntax import (
    METHODS,
    Command,
    Outcome,
    Syntax,
    choose_syntax,
    parse_version,
    shows_connections,
)
from .errors import ConnectionMissing, Held, StepFailed, UsageError
from .masking import mask
from .model import Connection, FoundAirflow, HeldConnection

if TYPE_CHECKING:
    from .interpreter import Interpreter

Failure = Union[Outcome, StepFailed]

LONGEST_TIMEOUT = 1_000_000  # seconds, 12 days

log = logging.getLogger("ecr_airflow_sync")


@dataclass(frozen=True)
class Airflow:
    """Which Airflow is meant, and how it is to be written.

    ``command``: the airflow script, or a command line that ends in it. ``timeout``: how
    many seconds its answers may take. ``version`` and ``method`` are found out where
    they are not given. Raises UsageError.
    """

    command: str = "airflow"
    timeout: float = 120
    version: str = ""
    method: str = "auto"

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise UsageError(f"airflow command {self.command!r}: {error}") from None
        if not words:
            raise UsageError("airflow command '' is empty: name the airflow script")
        if self.method not in METHODS:
            methods = ", ".join(METHODS)
            raise UsageError(f"method {self.method!r} is none of {methods}")
        if not 0 < self.timeout < LONGEST_TIMEOUT:
            timeout = f"timeout {self.timeout:g}"
            raise UsageError(f"{timeout} is not a positive number of seconds")
        if self.version:
            parse_version(self.version)

    @contextmanager
    def start(self, import_now: bool) -> Iterator[RunningAirflow]:
        """One process of its interpreter, which can import Airflow meanwhile.

        Raises StepFailed, and UsageError for what this Airflow cannot do.
        """
        from .interpreter import run_interpreter  # a run with nothing due needs none

        with run_interpreter(self.command, self.timeout) as interpreter:
            running = _introduce(self, interpreter)
            if import_now:
                running.start_import()
            yield running


def _introduce(airflow: Airflow, interpreter: Interpreter) -> RunningAirflow:
    """Find out which Airflow it is, and whether it can be written."""
    facts = _describe(interpreter)
    script = facts["script"]
    version = airflow.version or facts["version"]
    if not version:
        raise StepFailed(
            f"{script} runs in a Python without the package apache-airflow: "
            "name another script with --airflow, or say --airflow-version"
        )
    if not facts["place"]:
        where = f"{script} has no login in AIRFLOW_HOME {facts['home']}"
        raise StepFailed(f"{where}: run there {LOG_IN}")
    is_airflowctl = facts["is_airflowctl"]
    syntax = choose_syntax(script, version, is_airflowctl, airflow.method)
    found = FoundAirflow(script, version, facts["place"], syntax.method)
    can_read = shows_connections(version, is_airflowctl)
    return RunningAirflow(interpreter, found, syntax, can_read, facts["variables"])


def _describe(interpreter: Interpreter) -> dict[str, Any]:
    outcome = interpreter.execute("describe_airflow.py")
    try:
        facts: dict[str, Any] = json.loads(outcome.output.splitlines()[-1])
    except (ValueError, IndexError):
        said = mask(outcome.output.strip())[-500:]
        raise StepFailed(
            f"its Python cannot tell which Airflow it has: {said}"
        ) from None
    return facts


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

    def _read_one(self, conn_id: str) -> Held:
        """Of what is printed nothing is shown, if it may be the connection."""
        getting = Command(["connections", "get", conn_id, "--output", "json"])
        outcome = self._run(getting)
        printed = re.findall(r"^\[(\{.*\})\]\s*$", outcome.output, re.MULTILINE)
        with suppress(ValueError, IndexError):
            return _parse_held(conn_id, json.loads(printed[-1]))
        shown = outcome if outcome.status != 0 else Outcome(0, "")
        reason = explain_airflow_error(shown, conn_id, self.found.place, [])
        if "not found" in reason:
            return ConnectionMissing(reason)
        return StepFailed(reason)

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
        """Another host may have been in the way, or one connection of the others.

        What was refused without an error, would be again.
        """
        for connection in connections:
            failure = failures.get(connection.conn_id)
            had_error = isinstance(failure, Outcome) and failure.status != 0
            if had_error and not self._write_together([connection]):
                del failures[connection.conn_id]

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
        if isinstance(failure, StepFailed):
            return mask(str(failure), secrets)
        return explain_airflow_error(failure, conn_id, self.found.place, secrets)


def _parse_held(conn_id: str, fields: dict[str, Any]) -> HeldConnection:
    return HeldConnection(
        conn_id=conn_id,
        in_database=bool(fields["id"]),  # which nothing else has
        host=fields["host"] or "",
        port=fields["port"] or "",
        login=fields["login"] or "",
        password=fields["password"] or "",
        extra=fields["extra_dejson"] or {},
    )
