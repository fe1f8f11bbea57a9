"""What the user is told of a run, on stdout: text, or one JSON document."""

from __future__ import annotations

import io
import json
import os
import sys
from datetime import datetime, timedelta, timezone

import click

from .model import UTC_FORMAT, Result, Run, format_left


def print_report(text: str) -> None:
    """In colours where it is a terminal. Raises ClickException where it is full."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a path need not be text
    try:
        click.echo(text, color=False if os.environ.get("NO_COLOR") else None)
    except BrokenPipeError:
        raise  # Click ends the program then
    except OSError as error:
        # Python flushes stdout at its end, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        why = f"the report could not be printed: {error.strerror}"
        raise click.ClickException(why) from None


def format_text(run: Run) -> str:
    """A line on the Airflow that was found, then one for each connection."""
    lines = []
    if run.airflow:
        found = run.airflow
        version = f"Airflow {found.version}"
        method = f"by {found.method}"
        if found.remark:
            method += f" ({found.remark})"
        lines.append(", ".join([version, found.executable, found.place, method]))
    elif all(result.status == "fresh" for result in run.results):
        lines.append("Nothing is due, so Airflow was left alone.")
    width = max(len(result.conn_id) for result in run.results)
    lines += [_format_line(result, width) for result in run.results]
    return "\n".join(lines)


def _format_line(result: Result, width: int) -> str:
    conn_id = f"{result.conn_id:{width}}"
    if result.error:
        return f"{conn_id}  {click.style(result.status, fg='red')}"
    line = f"{conn_id}  {result.status:7}  {result.host}"
    if result.expires_at:
        line += f", {_format_until(result.expires_at)}"
    if result.remark:
        line += f", {result.remark}"
    return line


def _format_until(expires_at: datetime) -> str:
    left = expires_at - datetime.now(timezone.utc)
    if left <= timedelta(0):
        return f"expired at {expires_at.strftime(UTC_FORMAT)}"
    clock = "%H:%M UTC" if left < timedelta(hours=24) else UTC_FORMAT
    return f"until {expires_at.strftime(clock)} ({format_left(expires_at)})"


def format_json(run: Run) -> str:
    """The document that docs/options.md, "The report as JSON", describes."""
    found = run.airflow
    document = {
        "airflow": {
            "executable": found.executable if found else None,
            "version": found.version if found else None,
            "method": found.method if found else None,
        },
        "connections": [_list_facts(result) for result in run.results],
    }
    return json.dumps(document, indent=2)


def _list_facts(result: Result) -> dict[str, str | None]:
    expires_at = result.expires_at
    return {
        "conn_id": result.conn_id,
        "registry": result.registry,
        "region": result.region,
        "host": result.host,
        "expires_at": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ") if expires_at else None,
        "status": result.status,
        "error": result.error,
    }
