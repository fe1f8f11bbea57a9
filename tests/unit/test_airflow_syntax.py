"""Each Airflow's syntax: which it is, what is said, and how the answer is judged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

SCRIPT = "/opt/airflow/bin/airflow"
ONE = Connection("a.b", "host", "AWS", "s3cret", extra="{}", description="until then")
TWO = Connection("c", "host", "AWS", "s3cret")


def choose(version: str, method: str = "auto") -> Syntax:
    return choose_syntax(SCRIPT, version, False, method)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.11.2", (2, 11, 2)),
        ("1.10", (1, 10, 0)),
        ("2.9.3+astro.1", (2, 9, 3)),
        ("3.0.0rc1", (3, 0, 0)),
        ("3.1.dev0", (3, 1, 0)),
        ("10.0.20261126", (10, 0, 20261126)),
    ],
)
def test_the_number_that_a_version_begins_with(
    text: str, version: tuple[int, ...]
) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "2", "v2.1", " 2.1", "2.x", "two", "1234567.1"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_version(text)
    assert str(caught.value) == f"Airflow version {text!r} is not of the form X.Y.Z"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**10), max_size=4), st.text(max_size=9))
def test_any_version(numbers: list[int], rest: str) -> None:
    text = ".".join(map(str, numbers)) + rest
    try:
        version = parse_version(text)
    except UsageError:
        return
    assert len(version) == 3


@pytest.mark.parametrize(
    ("version", "method", "kind"),
    [
        ("1.10.0", "auto", DeleteAndAddByFlags),
        ("1.10.13", "delete-add", DeleteAndAddByFlags),
        ("1.10.14", "auto", DeleteAndAdd),
        ("2.0.0", "auto", DeleteAndAdd),
        ("2.5.3", "delete-add", DeleteAndAdd),
        ("2.6.0", "auto", Import),
        ("2.6.0", "import", Import),
        ("2.6.0", "delete-add", DeleteAndAdd),
        ("3.3.2", "auto", Import),
        ("9.0.0", "auto", Import),
    ],
)
def test_the_syntax_of_a_version(version: str, method: str, kind: type[Syntax]) -> None:
    syntax = choose(version, method)
    assert type(syntax) is kind
    assert method in ("auto", syntax.method)


@pytest.mark.parametrize("method", ["auto", "import"])
def test_the_syntax_of_airflowctl(method: str) -> None:
    """Whose versions are none of Airflow's."""
    assert type(choose_syntax("airflowctl", "0.1.0", True, method)) is ImportByApi


def test_what_a_version_has_not() -> None:
    with pytest.raises(UsageError) as no_import:
        choose("2.5.3", "import")
    assert str(no_import.value) == (
        f"method import needs Airflow 2.6 or later; {SCRIPT} is 2.5.3"
    )
    with pytest.raises(UsageError) as only_import:
        choose_syntax("airflowctl", "0.1.0", True, "delete-add")
    assert str(only_import.value) == "airflowctl has the method import only"
    with pytest.raises(StepFailed) as too_old:
        choose("1.9.0")
    assert str(too_old.value) == (
        f"Airflow 1.9.0 at {SCRIPT} is older than 1.10: upgrade it"
    )


@pytest.mark.parametrize(
    ("version", "is_airflowctl", "shows"),
    [
        ("1.10.15", False, False),
        ("2.0.0", False, True),
        ("3.3.2", False, True),
        ("3.3.2", True, False),
    ],
)
def test_who_shows_connections(version: str, is_airflowctl: bool, shows: bool) -> None:
    assert shows_connections(version, is_airflowctl) == shows


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


def test_flags() -> None:
    delete, add = choose("1.10.13").list_commands([ONE])
    assert (delete.file, add.file) == (None, None)
    assert delete.words == ["connections", "--delete", "--conn_id=a.b"]
    assert add.words == [
        "connections",
        "--add",
        "--conn_id=a.b",
        "--conn_type=docker",
        "--conn_host=host",
        "--conn_login=AWS",
        "--conn_password=s3cret",
        "--conn_extra={}",
    ]


@pytest.mark.parametrize(
    ("version", "description"),
    [("1.10.14", []), ("2.0.0", ["--conn-description=until then"])],
)
def test_subcommands(version: str, description: list[str]) -> None:
    delete, add = choose(version).list_commands([ONE])
    assert (delete.file, add.file) == (None, None)
    assert delete.words == ["connections", "delete", "a.b"]
    assert add.words == [
        "connections",
        "add",
        "a.b",
        "--conn-type=docker",
        "--conn-host=host",
        "--conn-login=AWS",
        "--conn-password=s3cret",
        "--conn-extra={}",
        *description,
    ]


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        (choose("2.6.0"), ["connections", "import", "--overwrite"]),
        (
            choose_syntax("airflowctl", "0.1.0", True, "auto"),
            ["connections", "import", "-a", "overwrite"],
        ),
    ],
    ids=["Airflow", "airflowctl"],
)
def test_an_import_of_several(syntax: Syntax, words: list[str]) -> None:
    assert syntax.writes_many
    (command,) = syntax.list_commands([ONE, TWO])
    assert list(command.words) == words
    assert command.file == {"a.b": list_fields(ONE), "c": list_fields(TWO)}


