"""The command as a process: its logging, its signals, what it leaves behind."""

from __future__ import annotations

import logging
import random
import resource
import signal
import sys
import time
from contextlib import suppress

log = logging.getLogger("ecr_airflow_sync")


def prepare_process(quiet: bool, verbose: bool) -> None:
    signal.signal(signal.SIGTERM, _exit)
    _forbid_core_dumps()
    _configure_logging(quiet, verbose)


def _exit(number: int, _frame: object) -> None:
    """SIGTERM as an exception, so that what was begun is tidied up."""
    raise SystemExit(128 + number)


def _forbid_core_dumps() -> None:
    """One would hold tokens. What is started here inherits it: Airflow's Python too."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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


def wait_a_moment(splay: int) -> None:
    """A fleet's crons fire at once. Nobody waits at a terminal."""
    in_terminal = any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout))
    if splay and not in_terminal:
        time.sleep(random.uniform(0, splay))  # noqa: S311 - no secret
