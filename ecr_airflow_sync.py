"""Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

A token dies after twelve hours, and with it the connection that DockerOperator logs in
with. This command asks ECR for new ones, and has Airflow's own command line write them.
Data flows one way: targets (what is asked for), tokens (what ECR grants), connections
(what Airflow is to hold), results (what became of them). The rooms are in
_ecr_airflow_sync/, one for each step; this file is the command, and what Python callers
import.
"""

# /// script
# requires-python = ">=3.8"
# dependencies = ["boto3>=1.28", "click>=8.0"]
# ///

from __future__ import annotations

import importlib
import logging
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Iterable, Mapping, Sequence

import click

from _ecr_airflow_sync.airflow import Airflow, RunningAirflow
from _ecr_airflow_sync.check import check_connections, validate_for_check
from _ecr_airflow_sync.config_file import read_config
from _ecr_airflow_sync.errors import StepFailed, SyncError, UsageError
from _ecr_airflow_sync.help_page import Command
from _ecr_airflow_sync.metrics import require_prometheus_client, write_metrics
from _ecr_airflow_sync.model import (
    DEFAULT_CONN_ID,
    UTC_FORMAT,
    Connection,
    Result,
    Run,
    Target,
    Token,
    name_variable,
)
from _ecr_airflow_sync.options import name_as_given, take_options
from _ecr_airflow_sync.report import format_json, format_text, print_report
from _ecr_airflow_sync.side_by_side import start_thread
from _ecr_airflow_sync.state import State
from _ecr_airflow_sync.targets import combine_targets, validate_targets
from _ecr_airflow_sync.tokens import Granted, fetch_tokens

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
) -> list[Result]:
    """Fetch a token for each target, have Airflow hold it, and say what became of each.

    With ``renew_before``, what this host wrote is left alone if it has so many seconds
    to live. ``dry_run`` writes nothing. ``check`` asks no AWS either: it says whether
    DockerOperator could log in now.

    Raises UsageError for what cannot be done as asked; at the end SyncError, which has
    all results, if a connection is not as it should be.
    """
    if check:
        run = _check(targets, airflow)
    else:
        run = _renew(targets, airflow, dry_run, renew_before)
    if _has_failed(run):
        raise SyncError(run.results)
    return run.results


def _has_failed(run: Run) -> bool:
    return any(result.error for result in run.results)


def _check(targets: Sequence[Target], airflow: Airflow) -> Run:
    targets = validate_targets(targets)
    validate_for_check(targets)
    log.info("Asking Airflow for %d connection(s) ...", len(targets))
    try:
        with airflow.start(import_now=False) as running:
            held = running.read(target.conn_id for target in targets)
            results = check_connections(targets, held, running.variables)
    except StepFailed as failure:
        return Run([Result.failed(target, str(failure)) for target in targets])
    return Run(results, running.found)


def _renew(
    targets: Sequence[Target], airflow: Airflow, dry_run: bool, renew_before: float
) -> Run:
    targets = validate_targets(targets)
    state = State.load(airflow.command)
    results = state.find_fresh(targets, renew_before) if renew_before else {}
    due = [target for target in targets if target not in results]
    renewed = Run([])
    try:
        if due:
            renewed = _renew_due(due, airflow, dry_run)
            results.update(zip(due, renewed.results))
    finally:  # also after Ctrl-C: then nobody knows what became of those
        if not dry_run:
            state.record({target: results.get(target) for target in targets})
            state.save(is_needed=renew_before > 0)
    told = []
    for target in targets:
        result = results[target]
        told.append(state.explain_failure(target, result) if result.error else result)
    return Run(told, renewed.airflow)


def _renew_due(targets: Sequence[Target], airflow: Airflow, dry_run: bool) -> Run:
    """The tokens are fetched while Airflow is imported."""
    found = None
    start_thread(_import_boto3)
    try:
        with airflow.start(import_now=not dry_run) as running:
            found = running.found
            credentials = running.read(t.aws_conn_id for t in targets if t.aws_conn_id)
            granted = fetch_tokens(targets, credentials)
            errors = {} if dry_run else _write(granted.values(), running)
            found = running.found
    except StepFailed as failure:
        results = [Result.failed(target, str(failure)) for target in targets]
        return Run(results, found)
    results = [_conclude(t, granted[t], errors, dry_run) for t in targets]
    return Run(results, found)


