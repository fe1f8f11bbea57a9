"""Threads that no run has to wait for: Ctrl-C and a deadline end the waiting."""

from __future__ import annotations

import time
from functools import partial
from threading import Thread
from typing import Callable, Iterable, TypeVar

from .errors import StepFailed

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def start_thread(job: Callable[[], object]) -> Thread:
    """Start a thread that does not outlive the process. Raises StepFailed."""
    thread = Thread(target=job, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise StepFailed(f"{error}; see ulimit -u") from None
    return thread


def run_side_by_side(
    job: Callable[[Item], Answer], items: Iterable[Item], seconds: float
) -> dict[Item, Answer]:
    """The answers that came in time. A ThreadPoolExecutor would wait for the others."""
    answers: dict[Item, Answer] = {}

    def run(item: Item) -> None:
        answers[item] = job(item)

    deadline = time.monotonic() + seconds
    threads = [start_thread(partial(run, item)) for item in items]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)
