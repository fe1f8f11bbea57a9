"""A process of Airflow's own Python: start it, ask it, end it. It runs in_airflow.py.

Two threads stand at its pipes, so that whoever waits for it can wait with a deadline.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import signal
import time
from contextlib import contextmanager, suppress
from functools import partial
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import IO, Any, Iterator, cast

from .airflow_syntax import Command, Outcome
from .errors import StepFailed, TimedOut
from .masking import mask
from .side_by_side import start_thread

GRACE = 5.0  # seconds in which the process may end by itself
LOOK_EVERY = 1.0  # seconds
LONGEST_PIECE = 65536  # bytes of a line that are read at once
MOST_OUTPUT = 4_000_000  # bytes of what is printed that are kept
LONGEST_REASON = 500  # characters


@contextmanager
def run_interpreter(command: str, timeout: float) -> Iterator[Interpreter]:
    """The interpreter behind a command line that ends in the airflow script.

    It and what it has started have ended when the with block has. ``timeout`` is how
    many seconds all its answers together may take. Raises StepFailed.
    """
    marker = os.urandom(16).hex()
    process = _start_process(command, marker)
    interpreter = Interpreter(command, timeout, process, marker)
    at_once = True  # after an exception, Ctrl-C and SIGTERM too
    try:
        interpreter.attach()
        yield interpreter
        at_once = False
    finally:
        interpreter.end(at_once)


def _start_process(command: str, marker: str) -> Popen[bytes]:
    """The process, in a session of its own: it and its children end as one group."""
    *prefix, script = shlex.split(command)
    argv = [*prefix, "sh", "-c", _read_file("start_interpreter.sh"), script, marker]
    try:
        return Popen(
            argv, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
    except OSError as error:
        why = f"cannot run {argv[0]}: {error.strerror}"
        raise StepFailed(f"{why}; check --airflow, PATH") from None


def _find_file(name: str) -> str:
    return os.path.join(os.path.dirname(__file__), name)


def _read_file(name: str) -> str:
    with open(_find_file(name), encoding="utf-8") as file:
        return file.read()


class Interpreter:
    """Asks the process one request at a time.

    Its methods raise StepFailed where no answer comes; then none will come any more.
    """

    def __init__(
        self, command: str, timeout: float, process: Popen[bytes], marker: str
    ) -> None:
        self._command = command
        self._timeout = timeout
        self._process = process
        self._stdin = cast(IO[bytes], process.stdin)
        self._stdout = cast(IO[bytes], process.stdout)
        self._marker = marker.encode()
        self._seconds_left = timeout
        self._ends_itself_at = time.monotonic() + timeout
        self._unanswered = 0
        self._failure: StepFailed | None = None
        self._doing = "starting"
        # Lines for the two threads; b"" is the end. What is printed is bounded: who
        # prints without end has to wait.
        self._to_write: queue.Queue[bytes] = queue.Queue()
        self._printed: queue.Queue[bytes] = queue.Queue(maxsize=100)

    def attach(self) -> None:
        """Send the program that carries out all else."""
        start_thread(self._write_lines)
        start_thread(self._read_lines)
        path = _find_file("in_airflow.py")
        source = _read_file("in_airflow.py")
        # Arguments of compile(), which start_interpreter.sh calls with them.
        self._put({"source": source, "filename": path, "mode": "exec"})

    def execute(self, program: str, *argv: str) -> Outcome:
        """Run one of our programs, a file beside this one."""
        path = _find_file(program)
        self._send("execute", source=_read_file(program), filename=path, argv=argv)
        return self._receive()

    def run(self, command: Command) -> Outcome:
        """Run a command of the script."""
        self._doing = f"running {' '.join(command.words[:2])}"
        self._send_command(command, "__main__")
        return self._receive()

    def start_import(self) -> None:
        """Have the script import Airflow; ``finish_import`` has the outcome."""
        # Under another name than __main__, a script does nothing else.
        self._doing = "importing Airflow"
        self._send_command(Command([]), "imported")

    def finish_import(self) -> Outcome:
        return self._receive()

    def end(self, at_once: bool) -> None:
        """Wait for the process to end by itself, then make it end."""
        self._to_write.put(b"")
        if not at_once and not self._unanswered and self._has_ended(GRACE):
            return
        self._signal(signal.SIGTERM)
        if self._has_ended(GRACE):
            return
        self._signal(signal.SIGKILL)
        self._has_ended(GRACE)

    def _has_ended(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except TimeoutExpired:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        with suppress(OSError):  # it is gone, or another user's
            os.killpg(self._process.pid, number)

    def _send_command(self, command: Command, run_name: str) -> None:
        self._send("run", argv=command.words, file=command.file, run_name=run_name)

    def _send(self, action: str, **arguments: Any) -> None:
        """Without waiting for the answer (in_airflow.py has the actions)."""
        # A little more than ours, so that ours comes first where it reaches.
        seconds = self._seconds_left + 1
        request = {"action": action, "arguments": arguments, "seconds": seconds}
        self._ends_itself_at = time.monotonic() + seconds
        self._unanswered += 1
        self._put(request)

    def _put(self, document: object) -> None:
        self._to_write.put(f"{json.dumps(document)}\n".encode())

    def _write_lines(self) -> None:
        """In a thread: a process that does not read blocks it. At the end, close."""
        with suppress(OSError), self._stdin as pipe:  # the answers will tell
            for line in iter(self._to_write.get, b""):
                pipe.write(line)
                pipe.flush()

    def _read_lines(self) -> None:
        """In a thread: it ends with the process and all that hold its stdout."""
        with self._stdout as pipe:
            for line in iter(partial(pipe.readline, LONGEST_PIECE), b""):
                self._printed.put(line)
        self._printed.put(b"")

    def _receive(self) -> Outcome:
        """The next answer, with what was printed before it."""
        if self._failure:
            raise self._failure
        deadline = time.monotonic() + self._seconds_left
        printed = bytearray()
        while True:
            line = self._wait_for_line(deadline)
            if not line:
                self._failure = self._explain_end(bytes(printed), deadline)
                raise self._failure
            if line.startswith(self._marker):
                break
            printed += line
            del printed[:-MOST_OUTPUT]
        self._seconds_left = deadline - time.monotonic()
        self._unanswered -= 1
        status = json.loads(line[len(self._marker) :])["status"]
        # A line feed always comes before the marker.
        return Outcome(status, printed[:-1].decode("utf-8", "replace"))

    def _wait_for_line(self, deadline: float) -> bytes:
        """b"" where the process has ended, or the deadline has passed."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return b""
            with suppress(queue.Empty):
                return self._printed.get(timeout=min(left, LOOK_EVERY))
            if self._process.poll() is not None:
                return b""  # though a child of its may still hold stdout

    def _explain_end(self, printed: bytes, deadline: float) -> StepFailed:
        if time.monotonic() >= deadline or self._has_ended_itself():
            why = f"killed after {self._timeout:g} s, while {self._doing}"
            return TimedOut(mask(f"{self._command}: {why}; see --timeout"))
        self._has_ended(GRACE)
        text = printed.decode("utf-8", "replace")
        # What `connections get` prints begins with [{, and holds secrets.
        said = re.findall(r"^(?!\[\{).*\S", text, re.MULTILINE) or ["it said nothing"]
        why = f"{said[-1]} (exit status {self._process.returncode})"
        return StepFailed(mask(f"{self._command}: {why}")[:LONGEST_REASON])

    def _has_ended_itself(self) -> bool:
        """As it does if its answer comes too late while nobody waits for it."""
        if time.monotonic() < self._ends_itself_at:
            return False
        self._has_ended(GRACE)
        return self._process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
