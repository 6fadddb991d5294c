"""Which functions of the port a check runs: a bug elsewhere cannot change what it finds."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax_attn
from parity_tests.suite.planted import planted_targets
from parity_tests.suite.programs import forget_programs

ROOT = str(Path(jax_attn.__file__).parent)


recording: list[set[str]] = []  # one set inside another
names: dict[CodeType, str] = {}  # "" for what is not the port's


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Collects "module:qualified.name" of every function of the port that runs meanwhile.

    Compiled programs are dropped first: a function traced before would not run again.
    """
    forget_programs()
    reached: set[str] = set()
    recording.append(reached)
    sys.setprofile(_note)
    threading.setprofile(_note)  # of threads that begin meanwhile
    try:
        yield reached
    finally:
        recording.pop()
        if not recording:
            sys.setprofile(None)
            threading.setprofile(None)


def _note(frame: FrameType, event: str, _: Any) -> None:
    code = frame.f_code
    if event != "call":
        return
    if code not in names:
        ours = code.co_filename.startswith(ROOT)
        names[code] = f"{frame.f_globals['__name__']}:{code.co_qualname}" if ours else ""
    if names[code]:
        for reached in recording:
            reached.add(names[code])


def can_reach(reached: frozenset[str]) -> bool:
    """Whether what runs these functions runs any that the bug planted now replaces.

    A class, a constant or a dictionary may be used without a trace, so anything may reach it; so
    too where nobody knows what is replaced.
    """
    return not planted_targets or any(
        not is_function or _reaches(reached, target)
        for target, is_function in planted_targets.items()
    )


def _reaches(reached: frozenset[str], target: str) -> bool:
    """Whether `target`, a "module:name", or a part of it is among the functions that ran."""
    return any(name == target or name.startswith(f"{target}.") for name in reached)