def _import_boto3() -> None:
    """It takes a while, which passes as Airflow's interpreter starts."""
    with suppress(Exception):  # whoever needs it will say so
        importlib.import_module("boto3")


def _write(granted: Iterable[Granted], running: RunningAirflow) -> dict[str, str]:
    """Why connections were not written, by their ids."""
    tokens = [token for token in granted if isinstance(token, Token)]
    for token in tokens:
        _warn(token, running)
    return running.write([Connection.holding(token) for token in tokens])


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
    target: Target, granted: Granted, errors: Mapping[str, str], dry_run: bool
) -> Result:
    if isinstance(granted, StepFailed):
        return Result.failed(target, str(granted))
    if granted.conn_id in errors:
        return Result.unwritten(granted, errors[granted.conn_id])
    if dry_run:
        return Result.planned(granted)
    return Result.written(granted)


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
    signal.signal(signal.SIGTERM, _exit)
    _forbid_core_dumps()
    _configure_logging(options["quiet"], options["verbose"])
    if options["metrics_file"]:
        require_prometheus_client()
    targets = _read_targets(options)
    airflow = Airflow(
        command=options["airflow"],
        timeout=options["timeout"],
        version=options["airflow_version"] or "",
        method=options["method"],
    )
    _wait_a_moment(options["splay"])

    began = time.monotonic()
    if options["check"]:
        run = _check(targets, airflow)
    else:
        renew_before = 0 if options["force"] else options["renew_before"]
        run = _renew(targets, airflow, options["dry_run"], renew_before)
    if options["metrics_file"] and not (options["check"] or options["dry_run"]):
        seconds = time.monotonic() - began
        write_metrics(options["metrics_file"], run.results, seconds, __version__)
    _tell(run, options["json"], options["quiet"])
    click.get_current_context().exit(1 if _has_failed(run) else 0)


def _forbid_core_dumps() -> None:
    """One would hold tokens. What is started here inherits it: Airflow's Python too."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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


def _exit(number: int, _frame: object) -> None:
    """SIGTERM as an exception, so that what was begun is tidied up."""
    raise SystemExit(128 + number)


def _configure_logging(quiet: bool, verbose: bool) -> None:
    """Progress is for a terminal: under cron, it would be mail."""
    log.addHandler(logging.StreamHandler())
    if quiet:
        log.setLevel(logging.ERROR)
    elif verbose:
        log.setLevel(logging.DEBUG)
    elif sys.stderr and sys.stderr.isatty():  # None where it was closed
        log.setLevel(logging.INFO)
    else:
        log.setLevel(logging.WARNING)


def _read_targets(options: Mapping[str, Any]) -> list[Target]:
    common = Target(
        conn_id=options["conn_id"],
        profile=options["profile"],
        role_arn=options["role_arn"],
        external_id=options["external_id"],
        aws_conn_id=options["aws_conn_id"],
        host=options["host"],
        extra=options["conn_extra"],
    )
    if options["config"]:
        _refuse_beside_config(options)
        return read_config(options["config"], common)
    return combine_targets(common, options["region"], options["registry"])


def _refuse_beside_config(options: Mapping[str, Any]) -> None:
    in_the_file = {"region": (), "registry": (), "conn_id": DEFAULT_CONN_ID}
    given = [name for name, nothing in in_the_file.items() if options[name] != nothing]
    if given:
        names = " and ".join(name_as_given(name) for name in given)
        raise UsageError(
            f"{names} cannot be used with {name_as_given('config')}: "
            "regions, registries and connection ids stand in the file"
        )


def _wait_a_moment(splay: int) -> None:
    """A fleet's crons fire at once. Nobody waits at a terminal."""
    in_terminal = any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout))
    if splay and not in_terminal:
        time.sleep(random.uniform(0, splay))  # noqa: S311 - no secret


if __name__ == "__main__":
    main(prog_name="ecr-airflow-sync")
