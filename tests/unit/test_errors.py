"""Advice: each row of the tables answers its own sample, and no row before it does."""

from __future__ import annotations

import pytest

from _ecr_airflow_sync import airflow_errors, aws_errors
from _ecr_airflow_sync.airflow_syntax import Outcome
from _ecr_airflow_sync.errors import Advice, SyncError, add_clause, advise
from _ecr_airflow_sync.model import Result

TABLES = [aws_errors.ADVICE, airflow_errors.ADVICE]


@pytest.mark.parametrize("table", TABLES, ids=["AWS", "Airflow"])
def test_each_advice_answers_its_sample(table: tuple[Advice, ...]) -> None:
    for advice in table:
        assert advise(advice.sample, table) == advice.next_step


def test_no_advice_for_what_nobody_knows() -> None:
    assert advise("it rained", aws_errors.ADVICE) == ""


WRONG_DATABASE = (
    'relation "connection" does not exist',
    'FATAL:  database "airflow" does not exist',
    "Table 'airflow.connection' doesn't exist",
    "(1049, \"Unknown database 'airflow'\")",
    "sqlite3.OperationalError: unable to open database file",
    "You need to initialize the database. Please run `airflow db init`.",
)
AWAY = (
    'could not translate host name "db" to address',
    "could not connect to server: Connection refused",
    "Can't connect to MySQL server on 'db'",
    "Unknown MySQL server host 'db'",
)
SOMETHING_ELSE = (
    "column connection.description does not exist",
    "The key file /etc/key.json does not exist",
    'connection to server at "db", port 5432 failed: FATAL:  sorry, too many clients',
)


def test_what_is_wrong_with_a_database() -> None:
    for said in WRONG_DATABASE:
        told = advise(said, airflow_errors.ADVICE)
        assert told.startswith("check AIRFLOW_HOME and the database's URL"), said
    for said in AWAY:
        told = advise(said, airflow_errors.ADVICE)
        assert told == "check the database's URL, and whether it is up", said
    for said in SOMETHING_ELSE:
        assert advise(said, airflow_errors.ADVICE) == "", said


CHAINED = """\
Traceback (most recent call last):
  File "db.py", line 1, in connect
psycopg2.OperationalError: Connection refused
\tIs the server running?

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "orm.py", line 1, in session
sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) Connection refused
(Background on this error at: https://sqlalche.me/e/20/e3q8)
"""


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        ("", 0, "it said nothing"),
        ("no.error: one\n\ntwo\n", 1, "two"),
        ("Imported a\nCould not import b, sorry\ndone\n", 0, "Could not import b, sorry"),
        ("Imported a\ndone\n", 0, "done"),
        (CHAINED, 1, "psycopg2.OperationalError: Connection refused"),
        ("Traceback (\nx.Error: y\ncommand failed due to z\nbye\n", 1, "command failed due to z"),
        ("Failed to import connections ['a']\nbye\n", 0, "Failed to import connections ['a']"),
        ("Traceback (most recent call last):\n  File x\n", 1, "File x"),
        ("x " * 400, 1, ("x " * 400)[:500]),
    ],
)  # fmt: skip
def test_the_line_that_says_most(output: str, status: int, said: str) -> None:
    outcome = Outcome(status, output)
    told = airflow_errors.explain_airflow_error(outcome, "b", "AIRFLOW_HOME /a", [])
    assert told == f"Airflow (AIRFLOW_HOME /a, exit status {status}): {said}"


def test_a_reason_that_struck_several_is_one_line() -> None:
    failed = [Result(conn_id, "failed", error="no") for conn_id in ("a", "c")]
    results = [*failed, Result("b", "written"), Result("d", "failed", error="nor")]
    error = SyncError(results)
    assert str(error) == "a, c: no\nd: nor"
    assert error.results is results


def test_a_clause_takes_the_place_of_a_full_stop() -> None:
    assert add_clause("It is asleep.", "wake it") == "It is asleep; wake it"
    assert add_clause("It is ...", "wake it") == "It is ...; wake it"
