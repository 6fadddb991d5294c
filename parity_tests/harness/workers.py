"""Work spread over processes, each with its own JAX, that share one cache of compiled programs."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import torch

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def workers(jobs: int) -> Iterator[Map]:
    """A `map` whose results come in order, from this process alone where `jobs` is 1."""
    with tempfile.TemporaryDirectory(prefix="parity-programs-") as folder:
        if jobs == 1:
            prepare(folder)
            yield map
            return
        context = multiprocessing.get_context("spawn")  # a forked JAX deadlocks
        with ProcessPoolExecutor(jobs, context, prepare, (folder,)) as pool:
            yield pool.map


def prepare(folder: str) -> None:
    """One thread for torch, and every compiled program kept in `folder`.

    A check compiles small programs by the hundred; most are the same from one rung, seed or planted
    bug to the next.
    """
    torch.set_num_threads(1)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
