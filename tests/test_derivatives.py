"""Derivatives of every kind: forwards, a second time, and under vmap, of functions with their own.

The oracle is a difference quotient in float64, or another order of the same derivatives.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.compiling.compile import compile_for
from jax_attn.compiling.targets import TARGETS
from jax_attn.nn import chunked_loss
from jax_attn.nn.blocked import QUERY_BLOCK
from jax_attn.nn.ops.own_derivative import own_derivative

V, T, C = 11, 8, 6
SMALL = {"vocab_size": V, "block_size": T, "n_layer": 1, "n_head": 2, "n_embd": C}
MODELS = {
    "bigram": lambda **how: ja.BigramLanguageModel(V, **how),
    "head": lambda **how: ja.SingleHeadLanguageModel(V, T, C, 3, **how),
    "gpt2": lambda **how: ja.GPT(ja.GPTConfig.gpt2(**SMALL), **how),
}
STEP = 1e-6
# Compiling is nearly all that these tests take.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def loss_of(name):
    """Of a model's parameters; they, a direction for them, and the tokens."""
    model = MODELS[name](rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    ids, targets = (jnp.asarray(rng.integers(0, V, (3, 7)), jnp.int32) for _ in range(2))
    targets = targets.at[0, 2].set(-1)

    def loss(params, ids=ids, targets=targets):
        return ja.next_token_loss(nnx.merge(graphdef, params, rest)(ids), targets)

    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
    return loss, params, direction, (ids, targets)


def moved(params, direction, by):
    return jax.tree.map(lambda x, d: x + by * d, params, direction)


def quotient(function, params, direction):
    """The derivative of `function` along `direction`, to some nine digits."""
    function = jit(function)
    above, below = (function(moved(params, direction, by)) for by in (STEP, -STEP))
    return jax.tree.map(lambda a, b: (a - b) / (2 * STEP), above, below)


def dot(a, b):
    return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))


def close(got, expected, rtol=1e-11):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MODELS)
def test_of_a_models_loss(name):
    loss, params, direction, (ids, targets) = loss_of(name)
    gradient = jax.grad(loss)

    def along(params):
        return jax.jvp(loss, (params,), (direction,))[1]

    def differentiate(params):
        _, linear = jax.linearize(loss, params)
        halves = jax.vmap(lambda share: linear(moved(direction, direction, share - 1)))(
            jnp.array([0.5, 2.0])
        )
        second = {
            "forward over reverse": jax.jvp(gradient, (params,), (direction,))[1],
            "reverse over forward": jax.grad(along)(params),
            "reverse over reverse": jax.grad(lambda p: dot(gradient(p), direction))(params),
        }
        each = jax.vmap(lambda i, t: jax.jvp(lambda p: loss(p, i, t), (params,), (direction,))[1])
        return {
            "jvp": along(params),
            "linearize under vmap": halves,
            "second": second,
            "forward over forward": jax.jvp(along, (params,), (direction,))[1],
            "remat": jax.jvp(jax.checkpoint(loss), (params,), (direction,))[1],
            "each sequence": each(ids[1:, None], targets[1:, None]),
            "gradient of each": jax.vmap(lambda i, t: dot(jax.grad(loss)(params, i, t), direction))(
                ids[1:, None], targets[1:, None]
            ),
        }

    found = jit(differentiate)(params)
    slope, curvature = quotient(lambda p: (loss(p), gradient(p)), params, direction)
    close(found["jvp"], slope, 1e-7)
    close(found["jvp"], dot(gradient(params), direction))
    close(found["remat"], found["jvp"])
    close(found["linearize under vmap"], found["jvp"] * np.array([0.5, 2.0]))
    product = found["second"]["forward over reverse"]
    close(product, curvature, 1e-6)
    for other in found["second"].values():
        close(other, product)
    close(found["forward over forward"], dot(product, direction))
    close(found["each sequence"], found["gradient of each"])


