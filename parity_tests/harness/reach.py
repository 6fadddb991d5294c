"""Which functions of the port a rung runs: a bug planted elsewhere cannot change what it finds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax

import jax_attn

ROOT = str(Path(jax_attn.__file__).parent)


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Collects "module:qualified.name" of every function of the port that runs meanwhile.

    Compiled programs are dropped first: a function traced before would not run again.
    """
    jax.clear_caches()
    reached: set[str] = set()
    known: dict[CodeType, bool] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code not in known:
            known[code] = code.co_filename.startswith(ROOT)
            if known[code]:
                reached.add(f"{frame.f_globals['__name__']}:{code.co_qualname}")

    sys.setprofile(note)
    try:
        yield reached
    finally:
        sys.setprofile(None)


def reaches(reached: frozenset[str], target: str) -> bool:
    """Whether `target`, a "module:name", or a part of it is among the functions that ran."""
    return any(name == target or name.startswith(f"{target}.") for name in reached)
