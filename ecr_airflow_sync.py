"""Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

A token dies after twelve hours, and with it the connection that DockerOperator logs in
with. This command asks ECR for new ones, and has Airflow's own command line write them.
Data flows one way: targets (what is asked for), tokens (what ECR grants), connections
(what Airflow is to hold), results (what became of them). Each step has a file in
_ecr_airflow_sync/; this one is the command, and what Python callers import.
"""

# /// script
# requires-python = ">=3.8"
# dependencies = ["boto3>=1.28", "click>=8.0"]
# ///

from __future__ import annotations

import importlib
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Collection, Mapping, Sequence

import click

from _ecr_airflow_sync.airflow import Airflow
from _ecr_airflow_sync.check import check_connections, validate_for_check
from _ecr_airflow_sync.errors import (
    ConnectionMissing,
    StepFailed,
    SyncError,
    UsageError,
)
from _ecr_airflow_sync.help_page import Command
from _ecr_airflow_sync.metrics import require_prometheus_client, write_metrics
from _ecr_airflow_sync.model import (
    UTC_FORMAT,
    Connection,
    HeldConnection,
    Result,
    Run,
    Target,
    Token,
    name_variable,
)
from _ecr_airflow_sync.options import read_targets, take_options
from _ecr_airflow_sync.ownership import describe, find_foreign
from _ecr_airflow_sync.process import prepare_process, wait_a_moment
from _ecr_airflow_sync.report import format_json, format_text, print_report
from _ecr_airflow_sync.side_by_side import start_thread
from _ecr_airflow_sync.state import State
from _ecr_airflow_sync.targets import find_clashes, validate_targets
from _ecr_airflow_sync.tokens import Granted, fetch_tokens

if TYPE_CHECKING:
    from _ecr_airflow_sync.running_airflow import RunningAirflow

__version__ = "0.1.0"
__all__ = ["Airflow", "Result", "SyncError", "Target", "UsageError", "main", "sync"]

SHORT_LIFE = 3600  # seconds; ECR's tokens live for twelve hours

log = logging.getLogger("ecr_airflow_sync")


def sync(
    targets: Sequence[Target],
    airflow: Airflow,
    *,
    check: bool = False,
    dry_run: bool = False,
    renew_before: float = 0,
    replace: bool = False,
) -> list[Result]:
    """Fetch a token for each target, have Airflow hold it, and say what became of each.

    With ``renew_before``, what this host wrote is left alone if it has so many seconds
    to live. Somebody else's connection is replaced only with ``replace``. ``dry_run``
    writes nothing. ``check`` asks no AWS either: it says whether
    DockerOperator could log in now.

    Raises UsageError for what cannot be done as asked; at the end SyncError, which has
    all results, if a connection is not as it should be.
    """
    if check:
        run = _check(targets, airflow)
    else:
        run = _renew(targets, airflow, dry_run, renew_before, replace)
    if _has_failed(run):
        raise SyncError(run.results)
    return run.results


def _has_failed(run: Run) -> bool:
    return any(result.error for result in run.results)


def _check(targets: Sequence[Target], airflow: Airflow) -> Run:
    targets = validate_targets(targets)
    validate_for_check(targets)
    log.info("Asking Airflow for %d connection(s) ...", len(targets))
    found = None
    try:
        with airflow.start(import_now=False) as running:
            found = running.found
            held = running.read(target.conn_id for target in targets)
            results = check_connections(targets, held, running.variables)
    except StepFailed as failure:
        return Run([Result.failed(target, str(failure)) for target in targets], found)
    return Run(results, found)


def _renew(
    targets: Sequence[Target],
    airflow: Airflow,
    dry_run: bool,
    renew_before: float,
    replace: bool,
) -> Run:
    targets = validate_targets(targets)
    state = State.load(airflow.command)
    results = state.find_fresh(targets, renew_before) if renew_before else {}
    due = [target for target in targets if target not in results]
    renewed = Run([])
    try:
        if due:
            known = state.list_conn_ids()
            taken = [fresh.conn_id for fresh in results.values()]
            taken += [t.aws_conn_id for t in targets if t.aws_conn_id]
            renewed = _renew_due(due, airflow, known, taken, dry_run, replace)
            results.update(zip(due, renewed.results))
    finally:  # also after Ctrl-C: then nobody knows what became of those
        if not dry_run:
            state.record({target: results.get(target) for target in targets})
            state.save(is_needed=renew_before > 0)
    told = [state.explain_failure(target, results[target]) for target in targets]
    return Run(told, renewed.airflow)


