"""Compiled programs kept from one run to the next, so that the second one starts at once."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import jax

MOST_BYTES = 1 << 30  # beyond which the programs not used for longest are dropped
UNFINISHED_AFTER_S = 60.0


def keep_programs(folder: Path) -> None:
    """From now on JAX keeps what it compiles in `folder`, and looks there first.

    Does nothing where the user has named a folder to JAX (`JAX_COMPILATION_CACHE_DIR`), or where
    this one cannot be written.
    """
    # One that cannot be read, of a run that was killed, is compiled anew: no news for anybody.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return
        remove_unfinished(folder)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A bounded cache is also one that JAX locks: two runs may start together.
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # However small: a start runs some twenty that take as long as a large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def remove_unfinished(folder: Path) -> None:
    """Removes programs of which a killed run has written a part only.

    JAX writes a program, then the time of its use beside it; one without the other is not whole, or
    being written at this moment.
    """
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        old = time.time() - program.stat().st_mtime > UNFINISHED_AFTER_S
        if old and not used.exists():
            program.unlink(missing_ok=True)
