import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja
from jax_attn.training.optim import clip_by_global_norm

PLAIN = ja.OptimizerConfig()


def test_warm_up_then_cosine():
    config = dataclasses.replace(PLAIN, schedule="cosine", warmup_steps=10, final_fraction=0.1)
    rate = ja.learning_rate_schedule(config, 1.0, 110)
    np.testing.assert_allclose(
        [rate(0), rate(4), rate(9), rate(10), rate(60), rate(110), rate(500)],
        [0.1, 0.5, 1, 1, 0.55, 0.1, 0.1],
        atol=1e-6,
    )


def test_constant_schedule_is_the_learning_rate_from_the_first_step():
    rate = ja.learning_rate_schedule(PLAIN, 3e-4, 10)
    np.testing.assert_allclose([rate(0), rate(9)], 3e-4)


def test_clipping_is_torchs_formula():
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # norm 5
    clipped, _ = clip_by_global_norm(1.0).update(gradients, None)
    np.testing.assert_allclose(clipped["a"], [3 / (5 + 1e-6), 0], rtol=1e-7)
    small = {"a": jnp.array([0.3])}
    np.testing.assert_array_equal(clip_by_global_norm(1.0).update(small, None)[0]["a"], small["a"])


def test_first_adamw_step_closed_form():
    """At t = 1 the corrected moments are g and g², so a parameter moves by lr (sign(g) + wd p)."""
    optimizer = ja.make_optimizer(PLAIN, 0.1, 10)
    params = {"w": jnp.array([[2.0]])}
    state = optimizer.init(params)
    updates, _ = optimizer.update({"w": jnp.array([[-0.7]])}, state, params)
    np.testing.assert_allclose(updates["w"], [[0.1 * (1 - 0.01 * 2.0)]], rtol=1e-5)


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_decay_falls_on_what_it_should(decay):
    config = dataclasses.replace(PLAIN, decay=decay, weight_decay=0.5)
    optimizer = ja.make_optimizer(config, 0.1, 10)
    params = {"matrix": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = {"matrix": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["matrix"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], -0.05 if decay == "all" else 0.0, rtol=1e-6)
