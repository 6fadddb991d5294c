"""An optimizer update of all of GPT-2's parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from benchmarks.device.gpt2_data import RECIPE, state_dict
from benchmarks.device.jax_gpt2 import gpt2_optimizer
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes
from benchmarks.device.timing import Variant, time_variants


def updates(record: Record, sizes: Sizes) -> None:
    optimizer = gpt2_optimizer(RECIPE)
    shapes = {name: x.shape for name, x in state_dict(sizes.gpt2).items()}
    tree = {name: jnp.full(shape, 0.02) for name, shape in shapes.items()}
    count = sum(x.size for x in tree.values())
    trees = {"jax_attn, leaf by leaf": tree, "as one matrix": jnp.full((count // 128, 128), 0.02)}

    def update(params, gradients, state):
        changes, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, changes), state

    variants = [
        Variant(name, update, (x, jax.tree.map(lambda p: 0.1 * p, x), optimizer.init(x)))
        for name, x in trees.items()
    ]
    time_variants(record, "optimizer update", variants, sizes, parameters=count)
