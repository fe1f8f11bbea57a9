"""What Airflow says when it fails, in one line with what to do next."""

from __future__ import annotations

import re
from typing import Iterable

from .airflow_syntax import Outcome
from .errors import Advice, add_clause, advise
from .masking import mask

LONGEST = 500  # characters of what Airflow said that are worth showing

LOG_IN = (
    "airflowctl auth login --api-url https://… --skip-keyring; "
    "AIRFLOW_CLI_TOKEN is from airflowctl auth token"
)

ADVICE = (
    Advice(
        "value too long|Data too long",
        "ECR's tokens do not fit (AIRFLOW-3014): ALTER TABLE connection ALTER COLUMN "
        "password TYPE VARCHAR(5000) (MySQL: ALTER TABLE connection MODIFY password "
        "VARCHAR(5000))",
        sample="DataError: value too long for type character varying(500)",
    ),
    Advice(
        "Found more than one connection",
        "delete all of them in the UI, under Admin, Connections",
        sample="Found more than one connection with `conn_id`=docker_default",
    ),
    Advice(
        r"no such table|(relation|database|role|Table) \S+ (does not|doesn't) exist|"
        "Unknown database|unable to open database file|initialize the database",
        "check AIRFLOW_HOME and the database's URL: are they those of the workers?",
        sample="OperationalError: no such table: connection",
    ),
    Advice(
        "could not translate host name|could not connect to server|"
        "connection to server at (?!.*FATAL)|Can't connect to MySQL|"
        "Unknown (MySQL )?server host",
        "check the database's URL, and whether it is up",
        sample='connection to server at "db.example.com", port 5432 failed: refused',
    ),
    Advice(
        "Connection not found",
        "run ecr-airflow-sync --force to write it, without --check",
        sample="Connection not found.",
    ),
    Advice(
        "Keyring backend|Not authenticated|Invalid JWT|Token Expired",
        f"log in: {LOG_IN}",
        sample="Client error message: {'detail': 'Invalid JWT token'}",
    ),
)


def explain_airflow_error(
    outcome: Outcome, conn_id: str, place: str, secrets: Iterable[str]
) -> str:
    """One line: which Airflow, what it said that matters, and what to do next."""
    said = mask(_pick_line(outcome, conn_id).strip(), secrets)[:LONGEST]
    told = f"Airflow ({place}, exit status {outcome.status}): {said}"
    next_step = advise(said, ADVICE)
    return add_clause(told, next_step) if next_step else told


def _pick_line(outcome: Outcome, conn_id: str) -> str:
    """The line that says most: a summary, an exception, the id's own, the last."""
    cause = _cut_to_cause(outcome.output)
    lines = [line for line in cause.splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    for pick in (_pick_summary, _pick_exception):
        line = pick(lines)
        if line:
            return line
    if outcome.status == 0:  # of several connections, the others may be fine
        about = [line for line in lines if conn_id in line]
        return (about or lines)[-1]
    return lines[-1]


def _cut_to_cause(output: str) -> str:
    """Of chained tracebacks, the last that is not merely the wrapping of another."""
    last = output.rpartition("\nDuring handling of the above")[2]
    return last.partition("\nThe above exception was")[0]


def _pick_summary(lines: list[str]) -> str:
    """What airflowctl and Airflow 3 end with, below their traceback."""
    summaries = [
        line
        for line in lines
        if line.lstrip().startswith(("Failed to import", "command failed due to"))
    ]
    return summaries[-1] if summaries else ""


def _pick_exception(lines: list[str]) -> str:
    if not any("Traceback (" in line for line in lines):
        return ""
    exceptions = [line for line in lines if re.match(r"[\w.]*[a-z][\w.]*: .+", line)]
    return exceptions[-1] if exceptions else ""
