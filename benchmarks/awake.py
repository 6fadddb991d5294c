"""Keeps the processor's cores from falling asleep while something else is being timed.

XLA's threads sleep between operations and torch's spin. Where a core is virtual, waking it is the
host's business and takes as long as the host likes: the figures then say more about the host than
about the programs. A process that spins at the lowest priority on each core (what the kernel's
`idle=poll` does for a whole machine) takes a core only while nobody else wants it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator


@contextlib.contextmanager
def cores_kept_awake() -> Iterator[None]:
    """One spinning process of idle priority on each core that this process may use (Linux only)."""
    context = multiprocessing.get_context("spawn")
    spinners = [
        context.Process(target=_spin, args=(core, os.getpid()), daemon=True)
        for core in sorted(os.sched_getaffinity(0))
    ]
    for spinner in spinners:
        spinner.start()
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()


def _spin(core: int, parent: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while os.getppid() == parent:  # a parent that was killed could not end this
        pass
