"""Where every command speaks: what it says is shown as it is, on any console, read or not."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from jax_attn.errors import InputError

# Signs of the commands' own words, as they look where a console's encoding lacks them.
PLAINER = str.maketrans(
    {"…": "...", "–": "-", "×": "x", "·": "-", "µ": "u", "∞": "inf", "⏎": "\\n"}
)


class OutputLost(OSError):
    """Standard output takes no more: its reader has gone, or there is no room."""


class LastingStream:
    """A text stream over another, which shows every character and never fails twice.

    A character that the encoding lacks is escaped. When the stream fails, `on_loss` is called once
    with the reason, and what is written from then on goes nowhere. All else is the stream's own,
    which may be a notebook's.
    """

    def __init__(self, stream: Any, on_loss: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._on_loss = on_loss
        self._lost = False

    def write(self, text: str) -> int:
        def show() -> None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                plain = text.translate(PLAINER).encode(self._stream.encoding, "backslashreplace")
                self._stream.write(plain.decode(self._stream.encoding))

        self._unless_lost(show)
        return len(text)

    def flush(self) -> None:
        self._unless_lost(self._stream.flush)

    def isatty(self) -> bool:
        return not self._lost and not self._stream.closed and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _unless_lost(self, act: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            act()
        except OSError as error:
            self._lose(error)
        except ValueError as error:
            if not self._stream.closed:
                raise
            self._lose(OSError(errno.EBADF, str(error)))

    def _lose(self, error: OSError) -> None:
        self._lost = True
        self._on_loss(error)


class _Verbatim:
    """A string that rich leaves as it is."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield Segment(self._words)
        yield Segment.line()


class VerbatimConsole(Console):
    """Prints texts, samples and paths as they are; styles come as `rich.text.Text`.

    `on_loss` is what happens, once, when standard output takes no more, and the program goes on;
    without it that is the end of a `command`.
    """

    def __init__(
        self, on_loss: Callable[[OSError], None] | None = None, *, width: int | None = None
    ) -> None:
        super().__init__(
            file=None if on_loss is None else cast(TextIO, LastingStream(sys.stdout, on_loss)),
            width=width,
            emoji=False,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's; a lone string to the letter, tabs and control characters too."""
        if len(objects) == 1 and isinstance(objects[0], str) and not options:
            objects = (_Verbatim(objects[0]),)
        super().print(*objects, **options)

    @property
    def live(self) -> bool:
        """Whether lines may be drawn anew: on terminals only, whatever FORCE_COLOR says."""
        return self.is_terminal and not self.is_dumb_terminal and self.file.isatty()


def command(name: str, body: Callable[[], int]) -> int:
    """Runs the body of a program of the command line; returns its exit code.

    What was given and cannot be used is one line, and 2. A reader who has seen enough ends the
    program quietly, as he ends `yes | head`; output that cannot be kept is 2.
    """
    with _lasting_streams():
        try:
            try:
                return body()
            finally:
                sys.stdout.flush()
        except InputError as error:
            return _refused(name, str(error))
        except OutputLost as loss:
            if loss.errno in (errno.EPIPE, errno.EINVAL):  # the latter is Windows's word for it
                return 128 + getattr(signal, "SIGPIPE", 13)
            return _refused(name, f"standard output cannot be written to ({loss.strerror})")
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _refused(
                name, f"{out_of_memory(error)}; end other programs, or ask for something smaller"
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's memory or a device's is what there was too little of."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def out_of_memory(error: BaseException) -> str:
    reason = str(error).strip().partition("\n")[0][:200]
    return f"out of memory ({reason})" if reason else "out of memory"


def _refused(name: str, message: str) -> int:
    print(f"{name}: error: {message}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def _lasting_streams() -> Iterator[None]:
    """Inside, the standard streams are lasting ones, and none is closed.

    Where one is, the next file opened would get its number, and what libraries write by number.
    """

    def end(error: OSError) -> None:
        _empty(output)
        raise OutputLost(error.errno, error.strerror or str(error)) from error

    before = sys.stdout, sys.stderr
    made = {number: _nothing(number) for number in (1, 2) if before[number - 1] is None}
    output, errors = made.get(1, before[0]), made.get(2, before[1])
    kept = [(s, s.errors) for s in (output, errors) if hasattr(s, "reconfigure")]
    for stream, _ in kept:  # a file's name may have bytes that are no characters
        cast(Any, stream).reconfigure(errors="surrogateescape")
    sys.stdout = cast(TextIO, LastingStream(output, end))
    sys.stderr = cast(TextIO, LastingStream(errors, lambda _: _empty(errors)))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in made.values():
            stream.close()
        for stream, handler in kept:
            with contextlib.suppress(OSError, ValueError):
                cast(Any, stream).reconfigure(errors=handler)


def _nothing(number: int) -> TextIO:
    """A stream to nowhere, at a standard stream's number unless a file has that."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(nowhere, number)
    return open(nowhere, "w", encoding="utf-8", closefd=nowhere != number)


def _empty(stream: Any) -> None:
    """Lets what a standard stream still holds go nowhere: Python writes it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        if (number := stream.fileno()) in (1, 2):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            stream.flush()
