"""Which Airflow is meant, and how to start it."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator

from .airflow_errors import LOG_IN
from .airflow_syntax import METHODS, choose_syntax, parse_version, shows_connections
from .errors import StepFailed, UsageError
from .masking import mask
from .model import FoundAirflow

if TYPE_CHECKING:
    from .interpreter import Interpreter
    from .running_airflow import RunningAirflow

LONGEST_TIMEOUT = 1_000_000  # seconds, 12 days


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
        if words[-2:-1] == ["-m"]:
            folder = os.path.dirname(words[-3]) if len(words) > 2 else ""
            script = os.path.join(folder, words[-1])
            raise UsageError(
                f"airflow command {self.command!r}: give the script, {script}"
            )
        if self.method not in METHODS:
            methods = ", ".join(METHODS)
            raise UsageError(f"method {self.method!r} is none of {methods}")
        if not 0 < self.timeout < LONGEST_TIMEOUT:
            limits = f"above 0 and below {LONGEST_TIMEOUT} seconds"
            raise UsageError(f"timeout {self.timeout:g} is not {limits}")
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
    found = FoundAirflow(
        executable=script,
        version=version,
        place=facts["place"],
        method=syntax.method,
        database=facts["database"],
    )
    can_read = shows_connections(version, is_airflowctl)
    from .running_airflow import RunningAirflow

    return RunningAirflow(interpreter, found, syntax, can_read, facts["variables"])


def _describe(interpreter: Interpreter) -> dict[str, Any]:
    outcome = interpreter.execute("describe_airflow.py")
    try:
        facts: dict[str, Any] = json.loads(outcome.output.splitlines()[-1])
    except (ValueError, IndexError):
        said = mask(" ".join(outcome.output.split()))[-500:]
        raise StepFailed(
            f"its Python cannot tell which Airflow it has: {said}"
        ) from None
    return facts
