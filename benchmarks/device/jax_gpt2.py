"""Our side of GPT-2's training: the package's own chunk of steps, compiled ahead."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_attn as ja
from benchmarks.device.gpt2_data import (
    RECIPE,
    SHORT,
    SHORT_STEPS,
    Recipe,
    batches,
    state_dict,
)
from benchmarks.device.sizes import TINY, GPT2Sizes
from jax_attn.models.flops import flops_per_token, utilisation


def gpt2_model(sizes: GPT2Sizes, dtype: str) -> ja.GPT:
    """GPT-2 with the weights that both sides have; parameters in float32."""
    config = ja.GPTConfig.gpt2(
        vocab_size=sizes.vocab_size,
        block_size=sizes.length,
        n_layer=sizes.n_layer,
        n_head=sizes.n_head,
        n_embd=sizes.n_embd,
    )
    # As one program: operation by operation, the device would compile a hundred small ones.
    build = jax.jit(lambda: nnx.split(ja.GPT(config, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype))))
    model: Any = nnx.merge(*build())
    return ja.load_state_dict(model, state_dict(sizes), layout="gpt2")


def gpt2_optimizer(recipe: Recipe) -> Any:
    config = ja.OptimizerConfig(
        beta1=recipe.beta1,
        beta2=recipe.beta2,
        epsilon=recipe.epsilon,
        weight_decay=recipe.weight_decay,
        decay="matrices",
        clip_norm=recipe.clip_norm,
        schedule="cosine",
        warmup_steps=recipe.warmup_steps,
        final_fraction=recipe.final_fraction,
    )
    return ja.make_optimizer(config, recipe.learning_rate, recipe.steps)


class JaxGPT2:
    """A side of `benchmarks.interleave`. Its result: the losses of its first chunk of steps."""

    def __init__(
        self, sizes: GPT2Sizes, steps: int, dtype: str = "bfloat16", recipe: Recipe = RECIPE
    ) -> None:
        self.units = steps
        self.model = gpt2_model(sizes, dtype)
        optimizer = gpt2_optimizer(recipe)
        self._state = ja.TrainState.create(self.model, optimizer)
        self._inputs, self._targets = map(jnp.asarray, batches(sizes, steps))
        begun = time.perf_counter()
        lowered = ja.train_chunk.lower(self._state, self._given(0), optimizer, steps)
        self.program = lowered.compile()
        self.compile_seconds = time.perf_counter() - begun
        self._done = 0
        self._first_losses = np.asarray(self._chunk())

    def _given(self, first_step: int) -> ja.GivenBatches:
        return ja.GivenBatches(self._inputs, self._targets, np.int32(first_step))

    def _chunk(self) -> jax.Array:
        self._state, losses = self.program(self._state, self._given(self._done))
        self._done += self.units
        return losses

    def result(self) -> np.ndarray:
        return self._first_losses

    def run(self) -> None:
        self._chunk().block_until_ready()

    def short_losses(self) -> np.ndarray:
        """The float32 check: the losses of a few steps of a tiny model at highest precision."""
        with jax.default_matmul_precision("highest"):
            return JaxGPT2(TINY, SHORT_STEPS, "float32", SHORT).result()

    def report(self) -> dict[str, Any]:
        device = jax.devices()[0]
        planned = self.program.memory_analysis()
        names = ("argument", "output", "alias", "temp")
        return {
            "device": device.device_kind,
            "compile_seconds": self.compile_seconds,
            "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
            "planned_bytes": {n: getattr(planned, f"{n}_size_in_bytes", None) for n in names},
            "flops_per_token": flops_per_token(self.model),
            "mfu_of_one_token_per_second": utilisation(self.model, 1.0, "bfloat16"),
        }
