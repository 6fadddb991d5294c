"""`python -m tests.crash.planted FAULT ...`: train.py with a fault that the suite must find."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import train
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.metrics import Metrics


def _restored(change: Callable[[Any, Any], Any]) -> Callable[[], None]:
    """A resumed state is `change(state, fresh)`, fresh as it was before the first step."""

    def plant() -> None:
        restore = Checkpoints.restore

        def faulty(self: Checkpoints, like: Any) -> Any:
            state = restore(self, like)
            return None if state is None else change(state, self._run.fresh())

        Checkpoints.restore = faulty

    return plant


def _metrics_are_not_cut() -> None:
    Metrics.cut = lambda self, step: {}


FAULTS: dict[str, Callable[[], None]] = {
    "random-state": _restored(lambda state, fresh: replace(state, rest=fresh.rest)),
    "step": _restored(lambda state, fresh: replace(state, step=fresh.step)),
    "optimizer-state": _restored(lambda state, fresh: replace(state, opt_state=fresh.opt_state)),
    "metrics": _metrics_are_not_cut,
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    sys.exit(train.main())
