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


@pytest.mark.parametrize("text", ["2", "v2.1", "2.x", "1234567.1"])
def test_what_is_no_version(text: str) -> None:
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


FIELDS = ["type=docker", "host=host", "login=AWS", "password=s3cret", "extra={}"]
DESCRIPTION = "description=until then"


@pytest.mark.parametrize(
    ("version", "deleting", "adding", "prefix", "fields"),
    [
        ("1.10.13", "--delete --conn_id=a.b", "--add --conn_id=a.b", "--conn_", FIELDS),
        ("1.10.14", "delete a.b", "add a.b", "--conn-", FIELDS),
        ("2.0.0", "delete a.b", "add a.b", "--conn-", [*FIELDS, DESCRIPTION]),
    ],
)
def test_two_commands_for_one(
    version: str, deleting: str, adding: str, prefix: str, fields: list[str]
) -> None:
    syntax = choose(version)
    assert not syntax.writes_many
    delete, add = syntax.list_commands([ONE])
    assert (delete.file, add.file) == (None, None)
    assert delete.words == ["connections", *deleting.split()]
    options = [prefix + field for field in fields]
    assert add.words == ["connections", *adding.split(), *options]
    bare = syntax.list_commands([TWO])[1].words
    assert [word.partition("=")[0][7:] for word in bare[-4:]] == [
        *("type", "host", "login", "password")
    ]


@pytest.mark.parametrize(
    ("syntax", "words"),
    [(choose("2.6.0"), "--overwrite"), (AIRFLOWCTL, "-a overwrite")],
    ids=["Airflow", "airflowctl"],
)
def test_an_import_of_several(syntax: Syntax, words: str) -> None:
    assert syntax.writes_many
    (command,) = syntax.list_commands([ONE, TWO])
    assert list(command.words) == ["connections", "import", *words.split()]
    assert command.file == {"a.b": list_fields(ONE), "c": list_fields(TWO)}


def test_what_lists_them() -> None:
    assert choose("1.10.13").listing == ("connections", "--list")
    assert choose("1.10.14").listing == ("connections", "list")


# --- how it is judged ---

ADDED = "\n\tSuccessfully added `conn_id`=a.b : docker://AWS:...\n"
GONE = {
    "deleted": Outcome(0, "\n\tSuccessfully deleted `conn_id`=a.b\n\n"),
    "deleted by 2.x": Outcome(
        0, "Successfully deleted connection with `conn_id`=a.b\n"
    ),
    "absent": Outcome(0, "\n\tDid not find a connection with `conn_id`=a.b\n\n"),
    "absent in 2.x": Outcome(1, "Did not find a connection with `conn_id`=a.b\n"),
}
NOT_GONE = {
    "silent": Outcome(0, ""),
    "rolled back": Outcome(1, f"{GONE['deleted'].output}RuntimeError: locked\n"),
    "twice there": Outcome(
        0, "\n\tFound more than one connection with `conn_id`=a.b\n"
    ),
    "another": Outcome(0, "Successfully deleted connection with `conn_id`=a.b.c\n"),
}
COME = {
    "added": Outcome(0, ADDED),
    "added by 2.x": Outcome(
        0, "Successfully added `conn_id`=a.b : docker://AWS:***@h\n"
    ),
    "and no more": Outcome(0, "Successfully added `conn_id`=a.b"),
    "among other lines": Outcome(0, f"[2026-11-26] INFO - a.b\n{ADDED}bye\n"),
    "there": Outcome(1, "A connection with `conn_id`=a.b already exists.\n"),
}
NOT_COME = {
    "silent": Outcome(0, ""),
    "rolled back": Outcome(1, f"{ADDED}RuntimeError: server closed\n"),
    "another": Outcome(0, "Successfully added `conn_id`=a.bc : docker://\n"),
}


def test_delete_and_add_is_judged() -> None:
    find_failure = choose("2.5.3").find_failure
    for deleted in GONE.values():
        for added in COME.values():
            assert find_failure("a.b", [deleted, added]) is None
        for added in NOT_COME.values():
            assert find_failure("a.b", [deleted, added]) is added
    for deleted in NOT_GONE.values():
        for added in (*COME.values(), *NOT_COME.values()):
            assert find_failure("a.b", [deleted, added]) is deleted


IMPORTED = {
    "before an error": (
        "Imported connection c\nImported connection a.b \r\nTraceback ...\n",
        True,
    ),
    "longer": ("Imported connection a.bc\n", False),
    "dot": ("Imported connection axb\n", False),
    "skipped": ("Could not import connection. a.b has to be made of ...\n", False),
}


@pytest.mark.parametrize(("output", "is_there"), IMPORTED.values(), ids=IMPORTED)
def test_an_import_is_judged(output: str, is_there: bool) -> None:
    outcome = Outcome(1, output)
    failure = choose("2.6.0").find_failure("a.b", [outcome])
    assert failure is (None if is_there else outcome)


IMPORTED_BY_API = {
    "with another": ("Successfully imported ['c', 'a.b'] connection(s)\n", True),
    "others": ("Successfully imported ['axb', 'ba.b'] connection(s)\n", False),
    "failed": ("Failed to import connections ['a.b']\n", False),
}


@pytest.mark.parametrize(
    ("output", "is_there"), IMPORTED_BY_API.values(), ids=IMPORTED_BY_API
)
def test_an_import_by_the_api_is_judged(output: str, is_there: bool) -> None:
    outcome = Outcome(0, output)
    failure = AIRFLOWCTL.find_failure("a.b", [outcome])
    assert failure is (None if is_there else outcome)
