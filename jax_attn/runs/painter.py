"""A process that draws a run's pictures: matplotlib is imported there while the run trains.

Whatever befalls it costs a picture, never the training.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jax_attn.runs import plots

LONGEST_S = 120.0  # for a picture: the first one ever waits for matplotlib's list of fonts


class Painter:
    """Draws what `plots` can, one picture after the other; as a context, ends with it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._fault = ""
        # In a thread, because a large picture would wait for a process that is not ready.
        self._messenger = ThreadPoolExecutor(1)
        self._asked: dict[str, Future[str]] = {}
        # By its path, because a module of this package would import JAX first; -P, because the
        # names of the files beside it are not to be found by what it imports. In a session of its
        # own, because Ctrl-C is for the training, which has still to finish what it does. Nobody
        # reads what matplotlib remarks about its cache and fonts, nor needs a display.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", plots.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"MPLBACKEND": "agg"},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._fault = f"the process that draws it cannot be started ({error})"

    def draw(self, picture: str, *arguments: Any, path: Path) -> None:
        """Begins `plots.PICTURES[picture](*arguments, path)`."""
        self._asked[path.name] = self._messenger.submit(self._drawn, (picture, arguments, path))

    def wait(self) -> dict[str, str]:
        """Until all is drawn. The names of the pictures that were asked for: "", or why it is not.

        Pictures are whole or not there: one drawn before stays.
        """
        faults = {}
        for name, answer in self._asked.items():
            try:
                faults[name] = answer.result(LONGEST_S)
            except TimeoutError:
                faults[name] = f"it is not ready after {LONGEST_S:.0f} seconds"
        self._asked = {}
        return faults

    def _drawn(self, picture: tuple[Any, ...]) -> str:
        if self._process is None:
            return self._fault
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(picture, self._process.stdin)
            self._process.stdin.flush()
            return plots.answer(self._process.stdout)
        except (OSError, EOFError, ValueError):
            return "the process that draws pictures ended before its time"

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._messenger.shutdown()
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
