"""Each Airflow's syntax: which it is, what is said, and how the answer is judged."""

from __future__ import annotations

import pytest

from _ecr_airflow_sync.airflow_syntax import (
    DeleteAndAdd,
    DeleteAndAddByFlags,
    Import,
    ImportByApi,
    Outcome,
    Syntax,
    choose_syntax,
    list_fields,
    parse_version,
    shows_connections,
)
from _ecr_airflow_sync.errors import StepFailed, UsageError
from _ecr_airflow_sync.model import Connection

from .conftest import catch

SCRIPT = "/opt/airflow/bin/airflow"
ONE = Connection("a.b", "host", "AWS", "s3cret", extra="{}", description="until then")
TWO = Connection("c", "host", "AWS", "s3cret")
AIRFLOWCTL = choose_syntax("airflowctl", "0.1.0", True, "auto")


def choose(version: str, method: str = "auto") -> Syntax:
    return choose_syntax(SCRIPT, version, False, method)


def test_the_number_that_a_version_begins_with() -> None:
    assert parse_version("1.10") == (1, 10, 0)
    assert parse_version("2.9.3+astro.1") == (2, 9, 3)
    assert parse_version("10.0.20261126") == (10, 0, 20261126)


def test_what_is_no_version() -> None:
    for text in ("2", "v2.1", "2.x", "1234567.1"):
        told = catch(UsageError, parse_version, text)
        assert told == f"Airflow version {text!r} is not of the form X.Y.Z"


@pytest.mark.parametrize(
    ("version", "method", "kind"),
    [
        ("1.10.0", "auto", DeleteAndAddByFlags),
        ("1.10.13", "delete-add", DeleteAndAddByFlags),
        ("1.10.14", "auto", DeleteAndAdd),
        ("2.5.3", "auto", DeleteAndAdd),
        ("2.6.0", "auto", Import),
        ("2.6.0", "import", Import),
        ("3.3.2", "delete-add", DeleteAndAdd),
    ],
)
def test_the_syntax_of_a_version(version: str, method: str, kind: type[Syntax]) -> None:
    syntax = choose(version, method)
    assert type(syntax) is kind
    assert method in ("auto", syntax.method)


def test_the_syntax_of_airflowctl() -> None:
    """Whose versions are none of Airflow's."""
    assert type(AIRFLOWCTL) is ImportByApi
    assert type(choose_syntax("airflowctl", "0.1.0", True, "import")) is ImportByApi


def test_what_a_version_has_not() -> None:
    assert catch(UsageError, choose, "2.5.3", "import") == (
        f"method import needs Airflow 2.6 or later; {SCRIPT} is 2.5.3"
    )
    airflowctl = ("airflowctl", "0.1.0", True, "delete-add")
    told = catch(UsageError, choose_syntax, *airflowctl)
    assert told == "airflowctl has the method import only"
    assert catch(StepFailed, choose, "1.9.0") == (
        f"Airflow 1.9.0 at {SCRIPT} is older than 1.10: upgrade it"
    )


def test_who_shows_connections() -> None:
    assert shows_connections("2.0.0", False)
    assert not shows_connections("1.10.15", False)
    assert not shows_connections("3.3.2", True)


# --- what is said ---


def test_fields_that_are_empty_are_left_out() -> None:
    assert list_fields(ONE) == {
        "conn_type": "docker",
        "host": "host",
        "login": "AWS",
        "password": "s3cret",
        "extra": "{}",
        "description": "until then",
    }
    assert list(list_fields(TWO)) == ["conn_type", "host", "login", "password"]


def say(version: str) -> list[str]:
    syntax = choose(version)
    assert not syntax.writes_many
    commands = syntax.list_commands([ONE])
    assert [command.file for command in commands] == [None, None]
    return [" ".join(command.words) for command in commands]


