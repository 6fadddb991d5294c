"""Peak memory of a process that trains, against torch's."""

from __future__ import annotations

import resource
from functools import partial

import numpy as np

from benchmarks.interleave import Side, Work
from benchmarks.rows import Row, Rows
from benchmarks.training_step import JaxTraining, TorchTraining
from benchmarks.weights import LECTURE, Case


class PeakMemory:
    """A side whose result is its process's peak memory in MiB after a few steps."""

    def __init__(self, framework: str, case: Case) -> None:
        self._work: Work = JaxTraining(case) if framework == "jax" else TorchTraining(case, "eager")
        self.units = self._work.units

    def result(self) -> np.ndarray:
        self._work.run()
        self._work.run()
        return np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    def run(self) -> None:
        self._work.run()


def memory_rows() -> Rows:
    peaks = {}
    for framework in ("jax", "torch"):
        side = Side(framework, partial(PeakMemory, framework, LECTURE))
        peaks[framework] = float(side.ask("result"))
        side.close()
    ratio = peaks["torch"] / peaks["jax"]
    yield Row(
        f"peak memory of training, {LECTURE}",
        "best torch, eager",
        peaks["jax"],
        peaks["torch"],
        "MiB",
        ratio,
        ratio,
        ratio,
    )
