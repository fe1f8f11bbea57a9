"""Threads that no run has to wait for: Ctrl-C and a deadline end the waiting."""

from __future__ import annotations

import time
from functools import partial
from threading import Thread
from typing import Callable, Iterable, TypeVar

from .errors import StepFailed
from .leftovers import end_programs

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
    """The answers that came in time. A ThreadPoolExecutor would wait for the others.

    No thread is waited for any longer then, and what it has started is ended.
    """
    answers: dict[Item, Answer] = {}
    threads: dict[Item, Thread] = {}

    def run(item: Item) -> None:
        answers[item] = job(item)

    deadline = time.monotonic() + seconds
    try:
        for item in items:
            threads[item] = start_thread(partial(run, item))
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return dict(answers)
    finally:  # also after Ctrl-C and SIGTERM
        for item, thread in threads.items():
            if item not in answers:
                end_programs(thread)
