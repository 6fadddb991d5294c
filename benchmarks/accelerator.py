"""All that is worth measuring on a GPU machine: `python -m benchmarks.accelerator FILE.json`.

The parity suite, the benchmarks, and a short training of GPT-2 124 M in bfloat16 against the
best torch: tokens a second, MFU and peak memory. What fails is recorded and the rest goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleave import Side

STEPS = 10  # in one chunk; the second chunk is timed
BATCHES = (8, 16, 32, 64)  # rows of 1,024 tokens, up to the first that does not fit
VOCAB_SIZE, LENGTH = 50257, 1024


class JaxGPT2:
    """Its result: peak bytes, FLOP a token, and the MFU of one token a second."""

    units = STEPS

    def __init__(self, batch_size: int) -> None:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        import jax_attn as ja
        from jax_attn.flops import flops_per_token, utilisation

        model = ja.GPT(ja.GPTConfig.gpt2(), rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
        optimizer = ja.make_optimizer(ja.PRESETS["gpt2"][1].optimizer, 6e-4, 1_000)
        self._state = ja.TrainState.create(model, optimizer)
        tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, 1_000_000)
        batches = ja.RandomBatches(
            jnp.asarray(tokens, jnp.int32), jax.random.key(0), batch_size, LENGTH
        )
        self._chunk = lambda state: ja.train_chunk(state, batches, optimizer, STEPS)
        self._device = jax.devices()[0]
        self._flops = flops_per_token(model)
        self._utilisation = partial(utilisation, model, dtype="bfloat16")

    def run(self) -> None:
        self._state, losses = self._chunk(self._state)
        losses.block_until_ready()

    def result(self) -> np.ndarray:
        peak = (self._device.memory_stats() or {}).get("peak_bytes_in_use", np.nan)
        return np.array([peak, self._flops, self._utilisation(1.0) or np.nan])


class TorchGPT2:
    """GPT-2's size in the lecture's layout (ReLU, no biases on q, k, v), the output matrix tied.

    Compiled, flash attention, fused AdamW, autocast. Its result: peak bytes.
    """

    units = STEPS

    def __init__(self, batch_size: int) -> None:
        import torch

        from benchmarks.best_torch import FastGPT
        from benchmarks.generation import GPT2

        torch.set_float32_matmul_precision("high")
        self._torch = torch
        model = FastGPT(GPT2).cuda()
        model.lm_head.weight = model.token_embedding_table.weight
        self._loss = torch.compile(model)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, fused=True)
        self._shape = (batch_size, LENGTH + 1)

    def run(self) -> None:
        torch = self._torch
        for _ in range(STEPS):
            tokens = torch.randint(0, VOCAB_SIZE, self._shape, device="cuda")
            with torch.autocast("cuda", torch.bfloat16):
                loss = self._loss(tokens[:, :-1], tokens[:, 1:])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        torch.cuda.synchronize()

    def result(self) -> np.ndarray:
        return np.array([self._torch.cuda.max_memory_allocated()])


def gpt2_training(build: Any) -> list[dict[str, float]]:
    """Tokens a second and peak GiB at each batch size, until one does not fit."""
    found = []
    for batch_size in BATCHES:
        side = Side(f"batch {batch_size}", partial(build, batch_size))
        try:
            side.ask("run", 1)  # compiles
            seconds = min(side.ask("run", 1) for _ in range(3))  # of a step
            peak, *rest = side.ask("result")
        except RuntimeError as error:
            found.append({"batch_size": batch_size, "error": str(error)[:300]})
            break
        finally:
            side.close()
        tokens_per_second = batch_size * LENGTH / seconds
        figures = {
            "batch_size": batch_size,
            "tokens_per_second": tokens_per_second,
            "peak_gib": float(peak) / 2**30,
        }
        if rest:
            flops, utilisation_of_one = rest
            figures["tflops"] = float(flops) * tokens_per_second / 1e12
            figures["mfu"] = float(utilisation_of_one) * tokens_per_second
        found.append(figures)
        print(figures, flush=True)
    return found


def command(*arguments: str) -> Any:
    """Runs `python -m … --json FILE`; the exit code, and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        code = subprocess.run([sys.executable, "-m", *arguments, "--json", str(path)]).returncode
        written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return {"exit code": code, "found": written}


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.accelerator FILE.json", file=sys.stderr)
        return 2
    path = Path(sys.argv[1])
    record: dict[str, Any] = {"date": date.today().isoformat()}
    record |= {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "torch")}
    parts = {
        "GPT-2 124 M, jax_attn": partial(gpt2_training, JaxGPT2),
        "GPT-2 124 M, torch": partial(gpt2_training, TorchGPT2),
        "parity": partial(command, "parity_tests"),
        "benchmarks": partial(command, "benchmarks", "bigram", "attention", "training"),
    }
    for name, part in parts.items():
        print(f"--- {name}", flush=True)
        record[name] = part()
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
