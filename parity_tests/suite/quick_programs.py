"""Programs for tests, compiled without being optimized."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def quickly_compiled() -> Iterator[None]:
    """The small programs run a few times each: to optimize them takes longer than it saves."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)
