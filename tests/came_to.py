"""What a run and its model have come to, to be the same as of another."""

import json

import numpy as np
from flax import nnx

CLOCKS = ("elapsed_s", "tokens_per_second")


def bits(model):
    """Every parameter: its type and its bytes."""
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {path: (p[...].dtype, np.asarray(p[...]).tobytes()) for path, p in params}


def records(run):
    """The lines of `metrics.jsonl` in a run's folder, but for what a clock gives."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]
