"""What JAX computes on, or the one line that says why there is nothing."""

from __future__ import annotations

import logging
import os

import jax

from jax_attn.errors import InputError

STARTS = "jax._src.xla_bridge"  # JAX's logger of what it finds when it starts


def require_device() -> None:
    """Starts JAX. InputError where it has no device of those that are asked for."""
    said: list[logging.LogRecord] = []

    def hold_back(record: logging.LogRecord) -> bool:
        said.append(record)
        return False

    logger = logging.getLogger(STARTS)
    logger.addFilter(hold_back)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise InputError(_words(error)) from error
    finally:
        logger.removeFilter(hold_back)
    for record in said:  # it has begun all the same
        logger.handle(record)


def _words(error: Exception) -> str:
    asked = os.environ.get("JAX_PLATFORMS") or jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    reason = str(error).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0][:300].strip(" .")
    if not asked:
        return f"JAX has no device to compute on ({reason or type(error).__name__})"
    found = f" ({reason})" if reason else ""
    return (
        f"JAX_PLATFORMS is {asked!r}, and JAX finds no such device{found}; JAX_PLATFORMS=cpu takes "
        "the CPU, without JAX_PLATFORMS it takes what there is"
    )
