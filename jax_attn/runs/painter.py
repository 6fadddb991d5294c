"""A process that draws a run's pictures: matplotlib is imported there while the run trains."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

from jax_attn.runs import plots


class Painter:
    """Draws what `plots` can, one picture after the other; as a context, ends with it."""

    def __init__(self) -> None:
        # By its path, because a module of this package would import JAX first; -P, because the
        # names of the files beside it are not to be found by what it imports. In a session of its
        # own, because Ctrl-C is for the training, which has still to finish what it does.
        self._process = subprocess.Popen(
            [sys.executable, "-P", plots.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._asked = 0

    def draw(self, picture: str, *arguments: Any) -> None:
        """Begins `plots.PICTURES[picture](*arguments)`."""
        assert self._process.stdin is not None
        try:
            pickle.dump((picture, arguments), self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _died() from None
        self._asked += 1

    def wait(self) -> None:
        """Until all is drawn. Raises what drawing raised: OSError where there is no room, say."""
        assert self._process.stdout is not None
        while self._asked:
            self._asked -= 1
            try:
                error = pickle.load(self._process.stdout)
            except EOFError:
                raise _died() from None
            if error is not None:
                raise error

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _died() -> RuntimeError:
    return RuntimeError("the process that draws pictures ended before its time")
