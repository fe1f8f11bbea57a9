"""Runs the airflow script in its own Python, one process for all commands of a run.

Sent over stdin by interpreter.py, and run by Python 3.6 or later, wherever Airflow is;
so it imports nothing of ours.

In: the path of the script and a marker, as arguments. On stdin, a line of JSON for each
request: {"action": a method of _Actions, "arguments": {...}, "seconds": after which
everything is killed}. Out, on stdout: what the action prints, stderr too, then a line
that begins with the marker: {"status": the exit status that a command would have}.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from typing import Any, Dict, List, Optional

PROCESS = os.getpid()


def main() -> None:
    script, marker = sys.argv[1:]
    # The collector would run all through Airflow's import, for nothing: without it, the
    # import takes a fifth less on 2.11, a tenth on 3.3, and no more memory.
    gc.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold tokens
    sys.path.insert(0, os.path.dirname(script))  # as Python has it for a script
    # Whatever Airflow imports or starts finds stdin empty: ours is not descriptor 0.
    requests = sys.stdin
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    folder = os.path.join(tempfile.gettempdir(), "ecr-airflow-sync-" + marker)
    os.mkdir(folder, 0o700)
    signal.signal(signal.SIGTERM, lambda *_: _end_all(folder))
    if hasattr(os, "register_at_fork"):  # Python 3.7
        os.register_at_fork(
            before=_hold_sigterm,
            after_in_parent=_release_sigterm,
            after_in_child=_restore_sigterm,
        )
    actions = _Actions(script, folder)
    for line in iter(requests.readline, ""):  # `for line in requests` reads ahead
        request = json.loads(line)
        watch = threading.Timer(request["seconds"], _end_all, [folder])
        watch.daemon = True
        watch.start()
        status = _carry_out(getattr(actions, request["action"]), request["arguments"])
        watch.cancel()
        _answer(marker, status)
    shutil.rmtree(folder, ignore_errors=True)
    # Python takes half a second and more to take itself apart. What Airflow and plugins
    # left for the end is done all the same, such as airflow.settings.dispose_orm.
    atexit._run_exitfuncs()
    os._exit(0)


def _restore_sigterm() -> None:
    """What Airflow or a plugin forks, as by multiprocessing, ends by it alone.

    It is held around the fork: Python drops a signal for which it has a handler, if
    that reaches a child in the making. Whoever sent it would wait for ever.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release_sigterm()


def _hold_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_all(folder: str) -> None:
    """End this process and its children, for behind sudo nobody else can."""
    if os.getpid() != PROCESS:  # a child that Airflow forked, on Python 3.6
        _restore_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
    os._exit(137)  # as process 1 of a container, which no signal kills


def _carry_out(action: Any, arguments: Dict[str, Any]) -> int:
    """The exit status. What went wrong is printed."""
    status = 0
    try:
        action(**arguments)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            status = end.code or 0
        else:
            sys.stderr.write("%s\n" % end.code)
            status = 1
    except BaseException:  # noqa: BLE001 - as Python does at its end
        status = 1
        with suppress(OSError):
            traceback.print_exc()
    if os.getpid() != PROCESS:  # a child that Airflow forked, come to its end
        os._exit(status)
    return status


def _answer(marker: str, status: int) -> None:
    with suppress(OSError, ValueError):  # nobody listens any more, as stdin will tell
        sys.stdout.flush()
        sys.stderr.flush()
        line = "\n%s%s\n" % (marker, json.dumps({"status": status}))
        os.write(1, line.encode("ascii"))


class _Actions:
    """What a request can ask for. ``argv`` follows the script's path in sys.argv."""

    def __init__(self, script: str, folder: str) -> None:
        self._script = script
        self._folder = folder
        self._stdout = sys.stdout
        self._stderr = sys.stderr

    def execute(self, source: str, filename: str, argv: List[str]) -> None:
        """Run another program of ours."""
        self._set_up(argv)
        exec(compile(source, filename, "exec"), {"__name__": "__main__"})  # noqa: S102

    def run(
        self, argv: List[str], file: Optional[Dict[str, Any]], run_name: str
    ) -> None:
        """Run the airflow script under that __name__.

        A file is given to it as one more word, a path that ends in .json.
        """
        self._set_up(argv)
        if file:
            sys.argv.append(self._serve(file))
        runpy.run_path(self._script, run_name=run_name)

    def _set_up(self, argv: List[str]) -> None:
        sys.argv = [self._script, *argv]
        sys.stdout = self._stdout  # where a plugin has put something else
        sys.stderr = self._stderr

    def _serve(self, file: Dict[str, Any]) -> str:
        """The path of a pipe that holds it once, for no token may be in a file."""
        path = os.path.join(tempfile.mkdtemp(dir=self._folder), "connections.json")
        os.mkfifo(path, 0o600)

        def serve() -> None:
            with open(path, "w") as pipe:
                json.dump(file, pipe)

        threading.Thread(target=serve, daemon=True).start()
        return path


if __name__ == "__main__":
    main()
