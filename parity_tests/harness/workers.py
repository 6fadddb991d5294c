"""Work spread over processes, each with its own JAX, that share one cache of compiled programs."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import jax
import torch
from jax.experimental.compilation_cache import compilation_cache

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int
) -> Iterator[Result]:
    """`function` of every item, in their order; in this process where `jobs` is 1."""
    with tempfile.TemporaryDirectory(prefix="parity-programs-") as folder:
        if jobs == 1:
            prepare(folder)
            try:
                yield from map(function, items)
            finally:
                jax.config.update("jax_compilation_cache_dir", None)
                compilation_cache.reset_cache()  # it would go on writing to a folder that is gone
            return
        context = multiprocessing.get_context("spawn")  # a forked JAX deadlocks
        with ProcessPoolExecutor(jobs, context, prepare, (folder,)) as pool:
            yield from pool.map(function, items)


def prepare(folder: str) -> None:
    """One thread for torch, and every compiled program kept in `folder`.

    A check compiles small programs by the hundred; most are the same from one rung, seed or planted
    bug to the next.
    """
    torch.set_num_threads(1)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
