"""Threads: answers that come in time, and none that keep the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from _ecr_airflow_sync.errors import StepFailed
from _ecr_airflow_sync.side_by_side import run_side_by_side, start_thread
from tests.support.command import ROOT

from .conftest import catch


def square(number: int) -> int:
    return number * number


def test_each_answer_by_its_item() -> None:
    assert run_side_by_side(square, [3, 1, 2], 60) == {3: 9, 1: 1, 2: 4}
    assert run_side_by_side(square, [], 60) == {}


def test_what_is_late_is_left_out() -> None:
    late = threading.Event()

    def answer(item: str) -> str:
        if item == "late":
            late.wait(10)
        return item

    began = time.monotonic()
    answers = run_side_by_side(answer, ["late", "early"], 0.1)
    assert 0.1 <= time.monotonic() - began < 5
    assert answers == {"early": "early"}
    late.set()


def test_a_thread_does_not_outlive_the_process() -> None:
    program = (
        "import time\n"
        "from _ecr_airflow_sync.side_by_side import start_thread\n"
        "start_thread(lambda: time.sleep(60))\n"
    )
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=ROOT, check=True, timeout=30)


def test_no_thread_can_start() -> None:
    """As no stack of this size fits into memory."""
    before = threading.stack_size(2**46)
    try:
        why = "can't start new thread; see ulimit -u"
        assert catch(StepFailed, start_thread, time.time) == why
        assert catch(StepFailed, run_side_by_side, square, [1], 60) == why
    finally:
        threading.stack_size(before)