# --- how it is judged ---

DELETED = Outcome(0, "\n\tSuccessfully deleted `conn_id`=a.b\n\n")
DELETED_BY_2 = Outcome(0, "Successfully deleted connection with `conn_id`=a.b\n")
ABSENT = Outcome(0, "\n\tDid not find a connection with `conn_id`=a.b\n\n")
ABSENT_BY_2 = Outcome(1, "Did not find a connection with `conn_id`=a.b\n")
ROLLED_BACK = Outcome(1, DELETED.output + "RuntimeError: database is locked\n")
TWICE = Outcome(0, "\n\tFound more than one connection with `conn_id`=a.b\n\n")
OTHER_DELETED = Outcome(0, "Successfully deleted connection with `conn_id`=a.b.c\n")
ADDED = Outcome(0, "\n\tSuccessfully added `conn_id`=a.b : docker://AWS:...\n")
ADDED_BY_2 = Outcome(0, "Successfully added `conn_id`=a.b : docker://AWS:******@host\n")
ADDED_ALONE = Outcome(0, "Successfully added `conn_id`=a.b")
THERE = Outcome(1, "A connection with `conn_id`=a.b already exists.\n")
NOT_COMMITTED = Outcome(1, ADDED.output + "RuntimeError: server closed\n")
OTHER_ADDED = Outcome(0, "Successfully added `conn_id`=a.bc : docker://\n")
SILENT = Outcome(0, "")
NOISY = Outcome(0, "[2026-11-26] INFO - a.b\n" + ADDED_BY_2.output + "bye\n")

JUDGED = {
    "deleted and added": (DELETED, ADDED, None),
    "deleted and added, 2.x": (DELETED_BY_2, ADDED_BY_2, None),
    "was not there": (ABSENT, ADDED, None),
    "was not there, 2.x": (ABSENT_BY_2, ADDED_ALONE, None),
    "among other lines": (DELETED, NOISY, None),
    "another host was quicker": (DELETED, THERE, None),
    "not deleted": (SILENT, THERE, SILENT),
    "not deleted after all": (ROLLED_BACK, THERE, ROLLED_BACK),
    "two of them": (TWICE, THERE, TWICE),
    "another deleted": (OTHER_DELETED, ADDED, OTHER_DELETED),
    "not added": (DELETED, SILENT, SILENT),
    "not added after all": (DELETED, NOT_COMMITTED, NOT_COMMITTED),
    "another added": (DELETED, OTHER_ADDED, OTHER_ADDED),
}


@pytest.mark.parametrize("version", ["1.10.0", "2.5.3"])
@pytest.mark.parametrize(("deleted", "added", "failure"), JUDGED.values(), ids=JUDGED)
def test_delete_and_add_is_judged(
    deleted: Outcome, added: Outcome, failure: Outcome | None, version: str
) -> None:
    assert choose(version).find_failure("a.b", [deleted, added]) is failure


@pytest.mark.parametrize(
    ("output", "is_there"),
    [
        ("Imported connection a.b\n", True),
        ("Imported connection c\nImported connection a.b\nTraceback ...\n", True),
        ("Imported connection a.b \r\n", True),
        ("Imported connection a.bc\n", False),
        ("Imported connection axb\n", False),
        ("Could not import connection. a.b has to be made of ...\n", False),
        ("", False),
    ],
    ids=["alone", "before an error", "blanks", "longer", "dot", "skipped", "silent"],
)
def test_an_import_is_judged(output: str, is_there: bool) -> None:
    outcome = Outcome(1, output)
    failure = choose("2.6.0").find_failure("a.b", [outcome])
    assert failure is (None if is_there else outcome)


@pytest.mark.parametrize(
    ("output", "is_there"),
    [
        ("Successfully imported ['a.b'] connection(s)\n", True),
        ("Successfully imported ['c', 'a.b'] connection(s)\n", True),
        ("Successfully imported ['c'] connection(s)\n", False),
        ("Successfully imported ['axb', 'ba.b'] connection(s)\n", False),
        ("Failed to import connections ['a.b']\n", False),
    ],
    ids=["alone", "with another", "another", "others", "failed"],
)
def test_an_import_by_the_api_is_judged(output: str, is_there: bool) -> None:
    outcome = Outcome(0, output)
    syntax = choose_syntax("airflowctl", "0.1.0", True, "auto")
    assert syntax.find_failure("a.b", [outcome]) is (None if is_there else outcome)
