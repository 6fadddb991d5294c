"""What a bound Linen module lacks when it is called, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flax.errors import InvalidRngError, ModifyScopeVariableError

from parity_tests.harness.kinds import kind_of


@contextmanager
def in_one_sentence(model: Any) -> Iterator[None]:
    """ValueError, with what to bind, in the place of Flax's page."""
    try:
        yield
    except ModifyScopeVariableError:
        if kind_of(model) != "linen":  # a function that applies one: its own affair
            raise
        changed = [name for name in model.unbind()[1] if name != "params"]
        raise ValueError(
            f"calling the port changes variables, and they are bound as immutable: give "
            f"module.bind(variables, mutable={changed}), or evaluate"
        ) from None
    except InvalidRngError:
        if kind_of(model) != "linen":
            raise
        raise ValueError(
            "the port asks for random numbers that it was not given, as dropout does: call it with "
            "deterministic=True, or make the rate 0"
        ) from None
