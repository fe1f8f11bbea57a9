"""Ends the programs that a thread waits for without end.

boto3 runs a profile's credential_process, in the thread that asks for credentials.
Linux alone tells which thread started a program; elsewhere it is left to itself.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from threading import Thread


def end_programs(thread: Thread) -> None:
    """Kill what the thread has started, and all that those have started."""
    # Not SIGTERM: a shell ends by that, and leaves what it has started to itself.
    for pid in _list_descendants(f"/proc/self/task/{thread.native_id}"):
        with suppress(OSError):  # it is gone, or another user's
            os.kill(pid, signal.SIGKILL)


def _list_descendants(task: str) -> list[int]:
    """Parents come before their children."""
    try:
        with open(f"{task}/children", encoding="ascii") as file:
            children = file.read().split()
    except OSError:
        return []
    found = []
    for child in children:
        found.append(int(child))
        with suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{child}/task"):
                found += _list_descendants(f"/proc/{child}/task/{thread}")
    return found
