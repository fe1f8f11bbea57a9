"""What the user is told of a run, on stdout: text, or one JSON document."""

from __future__ import annotations

import io
import json
import os
import sys
from datetime import datetime, timezone

import click

from .model import UTC_FORMAT, Result, Run


def print_report(text: str) -> None:
    """Raises ClickException where stdout takes nothing more."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a path need not be text
    try:
        click.echo(text)
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
        method = f"{found.method} ({found.remark})" if found.remark else found.method
        lines.append(", ".join([version, found.executable, found.place, method]))
    elif all(result.status == "fresh" for result in run.results):
        lines.append("Nothing is due, so Airflow was left alone.")
    width = max(len(result.conn_id) for result in run.results)
    lines += [_format_line(result, width) for result in run.results]
    return "\n".join(lines)


def _format_line(result: Result, width: int) -> str:
    line = f"{result.conn_id:{width}}  {result.status:7}"
    if not result.error:
        line += f"  {result.host}"
        if result.expires_at:
            line += f", valid for {_format_left(result.expires_at)}"
            line += f", until {result.expires_at.strftime(UTC_FORMAT)}"
    return line.rstrip()


def _format_left(expires_at: datetime) -> str:
    left = expires_at - datetime.now(timezone.utc)
    minutes = round(left.total_seconds() / 60)
    if minutes <= 0:
        return "no more"
    return f"{minutes // 60} h {minutes % 60} min"


def format_json(run: Run) -> str:
    """The document that README's "As JSON" describes."""
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
