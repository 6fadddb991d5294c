"""Work spread over processes, each with its own JAX, its own processor cores and its own memory.

A worker that has done a rung has its references and compiled programs at hand; so each keeps its
rungs when bugs are planted.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import torch
from jax.experimental.compilation_cache.compilation_cache import reset_cache


class Here(Executor):
    """This process, which does what it is given at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def workers(jobs: int) -> Iterator[list[Executor]]:
    """`jobs` of them, each one process; this process alone where `jobs` is 1."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-programs-"))
        if jobs == 1:
            prepare(folder, set())
            yield [Here()]
            jax.config.update("jax_compilation_cache_dir", None)  # the folder goes
            reset_cache()
            return
        context = multiprocessing.get_context("spawn")  # a forked JAX deadlocks
        yield [
            stack.enter_context(
                ProcessPoolExecutor(1, context, prepare, (str(Path(folder) / str(i)), cores))
            )
            for i, cores in enumerate(shares_of_cores(jobs))
        ]


def shares_of_cores(jobs: int) -> list[set[int]]:
    """Cores for each worker, so that none waits for another's; empty sets where one cannot say."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(jobs)]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i::jobs]) or {cores[i % len(cores)]} for i in range(jobs)]


def prepare(folder: str, cores: set[int]) -> None:
    """One thread for torch, and every compiled program kept in `folder`.

    A check compiles small programs by the hundred; most are the same from one rung, seed or planted
    bug to the next.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def share(
    crew: Sequence[Executor], function: Callable[[Any], Any], tasks: Iterable[Any]
) -> Iterator[tuple[int, Any]]:
    """Each task to the first worker that is free; its number and the result, as they end."""
    waiting = iter(tasks)
    running: dict[Future[Any], int] = {}

    def start(worker: int) -> None:
        for task in waiting:
            running[crew[worker].submit(function, task)] = worker
            return

    for worker in range(len(crew)):
        start(worker)
    while running:
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            worker = running.pop(future)
            start(worker)
            yield worker, future.result()
