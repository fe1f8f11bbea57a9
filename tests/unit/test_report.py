"""The report: each line of the text, the whole document, and a stdout that is gone."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import click
import pytest

from _ecr_airflow_sync.model import FoundAirflow, Result, Run
from _ecr_airflow_sync.report import format_json, format_text, print_report

from .conftest import UNTIL, catch

FOUND = FoundAirflow("/opt/bin/airflow", "2.11.2", "AIRFLOW_HOME /srv", "import")
# click.echo takes the colours out where stdout is no terminal.
RED, RESET = "\x1b[31m", "\x1b[0m"
FAILED = Result("b", "failed", error="no")


def test_a_line_for_airflow_and_one_for_each_connection() -> None:
    results = [
        Result("docker_default", "planned", host="a.example"),
        Result("b", "failed", host="b.example", expires_at=UNTIL, error="no"),
        Result("c", "wrong host", host="c.example", error="no"),
    ]
    assert format_text(Run(results, FOUND)).splitlines() == [
        "Airflow 2.11.2, /opt/bin/airflow, AIRFLOW_HOME /srv, by import",
        "docker_default  planned  a.example",
        f"b               {RED}failed{RESET}",
        f"c               {RED}wrong host{RESET}",
    ]


def test_no_airflow() -> None:
    fresh = Result("a", "fresh", host="a.example")
    line = "a  fresh    a.example"
    nothing = "Nothing is due, so Airflow was left alone."
    assert format_text(Run([fresh])).splitlines() == [nothing, line]
    told = format_text(Run([fresh, FAILED])).splitlines()
    assert told == [line, f"b  {RED}failed{RESET}"]


def test_how_long_a_token_is_valid() -> None:
    told = {
        12: "until %H:%M UTC (12 h)",
        48: "until %Y-%m-%d %H:%M UTC (48 h)",
        -1: "expired at %Y-%m-%d %H:%M UTC",
    }
    for hours, words in told.items():
        until = datetime.now(timezone.utc) + timedelta(hours=hours)
        result = Result("a", "written", host="a.example", expires_at=until)
        line = format_text(Run([result], FOUND)).splitlines()[1]
        assert line == f"a  written  a.example, {until.strftime(words)}"


def test_remarks() -> None:
    """On the method, and on what a dry run found."""
    found = replace(FOUND, remark="not in one transaction")
    result = Result("a", "planned", host="a.example", remark="new")
    airflow, line = format_text(Run([result], found)).splitlines()
    assert airflow.endswith("AIRFLOW_HOME /srv, by import (not in one transaction)")
    assert line == "a  planned  a.example, new"


def test_no_colour_for_whoever_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal, which a StringIO plays."""
    printed = io.StringIO()
    monkeypatch.setattr(printed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", printed)
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        print_report(click.style("failed", fg="red"))
    assert printed.getvalue() == f"{RED}failed{RESET}\nfailed\n"


def test_the_document() -> None:
    written = Result("a", "written", "111111111111", "us-east-1", "a.example", UNTIL)
    document = json.loads(format_json(Run([written, FAILED], FOUND)))
    names = ["conn_id", "registry", "region", "host", "expires_at", "status", "error"]
    one = ("a", "111111111111", "us-east-1", "a.example", "2030-01-02T03:04:05Z")
    assert document == {
        "airflow": {
            "executable": "/opt/bin/airflow",
            "version": "2.11.2",
            "method": "import",
        },
        "connections": [
            dict(zip(names, (*one, "written", None))),
            dict(zip(names, ("b", None, None, None, None, "failed", "no"))),
        ],
    }
    nothing = json.loads(format_json(Run([FAILED])))["airflow"]
    assert nothing == {"executable": None, "version": None, "method": None}


# --- stdout ---


def test_a_path_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "utf-8"))
    print_report("AIRFLOW_HOME /srv/\udcff, M\u00fcller")
    sys.stdout.flush()
    assert printed.getvalue() == b"AIRFLOW_HOME /srv/?, M\xc3\xbcller\n"


def test_a_stdout_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a caller's StringIO, or none at all."""
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    print_report("text")
    assert printed.getvalue() == "text\n"
    monkeypatch.setattr(sys, "stdout", None)
    print_report("text")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_stdout_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        told = catch(click.ClickException, print_report, "text")
    # It was closed without an error: what was not printed went to /dev/null.
    assert told == "the report could not be printed: No space left on device"


def test_a_reader_that_is_gone_is_clicks_concern(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = os.pipe()
    os.close(read)
    pipe = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    with pytest.raises(BrokenPipeError):
        print_report("text")
    with pytest.raises(BrokenPipeError):
        pipe.close()
