"""Runs commands of the airflow script in its own Python, one process for all of them.

Sent over stdin by interpreter.py, and run by Python 3.6 or later, wherever Airflow is;
so it imports nothing of ours.

In: the path of the script and a marker, as arguments. On stdin, a line of JSON for
each request, {"commands": [[word, ...], ...], "file": object or null, "seconds":
number, "run_name": text, "uninterrupted": bool}. A file is given to the last command as
one more word, a path that ends in .json. What takes longer than ``seconds`` is killed.

Out, on stdout: what the commands print, stderr too, and lines that begin with the
marker. The first tells which Airflow this is (see _describe). Then one comes for each
command, {"status": exit status}, after what that has printed.
"""

import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from typing import Any, Dict, Iterator, List, Optional, TextIO

AIRFLOWCTL = ("airflowctl", "apache-airflow-ctl")  # its script has two names


def main() -> None:
    script, marker = sys.argv[1:]
    requests = _take_over_stdin()
    folder = os.path.join(tempfile.gettempdir(), "ecr-airflow-sync-" + marker)
    os.mkdir(folder, 0o700)
    end = _End(folder)
    signal.signal(signal.SIGTERM, end.now)
    sys.path.insert(0, os.path.dirname(script))  # as Python has it for a script
    _answer(marker, _describe(script))
    for request in _read_lines(requests):
        if request["uninterrupted"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with _Watch(request["seconds"], end):
            for words in request["commands"]:
                argv = list(words)
                if request["file"]:
                    argv.append(_serve_file(request["file"], folder))
                status = _run_to_the_end(script, argv, request["run_name"])
                _answer(marker, {"status": status})
        signal.signal(signal.SIGTERM, end.now)
    end.tidy()


def _take_over_stdin() -> TextIO:
    """The requests. Whatever Airflow imports or starts finds stdin empty."""
    requests = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return requests


def _read_lines(requests: TextIO) -> Iterator[Dict[str, Any]]:
    # Not `for line in requests`, which on a pipe reads ahead.
    for line in iter(requests.readline, ""):
        yield json.loads(line)


def _answer(marker: str, facts: Dict[str, Any]) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        line = "\n%s%s\n" % (marker, json.dumps(facts))
        os.write(1, line.encode("ascii"))
    except (OSError, ValueError):
        pass  # nobody listens any more: what was begun is finished all the same


class _End:
    """Ends this process and its children, for behind sudo nobody else can."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def tidy(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def now(self, *_: object) -> None:
        self.tidy()
        os.killpg(0, signal.SIGKILL)
        os._exit(137)  # as process 1 of a container, which no signal kills


class _Watch:
    """Ends everything where what is done within takes too long."""

    def __init__(self, seconds: float, end: _End) -> None:
        self._timer = threading.Timer(seconds, end.now)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _serve_file(content: Dict[str, Any], folder: str) -> str:
    """The path of a pipe that holds the content once: no token may be in a file."""
    path = os.path.join(tempfile.mkdtemp(dir=folder), "connections.json")
    os.mkfifo(path, 0o600)

    def serve() -> None:
        with open(path, "w") as pipe:
            json.dump(content, pipe)

    threading.Thread(target=serve, daemon=True).start()
    return path


def _run_to_the_end(script: str, argv: List[str], run_name: str) -> int:
    """Run a command, again if it stopped because nobody listens any more."""
    try:
        return _run(script, argv, run_name)
    except OSError:  # from telling why it stopped
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        return _run(script, argv, run_name)


def _run(script: str, argv: List[str], run_name: str) -> int:
    """The exit status that the command would have. Raises OSError if it cannot tell."""
    sys.argv = [script, *argv]
    try:
        runpy.run_path(script, run_name=run_name)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write("%s\n" % (end.code,))
        return 1
    except BaseException:  # noqa: BLE001 - as Python does at its end
        traceback.print_exc()
        return 1
    return 0


def _describe(script: str) -> Dict[str, Any]:
    """Which Airflow this is, without importing it, for that takes seconds."""
    is_airflowctl = os.path.basename(script) in AIRFLOWCTL
    home = os.path.expanduser(os.environ.get("AIRFLOW_HOME") or "~/airflow")
    if is_airflowctl:
        packages = ["apache-airflow-ctl"]
        place = _read_api_url(home)
    else:
        packages = ["apache-airflow", "apache-airflow-core"]
        place = "AIRFLOW_HOME " + home
    return {
        "script": script,
        "is_airflowctl": is_airflowctl,
        "version": _find_version(packages),
        "home": home,
        "place": place,
        "variables": [name for name in os.environ if name.startswith("AIRFLOW_CONN_")],
    }


def _find_version(packages: List[str]) -> Optional[str]:
    for package in packages:
        with suppress(Exception):  # each library has its own for what is not there
            return _get_version(package)
    return None


def _get_version(package: str) -> str:
    try:
        from importlib import metadata
    except ImportError:  # before Python 3.8
        import pkg_resources  # type: ignore[import-untyped,unused-ignore]

        return str(pkg_resources.get_distribution(package).version)
    return metadata.version(package)


def _read_api_url(home: str) -> str:
    """Where airflowctl is logged in, or "": it would then take http://localhost:8080."""
    name = os.environ.get("AIRFLOW_CLI_ENVIRONMENT", "production") + ".json"
    try:
        with open(os.path.join(home, name)) as file:
            return str(json.load(file)["api_url"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


if __name__ == "__main__":
    main()