def _renew_due(
    targets: Sequence[Target],
    airflow: Airflow,
    known: Collection[str],
    taken: Collection[str],
    dry_run: bool,
    replace: bool,
) -> Run:
    """Fetch the tokens, while Airflow is imported, and have Airflow hold them.

    The connections whose ids are ``known`` are this command's to replace, but not those
    whose ids are ``taken``.
    """
    found = None
    try:
        start_thread(_import_boto3)
        with airflow.start(import_now=True) as running:
            found = running.found
            credentials = running.read(t.aws_conn_id for t in targets if t.aws_conn_id)
            granted = fetch_tokens(targets, credentials)
            tokens = [token for token in granted.values() if isinstance(token, Token)]
            for token in tokens:
                _warn(token, running)
            clashes = find_clashes(tokens, taken)
            ours = [token for token in tokens if token.conn_id not in clashes]
            connections = [Connection.holding(token) for token in ours]
            unknown = [c for c in connections if c.conn_id not in known]
            to_judge = [] if replace else unknown
            remarks = None
            if dry_run:
                errors, remarks = _plan(connections, to_judge, running)
            else:
                errors = _write(connections, to_judge, running)
            errors.update(clashes)
            found = running.found
    except StepFailed as failure:
        return Run([Result.failed(t, str(failure)) for t in targets], found)
    return Run([_conclude(t, granted[t], errors, remarks) for t in targets], found)


def _write(
    connections: Sequence[Connection],
    to_judge: Sequence[Connection],
    running: RunningAirflow,
) -> dict[str, str]:
    """Why connections were not written, by their ids.

    Those ``to_judge`` may be somebody else's.
    """
    held = running.look_up(connection.conn_id for connection in to_judge)
    foreign = find_foreign(to_judge, held)
    ours = [c for c in connections if c.conn_id not in foreign]
    return {**foreign, **running.write(ours)}


def _plan(
    connections: Sequence[Connection],
    to_judge: Sequence[Connection],
    running: RunningAirflow,
) -> tuple[dict[str, str], dict[str, str]]:
    """Why connections would not be written, and how others would, by their ids."""
    running.open_database()
    held = running.look_up(connection.conn_id for connection in connections)
    errors = find_foreign(to_judge, held)
    remarks = {}
    for conn_id, there in held.items():
        if isinstance(there, HeldConnection):
            if there.in_database:
                remarks[conn_id] = f"replaces the one {describe(there)}"
        elif isinstance(there, ConnectionMissing):
            remarks[conn_id] = "new"
        else:
            errors[conn_id] = str(there)
    return errors, remarks


def _import_boto3() -> None:
    """It takes a while, which passes as Airflow's interpreter starts."""
    with suppress(Exception):  # whoever needs it will say so
        importlib.import_module("boto3")


def _warn(token: Token, running: RunningAirflow) -> None:
    left = token.expires_at.timestamp() - time.time()
    if left < SHORT_LIFE:
        until = token.expires_at.strftime(UTC_FORMAT)
        log.warning(
            "%s: its token is valid until %s only; is this host's clock right?",
            token.conn_id,
            until,
        )
    variable = name_variable(token.conn_id)
    if variable in running.variables:
        log.warning(
            "%s: tasks read the variable %s instead; unset it", token.conn_id, variable
        )


def _conclude(
    target: Target,
    granted: Granted,
    errors: Mapping[str, str],
    remarks: Mapping[str, str] | None,
) -> Result:
    if isinstance(granted, StepFailed):
        return Result.failed(target, str(granted))
    if granted.conn_id in errors:
        return Result.unwritten(granted, errors[granted.conn_id])
    if remarks is None:
        return Result.written(granted)
    return Result.planned(granted, remarks.get(granted.conn_id, ""))


@click.command(
    cls=Command,
    context_settings={
        "auto_envvar_prefix": "ECR_AIRFLOW_SYNC",
        "help_option_names": ["--help", "-h"],
        "show_default": True,
    },
)
@take_options
@click.version_option(
    __version__, message="%(prog)s %(version)s", allow_from_autoenv=False
)
def main(**options: Any) -> None:
    """Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

    \b
    Examples:
      ecr-airflow-sync --region us-east-1 --airflow /opt/airflow/bin/airflow
      ecr-airflow-sync --config /etc/ecr-airflow-sync.ini --quiet

    Each option is an environment variable too, such as ECR_AIRFLOW_SYNC_RENEW_BEFORE;
    blanks separate several regions or registries there. The exit status is 0 if all
    connections are well, 1 if one is not, and 2 if the command was used wrongly.
    """
    prepare_process(options["quiet"], options["verbose"])
    if options["metrics_file"]:
        require_prometheus_client()
    targets = read_targets(options)
    airflow = Airflow(
        command=options["airflow"],
        timeout=options["timeout"],
        version=options["airflow_version"] or "",
        method=options["method"],
    )
    wait_a_moment(options["splay"])

    began = time.monotonic()
    if options["check"]:
        run = _check(targets, airflow)
    else:
        renew_before = 0 if options["force"] else options["renew_before"]
        run = _renew(
            targets, airflow, options["dry_run"], renew_before, options["replace"]
        )
    if options["metrics_file"] and not (options["check"] or options["dry_run"]):
        seconds = time.monotonic() - began
        write_metrics(options["metrics_file"], run.results, seconds, __version__)
    _tell(run, options["json"], options["quiet"])
    click.get_current_context().exit(1 if _has_failed(run) else 0)


def _tell(run: Run, as_json: bool, quiet: bool) -> None:
    """The report, and below it why connections failed."""
    try:
        if as_json:
            print_report(format_json(run))
        elif not quiet:
            print_report(format_text(run))
    finally:  # stdout may be gone, as in `| head -1`
        if _has_failed(run):
            click.echo(SyncError(run.results), err=True)


if __name__ == "__main__":
    main(prog_name="ecr-airflow-sync")
