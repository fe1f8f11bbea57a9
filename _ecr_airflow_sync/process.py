"""The command as a process: its logging, its signals, what it leaves behind."""

from __future__ import annotations

import logging
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

LOOK_AGAIN = 0.01  # seconds after a signal came in the middle of an import

log = logging.getLogger("ecr_airflow_sync")


def prepare_process(quiet: bool, verbose: bool) -> None:
    signal.signal(signal.SIGTERM, _end_run)
    if (
        signal.getsignal(signal.SIGINT) == signal.default_int_handler
    ):  # a script's & ignores it
        signal.signal(signal.SIGINT, _end_run)
    _forbid_core_dumps()
    _configure_logging(quiet, verbose)


def _end_run(number: int, frame: FrameType | None) -> None:
    """A signal as an exception, so that what was begun is tidied up.

    Within an import it is put off, and looked at again soon. There the exception may be
    lost, with the lock of imports still held: whoever imports next waits for ever.
    """
    if frame and frame.f_code.co_filename.startswith("<frozen importlib"):
        signal.signal(signal.SIGALRM, lambda _, later: _end_run(number, later))
        signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN)
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
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
