"""What takes long, on a terminal: one line on stderr, which goes when it is over."""

import sys
import time
from collections.abc import Collection, Iterator
from threading import Lock, Timer
from typing import TypeVar

T = TypeVar("T")
AFTER_S = 3.0  # what is over sooner says nothing
WIDTH = 79


class Progress:
    """Silent where stderr is no terminal, as in tests and notebooks."""

    def __init__(self, what: str) -> None:
        self._what, self._phase = what, ""
        self._shown = self._ended = False
        self._lock = Lock()
        self._started = time.monotonic()
        self._timer = Timer(AFTER_S, self._begin)
        self._timer.daemon = True

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._shown:
                self._write("")

    def now(self, phase: str) -> None:
        """What happens from here on, in a few words."""
        with self._lock:
            self._phase = phase
            if self._shown:
                self._print()

    def each(self, phase: str, layers: Collection[T]) -> Iterator[T]:
        """The layers, one after the other, counted."""
        for i, layer in enumerate(layers):
            self.now(f"{phase}, {i + 1} of {len(layers)} layers")
            yield layer

    def _begin(self) -> None:
        with self._lock:
            self._shown = not self._ended
            if self._shown:
                self._print()

    def _print(self) -> None:
        seconds = time.monotonic() - self._started
        self._write(f"{self._what}: {self._phase} ({seconds:.0f} s)")

    def _write(self, line: str) -> None:
        sys.stderr.write(f"\r{line[:WIDTH]:{WIDTH}}\r{line[:WIDTH]}")
        sys.stderr.flush()
