"""Sends itself a signal as an import ends, where Python may lose it. Run by test_process.

Python waits there for a lock, in a callback that may raise nothing. Its argument is the
signal's number.
"""

import _imp
import os
import sys
import threading
import time
from importlib import _bootstrap

from _ecr_airflow_sync.process import prepare_process

number = int(sys.argv[1])
is_held = threading.Event()


def hold_lock_of_imports() -> None:
    _imp.acquire_lock()
    is_held.set()
    time.sleep(0.1)
    os.kill(os.getpid(), number)
    time.sleep(0.1)
    _imp.release_lock()


prepare_process(quiet=True, verbose=False)
lock = [_bootstrap._get_module_lock("a module")]  # type: ignore[attr-defined]
threading.Thread(target=hold_lock_of_imports, daemon=True).start()
is_held.wait()
lock.clear()
time.sleep(10)
