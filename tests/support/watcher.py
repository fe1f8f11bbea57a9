"""What an attacker with an account on the worker could see while the command runs."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Callable, Iterator, TypeVar

import pytest

T = TypeVar("T", bound="Background")


def require_proc() -> None:
    """Skip the test where no folder tells of the processes."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("this system has no /proc")


def processes() -> Iterator[tuple[int, str]]:
    """Every process of this machine with its arguments, as any user sees them."""
    for entry in os.scandir("/proc"):
        with suppress(OSError):  # it has ended in between
            if entry.name.isdigit():
                arguments = Path(entry.path, "cmdline").read_bytes()
                yield int(entry.name), arguments.decode(errors="replace")


class Background:
    """Does its ``work`` in a thread, for as long as a with block lasts."""

    stop: threading.Event

    def work(self) -> None:
        """Go on until ``stop`` is set."""
        raise NotImplementedError

    def __enter__(self: T) -> T:
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.work)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()


class Watcher(Background):
    """Reads every process's arguments and the files in some folders, over and over."""

    def __init__(self, tokens: Callable[[], list[str]], *folders: Path) -> None:
        require_proc()
        self.tokens = tokens
        self.folders = folders
        self.rounds = 0
        self.seen: set[str] = set()

    def work(self) -> None:
        while not self.stop.is_set():
            self.look()
            self.stop.wait(0.01)

    def look(self) -> None:
        """One round. Where a token was seen is kept, the token is not."""
        wanted = [token[300:400].encode() for token in self.tokens()]
        for _, arguments in processes():
            if any(piece in arguments.encode() for piece in wanted):
                self.seen.add("argv")
        for path, content in self._files():
            if any(piece in content for piece in wanted):
                self.seen.add(str(path))
        self.rounds += 1

    def _files(self) -> Iterator[tuple[Path, bytes]]:
        for folder in self.folders:
            # Unlike rglob, os.walk does not mind what has gone in between.
            for place, _, names in os.walk(folder):
                for path in [Path(place, name) for name in names]:
                    with suppress(OSError):
                        if path.is_file() and not path.is_symlink():
                            yield path, path.read_bytes()
