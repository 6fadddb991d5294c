"""Ctrl-C and SIGTERM as a request."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal:
    """Inside this context the first signal asks for a stop; a second one ends the process at once.

    Python runs its handlers between two of its own instructions, which a compilation may keep
    apart for minutes. So a thread listens for the second signal.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # the one that asked for a stop

    def __enter__(self) -> StopOnSignal:
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._before: dict[int, Any] = {n: signal.signal(n, self._ask) for n in SIGNALS}
        threading.Thread(target=_exit_on_second, args=(self._ear,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listen_no_more()

    def listen_no_more(self) -> None:
        """From here on signals do what they did before this context."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._mouth.close()  # the listener reads the end, and ends

    def _ask(self, number: int, frame: Any) -> None:
        self.signal = number


class StopOnInterrupt:
    """The same for a function in somebody else's process, a notebook's for example.

    The first Ctrl-C asks for a stop; from then on it does what it did before this context. In a
    thread, where Python admits no handlers, nothing asks.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: Any = None

    def __enter__(self) -> StopOnInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        self.listen_no_more()

    def listen_no_more(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _ask(self, number: int, frame: Any) -> None:
        self.signal = number
        self.listen_no_more()


def _exit_on_second(ear: socket.socket) -> None:
    heard = 0
    with ear:
        while number := ear.recv(1):
            heard += number[0] in SIGNALS
            if heard == 2:
                if os.isatty(1):
                    os.write(1, b"\x1b[?25h")  # the cursor, which the progress bar hides
                os._exit(128 + number[0])
