"""Causal attention, forward and backward: ours against torch's fused kernel and JAX's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

CALLS = 3  # in one run


def arrays(batch: int, heads: int, length: int, head_size: int) -> list[np.ndarray]:
    """Query, key, value and the gradient of the output, float32 [B H T K]."""
    draw = np.random.default_rng(0)
    shape = (batch, heads, length, head_size)
    return [draw.standard_normal(shape).astype(np.float32) for _ in range(4)]


class JaxAttention:
    units = CALLS

    def __init__(self, implementation: str, shape: tuple[int, int, int, int]) -> None:
        import jax
        import jax.numpy as jnp

        import jax_attn as ja
        from jax_attn.compiling.options import compiled

        def jax_own(query: Any, key: Any, value: Any) -> Any:
            # It takes [B T H K]; its callers hold arrays so, and no transposition is charged.
            return jax.nn.dot_product_attention(query, key, value, is_causal=True)

        attention: Callable[..., Any] = {
            "ours": ja.dot_product_attention,
            "explicit": partial(ja.dot_product_attention, implementation="explicit"),
            "jax.nn": jax_own,
        }[implementation]
        self._swap = implementation == "jax.nn"
        inputs = arrays(*shape)
        if self._swap:
            inputs = [x.swapaxes(1, 2) for x in inputs]
        *self._inputs, self._cotangent = map(jnp.asarray, inputs)

        # Ours as `train_chunk` compiles it, JAX's own as whoever calls it does.
        jit = jax.jit if implementation == "jax.nn" else compiled(training=True)

        @jit
        def both(query: Any, key: Any, value: Any, cotangent: Any) -> Any:
            output, backward = jax.vjp(attention, query, key, value)
            return output, *backward(cotangent)

        self._both = both
        self._wait = jax.block_until_ready

    def result(self) -> np.ndarray:
        found = np.stack(self._both(*self._inputs, self._cotangent))
        return found.swapaxes(2, 3) if self._swap else found

    def run(self) -> None:
        for _ in range(CALLS):
            self._wait(self._both(*self._inputs, self._cotangent))


class TorchAttention:
    units = CALLS

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        import torch

        *inputs, cotangent = map(torch.from_numpy, arrays(*shape))
        self._inputs: list[Any] = [x.requires_grad_() for x in inputs]
        self._cotangent = cotangent
        self._attention = torch.nn.functional.scaled_dot_product_attention
        self._gradients = torch.autograd.grad

    def _once(self) -> list[Any]:
        query, key, value = self._inputs
        output = self._attention(query, key, value, is_causal=True)
        return [output, *self._gradients(output, self._inputs, self._cotangent)]

    def result(self) -> np.ndarray:
        return np.stack([x.detach().numpy() for x in self._once()])

    def run(self) -> None:
        for _ in range(CALLS):
            self._once()
