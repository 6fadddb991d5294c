"""The rungs in their order, and what running one of them gives."""

import math
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module

from parity_tests.harness.budgets import SEMANTIC
from parity_tests.suite.reach import recorded
from parity_tests.suite.tiers import Checks, remember_results

RUNGS: dict[str, str] = {
    "bridge": "every weight in its place, and back",
    "layouts": "state dicts of others, both ways",
    "data": "tokens, split, batches",
    "averaging": "the running mean, three ways",
    "primitives": "linear, embedding, layer norm, activations",
    "attention": "wei and output of heads and kernels",
    "block": "residual branches, norms, feed-forward",
    "bigram": "bigram table and single-head model",
    "gpt": "hidden states, wei, logits",
    "loss": "cross-entropy and its estimates",
    "gradients": "every leaf and input",
    "accelerators": "what replaces CPU's ways elsewhere",
    "optimizer": "AdamW with its state, clipping, schedule",
    "trajectory": "200 steps on the same batches",
    "generation": "greedy and sampled tokens",
    "dropout": "masks, scale, modes, streams",
    "other_code": "torch, transformers, flax, NumPy",
}


@dataclass(frozen=True)
class Failure:
    check: str
    detail: str  # the report's table, or the traceback


@dataclass(frozen=True)
class RungResult:
    """What the checks of one rung found. Ratios are errors over what the budget allows."""

    rung: str
    checks: int  # tensors compared
    worst_ratio: float  # over both tiers; inf for a failure that no budget measures
    worst_check: str
    semantic_difference: float  # largest relative difference in float64, 0 where there is none
    failures: tuple[Failure, ...]
    crashed: bool
    seconds: float
    reached: frozenset[str] = frozenset()  # functions of the port that ran, where recorded

    @property
    def ok(self) -> bool:
        return not self.failures


def checks_of(rung: str) -> Callable[[int], Checks]:
    """The rung's `checks(seed)`."""
    return import_module(f"parity_tests.test_{rung}").checks


def run_rung(rung: str, seeds: Iterable[int], *, stop_early: bool = False) -> RungResult:
    """All checks of a rung for each seed; with `stop_early`, those up to the first that fails.

    An exception is a failure like any other: a broken port may well raise.
    """
    started = time.perf_counter()
    tensors, worst, where, semantic, crashed = 0, 0.0, "", 0.0, False
    failures: list[Failure] = []
    checks = checks_of(rung)
    try:
        for name, report in (check for seed in seeds for check in checks(seed)):
            tensors += len(report.tensors)
            if report.ratio > worst:
                worst, where = report.ratio, f"{name}: {report.worst.name}"
            if report.budget == SEMANTIC and math.isfinite(report.ratio):
                semantic = max(semantic, report.ratio * SEMANTIC.floor)
            if not report.ok:
                failures.append(Failure(name, str(report)))
                if stop_early:
                    break
    except Exception as error:
        failures.append(Failure(f"{type(error).__name__}: {error}", traceback.format_exc()))
        worst, crashed = math.inf, True
    return RungResult(
        rung=rung,
        checks=tensors,
        worst_ratio=worst,
        worst_check=where,
        semantic_difference=semantic,
        failures=tuple(failures),
        crashed=crashed,
        seconds=time.perf_counter() - started,
    )


def run_task(task: tuple[str, int, bool]) -> RungResult:
    """A rung, how many seeds, and whether bugs will be planted: an argument for another process.

    If so, the functions that the rung runs are recorded, and what both sides make is kept.
    """
    rung, seeds, bugs_follow = task
    if not bugs_follow:
        return run_rung(rung, range(seeds))
    remember_results()
    with recorded() as reached:
        result = run_rung(rung, range(seeds))
    return replace(result, reached=frozenset(reached))
