"""Ctrl-C, SIGTERM and a terminal that hangs up, as a request."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

# Windows has no terminals that hang up.
SIGNALS = tuple(n for n in signal.Signals if n.name in ("SIGINT", "SIGTERM", "SIGHUP"))
LONGEST_LAST_WORD_S = 1.0

Say = Callable[[str], object]
Leave = Callable[[], str]


class StopOnSignal:
    """Inside this context the first signal asks for a stop; a second one ends the process at once.

    Python runs its handlers between two of its own instructions, which a compilation may keep
    apart for minutes. So a thread listens: it answers the first signal with a line to `say`, and
    heeds the second. A terminal that hangs up never counts as the second, for its shell and the
    system both say so; and where that is to be ignored (`nohup`), it is. Before the first step is
    made, and when all is saved, the first one ends the process.
    """

    def __init__(self, say: Say) -> None:
        self.signal: int | None = None  # the one that asked for a stop
        self._say = say
        self._turn = threading.Lock()  # so that nothing begins when it is to end
        self._nothing_to_save: Leave | None = lambda: "nothing is trained yet"

    def __enter__(self) -> StopOnSignal:
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._before: dict[int, Any] = {
            n: signal.signal(n, self._ask) for n in SIGNALS if not _left_to_nohup(n)
        }
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """From here on signals do what they did before this context."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._mouth.close()  # the listener reads the end, and ends

    def opened(self, leave: Leave) -> None:
        """From here on there is a folder without a step: `leave` puts it in order, and says so."""
        with self._turn:
            self._nothing_to_save = leave

    def begin(self) -> None:
        """From here on there is something to save."""
        with self._turn:
            self._nothing_to_save = None

    def all_is_saved(self, go_on: str) -> None:
        """From here on there is nothing; `go_on` is how to have the rest."""
        with self._turn:
            self._nothing_to_save = lambda: f"all is saved; the rest: {go_on}"

    def _ask(self, number: int, frame: Any) -> None:
        if self._nothing_to_save is None:  # otherwise the listener ends the process
            self.signal = self.signal or number

    def _listen(self) -> None:
        urgent = 0
        with self._ear:
            while received := self._ear.recv(1):
                number = received[0]
                if number not in SIGNALS:
                    continue
                urgent += number not in HANGING_UP
                with self._turn:
                    if self._nothing_to_save is not None:
                        said = _answer(self._say, number, self._nothing_to_save())
                        said.join(LONGEST_LAST_WORD_S)
                    elif urgent < 2:
                        _answer(self._say, number, UNDER_WAY)
                        continue
                    with contextlib.suppress(OSError):
                        if os.isatty(1):
                            os.write(1, b"\x1b[?25h")  # the cursor, which the progress bar hides
                    os._exit(128 + number)


class StopOnInterrupt:
    """The same for a function in somebody else's process, a notebook's for example.

    The first Ctrl-C asks for a stop; from then on it does what it did before this context. In a
    thread, where Python admits no handlers, nothing asks.
    """

    def __init__(self, say: Say) -> None:
        self.signal: int | None = None
        self._say = say
        self._before: Any = None

    def __enter__(self) -> StopOnInterrupt:
        return self

    def opened(self, leave: Leave) -> None:
        """Before the first step Ctrl-C is Python's own: who hears it puts things in order."""

    def begin(self) -> None:
        """From here on there is something to save."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask) or signal.SIG_DFL

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def all_is_saved(self, go_on: str) -> None:
        """From here on Ctrl-C does what it did before this context."""
        self.__exit__()

    def _ask(self, number: int, frame: Any) -> None:
        self.signal = number
        self.__exit__()
        _answer(self._say, number, UNDER_WAY)


HANGING_UP = tuple(n for n in SIGNALS if n.name == "SIGHUP")
UNDER_WAY = "what is under way is finished and saved; once more ends at once"


def _left_to_nohup(number: signal.Signals) -> bool:
    return number in HANGING_UP and signal.getsignal(number) == signal.SIG_IGN


def _answer(say: Say, number: int, words: str) -> threading.Thread:
    """In a thread: who waits for a terminal that stands still does not hear the next signal."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    speaker = threading.Thread(target=say, args=(f"{name}: {words}",), daemon=True)
    speaker.start()
    return speaker
