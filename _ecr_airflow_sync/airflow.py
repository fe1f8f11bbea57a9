"""The Airflow that a command line leads to: read and write its connections."""

from __future__ import annotations

import json
import logging
import re
import shlex
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Sequence, Union

from .airflow_errors import LOG_IN, explain_airflow_error
from .airflow_syntax import (
    METHODS,
    Outcome,
    Request,
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
    facts = interpreter.greet()
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
        self._import: Request | None = None  # one that is under way
        self._import_failure: Outcome | None = None

    def start_import(self) -> None:
        """Import all of Airflow's command line, without waiting for it."""
        # Under another name than __main__, a script only imports.
        self._import = Request([["version"]])
        self._interpreter.send(self._import, run_name="imported")

    def read(self, conn_ids: Iterable[str]) -> dict[str, Held]:
        """Each connection as a task finds it, or why it cannot be had."""
        distinct = list(dict.fromkeys(conn_ids))
        if not distinct:
            return {}  # without waiting for the import
        if not self._can_read:
            raise UsageError(
                f"{self.found.executable} ({self.found.version}) does not show "
                "connections as tasks find them: that takes the airflow script of 2.0 "
                "or later (AWS credentials can also come from --profile, --role-arn or "
                "AWS_ACCESS_KEY_ID)"
            )
        commands = [
            ["connections", "get", conn_id, "--output", "json"] for conn_id in distinct
        ]
        held: dict[str, Held] = {}
        for conn_id, outcome in zip(distinct, self._ask(Request(commands))):
            held[conn_id] = self._parse_held(conn_id, outcome)
        return held

    def write(self, connections: Sequence[Connection]) -> dict[str, str]:
        """Have Airflow hold them; returns why not, by the ids of those that failed."""
        if not connections:
            return {}
        count = len(connections)
        log.info(
            "Airflow %s is writing %d connection(s) ...", self.found.version, count
        )
        failures = self._write_all(connections)
        for connection in connections:
            # Another host may have been in the way, or one connection have stopped the
            # others. What was refused without an error, will be again.
            failure = failures.get(connection.conn_id)
            failed_by_error = isinstance(failure, Outcome) and failure.status != 0
            if failed_by_error and not self._write_together([connection]):
                del failures[connection.conn_id]
        secrets = [connection.password for connection in connections]
        return {
            conn_id: self._explain(conn_id, failure, secrets)
            for conn_id, failure in failures.items()
        }

    def _write_all(self, connections: Sequence[Connection]) -> dict[str, Failure]:
        if self._syntax.writes_many:
            return self._write_together(connections)
        failures: dict[str, Failure] = {}
        for connection in connections:
            failures.update(self._write_together([connection]))
        return failures

    def _write_together(self, connections: Sequence[Connection]) -> dict[str, Failure]:
        """One request. Returns what went wrong, by the connection's id."""
        try:
            outcomes = self._ask(self._syntax.request(connections))
        except StepFailed as failure:
            return {connection.conn_id: failure for connection in connections}
        self._show(outcomes, connections)
        failures: dict[str, Failure] = {}
        for connection in connections:
            failed = self._syntax.find_failure(connection.conn_id, outcomes)
            if failed:
                failures[connection.conn_id] = failed
        return failures

    def _show(
        self, outcomes: Iterable[Outcome], connections: Sequence[Connection]
    ) -> None:
        if not log.isEnabledFor(logging.DEBUG):
            return
        secrets = [connection.password for connection in connections]
        for outcome in outcomes:
            log.debug("%s", mask(outcome.output, secrets).strip())

    def _ask(self, request: Request) -> list[Outcome]:
        """How commands end. Where Airflow cannot be imported, they all end so."""
        if self._import:
            (imported,) = self._interpreter.receive(self._import)
            self._import = None
            if imported.status != 0:
                self._import_failure = imported
        if self._import_failure:
            return [self._import_failure] * len(request.commands)
        return self._interpreter.ask(request)

    def _parse_held(self, conn_id: str, outcome: Outcome) -> Held:
        """Of what was printed nothing is shown, if it may be the connection."""
        printed = re.findall(r"^\[(\{.*\})\]\s*$", outcome.output, re.MULTILINE)
        with suppress(ValueError, IndexError):
            fields: dict[str, Any] = json.loads(printed[-1])
            return HeldConnection(
                conn_id=conn_id,
                in_database=bool(fields["id"]),  # which nothing else has
                host=fields["host"] or "",
                port=fields["port"] or "",
                login=fields["login"] or "",
                password=fields["password"] or "",
                extra=fields["extra_dejson"] or {},
            )
        if outcome.status == 0:
            outcome = Outcome(0, "")
        reason = self._explain(conn_id, outcome, [])
        if "not found" in reason:
            return ConnectionMissing(reason)
        return StepFailed(reason)

    def _explain(self, conn_id: str, failure: Failure, secrets: Sequence[str]) -> str:
        if isinstance(failure, StepFailed):
            return mask(str(failure), secrets)
        return explain_airflow_error(failure, conn_id, self.found.place, secrets)