def test_two_commands_for_one() -> None:
    assert say("1.10.13") == [
        "connections --delete --conn_id=a.b",
        "connections --add --conn_id=a.b --conn_type=docker --conn_host=host "
        "--conn_login=AWS --conn_password=s3cret --conn_extra={}",
    ]
    delete = "connections delete a.b"
    add = (
        "connections add a.b --conn-type=docker --conn-host=host "
        "--conn-login=AWS --conn-password=s3cret --conn-extra={}"
    )
    assert say("1.10.14") == [delete, add]
    assert say("2.0.0") == [delete, f"{add} --conn-description=until then"]


def test_an_import_of_several() -> None:
    for syntax, words in (
        (choose("2.6.0"), "--overwrite"),
        (AIRFLOWCTL, "-a overwrite"),
    ):
        assert syntax.writes_many
        (command,) = syntax.list_commands([ONE, TWO])
        assert list(command.words) == ["connections", "import", *words.split()]
        assert command.file == {"a.b": list_fields(ONE), "c": list_fields(TWO)}


def test_what_lists_them() -> None:
    assert choose("1.10.13").listing == ("connections", "--list")
    assert choose("1.10.14").listing == ("connections", "list")


# --- how it is judged ---

ADDED = "\n\tSuccessfully added `conn_id`=a.b : docker://AWS:...\n"
DELETED = "\n\tSuccessfully deleted `conn_id`=a.b\n\n"
GONE = [
    Outcome(0, DELETED),
    Outcome(0, "Successfully deleted connection with `conn_id`=a.b\n"),
    Outcome(0, "\n\tDid not find a connection with `conn_id`=a.b\n\n"),
    Outcome(1, "Did not find a connection with `conn_id`=a.b\n"),
]
NOT_GONE = [
    Outcome(0, ""),
    Outcome(1, f"{DELETED}RuntimeError: locked\n"),
    Outcome(0, "\n\tFound more than one connection with `conn_id`=a.b\n"),
    Outcome(0, "Successfully deleted connection with `conn_id`=a.b.c\n"),
]
COME = [
    Outcome(0, "Successfully added `conn_id`=a.b"),
    Outcome(0, f"[2026-11-26] INFO - a.b\n{ADDED}bye\n"),
    Outcome(1, "A connection with `conn_id`=a.b already exists.\n"),
]
NOT_COME = [
    Outcome(0, ""),
    Outcome(1, f"{ADDED}RuntimeError: server closed\n"),
    Outcome(0, "Successfully added `conn_id`=a.bc : docker://\n"),
]


def test_delete_and_add_is_judged() -> None:
    find_failure = choose("2.5.3").find_failure
    for deleted in GONE:
        for added in COME:
            assert find_failure("a.b", [deleted, added]) is None
        for added in NOT_COME:
            assert find_failure("a.b", [deleted, added]) is added
    for deleted in NOT_GONE:
        for added in (*COME, *NOT_COME):
            assert find_failure("a.b", [deleted, added]) is deleted


def test_an_import_is_judged() -> None:
    """Even where an error ended it: each is committed by itself."""
    find_failure = choose("2.6.0").find_failure
    done = "Imported connection c\nImported connection a.b \r\nTraceback ...\n"
    assert find_failure("a.b", [Outcome(1, done)]) is None
    for output in (
        "Imported connection a.bc\n",
        "Imported connection axb\n",
        "Could not import connection. a.b has to be made of ...\n",
    ):
        outcome = Outcome(0, output)
        assert find_failure("a.b", [outcome]) is outcome


def test_an_import_by_the_api_is_judged() -> None:
    done = Outcome(0, "Successfully imported ['c', 'a.b'] connection(s)\n")
    assert AIRFLOWCTL.find_failure("a.b", [done]) is None
    for output in (
        "Successfully imported ['axb', 'ba.b'] connection(s)\n",
        "Failed to import connections ['a.b']\n",
    ):
        outcome = Outcome(0, output)
        assert AIRFLOWCTL.find_failure("a.b", [outcome]) is outcome
