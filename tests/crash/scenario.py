"""What is trained, how it is started, and what two finished runs must have in common."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.run import Run

ROOT = Path(__file__).parent.parent.parent
TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
WALL_CLOCK = ("elapsed_s", "tokens_per_second")  # figures of a run that no other run has


@dataclass(frozen=True)
class Scenario:
    """A tiny GPT with dropout, warm-up and cosine: everything that a resumed run could forget."""

    steps: int
    eval_every: int
    checkpoint_every: int
    devices: int = 1
    tokens: str = "char"

    @property
    def name(self) -> str:
        plural = "s" if self.devices > 1 else ""
        return (
            f"{self.steps} steps, evaluation every {self.eval_every}, checkpoint every "
            f"{self.checkpoint_every}, {self.devices} device{plural}, tokens {self.tokens}"
        )

    def arguments(self, text: Path, run: Path) -> list[str]:
        """Of a new run, or to go on with one that exists."""
        if run.exists():
            return ["--resume", str(run)]
        settings = (
            f"mini --data {text} --out {run} --steps {self.steps} --eval-every {self.eval_every} "
            f"--checkpoint-every {self.checkpoint_every} --batch-size 4 --block-size 16 "
            "--model.n-layer 1 --model.n-head 2 --model.n-embd 8 --model.dropout-rate 0.2 "
            f"--optimizer.warmup-steps 5 --sample-tokens 20 --tokens {self.tokens}"
        )
        return settings.split()

    def start(self, text: Path, run: Path, log: Path, fault: str | None = None) -> subprocess.Popen:
        """The real command line; with a fault planted, a stand-in for it."""
        program = ["train.py"] if fault is None else ["-m", "tests.crash.planted", fault]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.devices}",
            "JAX_COMPILATION_CACHE_DIR": str(text.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *program, *self.arguments(text, run)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


SCENARIOS = [
    Scenario(steps=24, eval_every=8, checkpoint_every=1),
    Scenario(steps=24, eval_every=8, checkpoint_every=1, devices=8),
    Scenario(steps=96, eval_every=8, checkpoint_every=4),
    Scenario(steps=96, eval_every=8, checkpoint_every=4, tokens="bpe:280"),
    Scenario(steps=160, eval_every=16, checkpoint_every=8, devices=8),
    Scenario(steps=200, eval_every=10, checkpoint_every=50),
]


def finished(path: Path) -> dict[str, Any]:
    """All that a run leaves which depends on nothing but its settings."""
    run = Run.open(path)
    checkpoints = Checkpoints(run)
    state = checkpoints.restore(run.shapes())
    checkpoints.close()
    lines = run.metrics.path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    result: dict[str, Any] = {
        "metrics": [{k: v for k, v in r.items() if k not in WALL_CLOCK} for r in records],
        "fields of the metrics": [list(r) for r in records],
        "sample": (path / "sample.txt").read_bytes(),
        "config": (path / "config.json").read_bytes(),
    }
    for name, leaf in jax.tree_util.tree_leaves_with_path(state):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        plain = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        result[f"state{jax.tree_util.keystr(name)}"] = (plain.dtype, plain.shape, plain.tobytes())
    return result


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same, byte for byte."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
