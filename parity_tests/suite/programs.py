"""What was traced or compiled from the port's functions, to be dropped where they change."""

import inspect
import sys
from typing import Any

# Of each pair and precision: the port's structure and shapes, which take a while to trace.
templates: dict[tuple[Any, str], Any] = {}


def forget_programs() -> None:
    """To be called whenever the port's code has changed: a constructor may make something else."""
    templates.clear()
    for _, value in port_bindings():
        for clear in ("clear_cache", "cache_clear"):  # of jax.jit, of functools.cache
            if hasattr(value, clear) and not inspect.isclass(value):
                getattr(value, clear)()


def port_bindings() -> list[tuple[tuple[Any, str], Any]]:
    """Every global name of every module of the port: its module and name, and its value."""
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == "jax_attn" and m]
    return [((module, name), value) for module in modules for name, value in vars(module).items()]
