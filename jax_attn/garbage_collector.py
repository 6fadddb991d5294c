"""Importing without Python's garbage collector, which looks through all that was imported."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Modules live on: there is no garbage in them, and looking for it a tenth of importing JAX."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