@pytest.mark.usefixtures("x64")
def test_hessian_of_a_head():
    head = ja.Head(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    rng = np.random.default_rng(0)
    x, weights = jnp.asarray(rng.normal(size=(1, 5, 3))), jnp.asarray(rng.normal(size=(1, 5, 2)))

    def function(x):
        return (head(x) * weights).sum()

    hessian = jit(jax.hessian(function))(x).reshape(15, 15)
    gradient = jit(jax.grad(function))
    units = STEP * np.eye(15).reshape(15, *x.shape)
    rows = [(gradient(x + d) - gradient(x - d)).ravel() / (2 * STEP) for d in units]
    close(hessian, np.stack(rows), 1e-6)
    close(hessian, hessian.T)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("derive", [jax.grad, jax.hessian])
def test_under_vmap_as_one_by_one(derive):
    """Of attention in blocks; of all its inputs, and of one alone by another axis."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 3, QUERY_BLOCK + 1, 1)))

    def attention(q, k, v, w):
        return (ja.dot_product_attention(q, k, v, implementation="blocked") * w).sum()

    derivative = derive(attention)
    function = jit(derivative)
    one_by_one = [function(*x[:, i]) for i in range(3)]
    close(jit(jax.vmap(derivative))(*x), jnp.stack(one_by_one))
    one_by_one = [function(x[0, i], *x[1:, 0]) for i in range(3)]
    mapped = jit(jax.vmap(derivative, (1, None, None, None)))
    close(mapped(x[0].swapaxes(0, 1), *x[1:, 0]), jnp.stack(one_by_one))


@pytest.mark.usefixtures("x64")
def test_of_the_loss_in_parts():
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 5, 3)))
    output = {
        "matrix": jnp.asarray(rng.normal(size=(3, V))),
        "bias": jnp.asarray(rng.normal(size=V)),
    }
    targets = jnp.asarray(rng.integers(-1, V, (2, 5)), jnp.int32)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), output)

    def loss(output):
        return chunked_loss.chunked_loss_sum(
            hidden, output["matrix"], output["bias"], targets, most_logits=4 * V
        )[0]

    slope, curvature = quotient(lambda o: (loss(o), jax.grad(loss)(o)), output, direction)
    both = jit(lambda *given: jax.jvp(lambda o: (loss(o), jax.grad(loss)(o)), *given)[1])
    along, product = both((output,), (direction,))
    close(along, slope, 1e-7)
    close(product, curvature, 1e-6)


@pytest.mark.parametrize(
    ("target", "implementation"), [("h100", "cudnn"), ("tpu-v5e", "tpu_flash")]
)
def test_of_the_makers_kernels(target, implementation):
    """Forwards they give way to attention in blocks; in reverse they are what runs."""
    arrays = [jax.ShapeDtypeStruct((2, 2, 128, 64), jnp.bfloat16)] * 3

    def loss(*arrays):
        return ja.dot_product_attention(*arrays, implementation=implementation).sum()

    def text(function):
        with jax.default_matmul_precision(None):  # the highest is none of the TPU kernel's
            return compile_for(TARGETS[target], jax.jit(function), *arrays).as_text()

    kernels = {"cudnn": "__cudnn$fmha", "tpu_flash": '"tpu_custom_call"'}[implementation]
    assert kernels in text(loss)
    assert kernels in text(jax.grad(loss, argnums=(0, 1, 2)))
    assert kernels in text(jax.vmap(jax.grad(loss)))
    assert kernels not in text(lambda *arrays: jax.jvp(jax.grad(loss), arrays, arrays)[1])


class TestConventions:
    """Of the decorator itself: with a function whose two ways differ, to see which was taken."""

    @staticmethod
    def marked():
        """2ab; in reverse mode its derivative is 1000 times what it is."""

        @own_derivative(nondiff_argnums=(1,))
        def product(ab, factor, count=None):
            """The docstring."""
            del count
            return {"result": factor * ab["a"] * ab["b"]}

        def forward(ab, factor, count):
            return product(ab, factor, count), (ab, factor)

        def backward(factor, saved, cotangent):
            ab, kept = saved
            thousand = 1000 * kept * cotangent["result"]
            assert factor == 2
            return {"a": thousand * ab["b"], "b": thousand * ab["a"]}, None

        product.defvjp(forward, backward)
        return product

    def test_reverse_mode_is_what_was_given_and_forward_mode_the_functions_own(self):
        product = self.marked()
        ab = {"a": jnp.float32(3), "b": jnp.float32(5)}

        def function(ab):
            return product(ab, 2, count=jnp.int32(1))["result"]

        assert product.__doc__ == "The docstring."
        assert function(ab) == 30
        assert jax.grad(function)(ab) == {"a": 10_000, "b": 6_000}
        assert jax.jvp(function, (ab,), ({"a": jnp.float32(1), "b": jnp.float32(0)},)) == (30, 10)
        assert jax.jvp(lambda a: function({"a": a, "b": 5.0}), (3.0,), (1.0,)) == (30, 10)
        assert jax.vmap(jax.grad(function))({"a": jnp.ones(2), "b": jnp.ones(2)})["a"][1] == 2000
        assert jax.jit(jax.grad(function))(ab)["b"] == 6_000
        a_only = jax.grad(lambda a: product({"a": a, "b": 5.0}, 2, None)["result"])
        assert a_only(3.0) == 10_000
        # Further derivatives are the function's own.
        assert jax.grad(lambda b: jax.grad(lambda a: function({"a": a, "b": b}))(3.0))(5.0) == 2

    def test_arguments_are_named_as_the_function_has_them(self):
        with pytest.raises(TypeError, match="factor"):
            self.marked()({"a": 1.0, "b": 1.0}, factr=2)
