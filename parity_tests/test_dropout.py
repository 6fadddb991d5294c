"""Dropout: its places, what it keeps and how it scales, when it is on, which masks it takes.

The frameworks draw differently, so both are handed the same uniform numbers u; an entry is kept
where u < 1 - p. What the port draws by itself is checked for its rate and for being fresh.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_attn
import jax_attn.nn.dropout
import jax_attn.training.step
import torch_ref
from parity_tests.harness.budgets import FORWARD, GRADIENT
from parity_tests.suite import pairs
from parity_tests.suite.gradients import (
    by_reference_name,
    clear_of_kinks,
    heads_joined,
    reference_gradients,
)
from parity_tests.suite.pairs import B, C, H, T
from parity_tests.suite.tiers import (
    Checks,
    assert_all,
    both_tiers,
    holds,
    in_jax,
    same_bits,
    semantic,
)

RATE = 0.3
WEIGHTS, BRANCH = (B, H, T, T), (B, T, C)
OPTIMIZER = jax_attn.OptimizerConfig()


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    yield from training_checks(rng)
    yield from evaluation_checks(rng)
    yield from stream_checks(rng)


def training_checks(rng: np.random.Generator) -> Checks:
    """Outputs and gradients in training, both sides dropping the same entries."""
    modules = {
        "multi-head": (pairs.multi_head(dropout=RATE), [WEIGHTS, BRANCH]),
        "feed-forward": (pairs.feed_forward(dropout=RATE), [BRANCH]),
        "block": (pairs.block(dropout=RATE), [WEIGHTS, BRANCH, BRANCH]),
    }
    for name, (pair, shapes) in modules.items():
        arrays = {
            "weights": pair.weights(rng),
            "x": rng.normal(size=(B, T, C)),
            "uniform": [rng.random(shape) for shape in shapes],
        }
        reference, port = pair.functions(
            lambda m, a: in_training(m, a, lambda: m(a["x"])),
            lambda m, a: in_training(m, a, lambda: m(a["x"])),
        )
        yield from both_tiers(f"{name} in training", reference, port, arrays, budget=FORWARD)
    pair = pairs.gpt("lecture", n_layer=1, dropout_rate=RATE)
    while True:
        arrays = {
            "weights": pair.weights(rng),
            "idx": pairs.tokens(rng, B, T),
            "targets": pairs.tokens(rng, B, T),
            "uniform": [rng.random(shape) for shape in (WEIGHTS, BRANCH, BRANCH)],
        }
        module = pair.reference({k: torch.tensor(w) for k, w in arrays["weights"].items()})
        tensors = {
            "uniform": [torch.tensor(u) for u in arrays["uniform"]],
            "idx": torch.tensor(arrays["idx"]),
        }
        if clear_of_kinks(
            module, lambda m, a=tensors: in_training(m, a, lambda: m(a["idx"].long()))
        ):
            break
    functions = pair.functions(
        lambda m, a: in_training(
            m,
            a,
            lambda: heads_joined(
                reference_gradients(m, a, lambda m, a: m(a["idx"], a["targets"])[1], ()),
                torch.stack,
            ),
        ),
        lambda m, a: in_training(m, a, lambda: port_loss_gradients(m, a)),
    )
    yield from both_tiers("gradients in training", *functions, arrays, budget=GRADIENT)


def in_training(module: Any, arrays: Any, run: Any) -> Any:
    """`run()` with the module in training and the given numbers in place of random ones."""
    module.train()
    patches = given_to_torch if isinstance(module, torch.nn.Module) else given_to_jax
    with patches(arrays["uniform"]):
        return run()


@contextmanager
def given_to_jax(uniform: Sequence[Any]) -> Iterator[None]:
    """The port's masks, and those of `jax.random.bernoulli`, take their numbers from here.

    A mask of another shape than is expected next keeps nothing, so that the outputs differ.
    """
    numbers = iter(uniform)

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, **kwargs: Any) -> Any:
        drawn = next(numbers, np.zeros(()))
        return drawn < p if drawn.shape == tuple(shape) else jnp.zeros(shape, bool)

    def keep_mask(key: Any, rate: float, shape: Any) -> Any:
        return bernoulli(key, 1 - rate, shape)

    with (
        mock.patch.object(jax.random, "bernoulli", bernoulli),
        mock.patch.object(jax_attn.nn.dropout, "keep_mask", keep_mask),
    ):
        yield


@contextmanager
def given_to_torch(uniform: Sequence[torch.Tensor]) -> Iterator[None]:
    """`F.dropout` likewise; numbers for all heads are handed out head by head."""

    def one_by_one() -> Iterator[torch.Tensor]:
        for drawn in uniform:
            yield from drawn.unbind(1) if drawn.ndim == 4 else [drawn]

    numbers = one_by_one()

    def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return x * (next(numbers) < 1 - p) / (1 - p) if training else x

    with mock.patch.object(torch.nn.functional, "dropout", dropout):
        yield


def port_loss_gradients(model: Any, arrays: Any) -> Any:
    state = jax_attn.TrainState.create(model, jax_attn.make_optimizer(OPTIMIZER, 1e-3, 1))
    _, gradients, _ = jax_attn.training.step.loss_and_gradients(
        state, arrays["idx"], arrays["targets"]
    )
    named = by_reference_name(nnx.merge(state.graphdef, gradients, state.rest))
    return heads_joined(named, np.stack)


def evaluation_checks(rng: np.random.Generator) -> Checks:
    """Off in evaluation and generation, in whatever mode the model is; which it keeps."""
    pair = pairs.gpt("lecture", n_layer=1, dropout_rate=RATE)
    arrays = {"weights": pair.weights(rng), "idx": pairs.tokens(rng, B, T)}
    yield semantic(
        "fresh model",
        *pair.functions(lambda m, a: m(a["idx"])[0], lambda m, a: m(a["idx"])),
        arrays,
    )
    key = jax.random.key(int(rng.integers(2**31)))
    modes: list[bool] = []

    def evaluated(m: Any, a: Any) -> Any:
        m.train()
        length = a["idx"].shape[1]
        loss = jax_attn.evaluate(m, a["idx"].reshape(-1), block_size=length, batch_size=2)
        batches = jax_attn.GivenBatches(a["idx"][None], a["idx"][None], jnp.int32(0))
        estimate = jax_attn.estimate_loss(m, batches, 1)
        tokens = jax_attn.generate(m, a["idx"], 4, key=key, temperature=0.0)
        modes.append(not m.blocks[0].ffwd.dropout.deterministic)
        return {"loss": np.array(loss), "estimate": np.array(estimate), "tokens": tokens}

    def expected(m: Any, a: Any) -> Any:
        tokens = a["idx"].reshape(-1)
        starts = range(0, len(tokens) - 1, T)
        windows = [(tokens[i : i + T + 1][:-1], tokens[i + 1 : i + T + 1]) for i in starts]
        total = sum(float(m(x[None], y[None])[1].detach()) * len(y) for x, y in windows)
        return {
            "loss": np.array(total / (len(tokens) - 1)),
            "estimate": m(a["idx"], a["idx"])[1],
            "tokens": torch_ref.generate(m, a["idx"], 4, m.block_size, temperature=0.0),
        }

    functions = pair.functions(expected, evaluated)
    yield semantic("evaluate, estimate and generate in training mode", *functions, arrays)
    yield holds("the mode is kept", modes == [True])


def stream_checks(rng: np.random.Generator) -> Checks:
    """The port's own masks: the right rate, and new ones at every call, layer, row and step."""
    rate, n = 0.2, 20_000
    layer = jax_attn.nn.dropout.dropout(rate, nnx.Rngs(int(rng.integers(2**31))))
    layer.train()
    first, second = (np.asarray(layer(jnp.ones(n))) for _ in range(2))
    deviation = (rate * (1 - rate) / n) ** 0.5
    yield holds("rate", abs(float((first == 0).mean()) - rate) < 6 * deviation)
    yield holds("scale", bool(np.isclose(np.unique(first), [0, 1 / (1 - rate)]).all()))
    yield holds("a new mask at every call", bool((first != second).any()))
    kept = first.reshape(2, -1) > 0  # the two draws of each word
    together = float(np.asarray(np.corrcoef(kept))[0, 1])
    yield holds("two draws from a word are independent", abs(together) < 6 / (n / 2) ** 0.5)

    pair = pairs.gpt("lecture", n_layer=2, dropout_rate=RATE)
    weights = pair.weights(rng)
    row = pairs.tokens(rng, 1, T)
    arrays = {"weights": weights, "idx": np.repeat(row, B, axis=0)}
    masks: list[Any] = []

    def observe(m: Any, a: Any) -> Any:
        m.train()
        keep_mask = jax_attn.nn.dropout.keep_mask

        def note(*args: Any) -> Any:
            masks.append(keep_mask(*args))
            return masks[-1]

        with mock.patch.object(jax_attn.nn.dropout, "keep_mask", note):
            return m(a["idx"])

    in_jax(lambda a: observe(pair.port(a["weights"], real_streams=True), a), arrays, np.float32)
    different = {np.asarray(mask)[b].tobytes() for mask in masks for b in range(B)}
    yield holds("a mask for every layer, place and row", len(different) == 2 * 3 * B)
    yield from step_checks(row, rng)


def step_checks(row: Any, rng: np.random.Generator) -> Checks:
    """The same batch again and again at learning rate 0: only the masks can change the loss."""
    pair = pairs.gpt("lecture", n_layer=1, dropout_rate=RATE)
    weights = pair.weights(rng)
    optimizer = jax_attn.make_optimizer(OPTIMIZER, 0.0, 6)

    def losses(chunks: int) -> Any:
        def run(a: Any) -> Any:
            model = pair.port(a["weights"], real_streams=True)
            state = jax_attn.TrainState.create(model, optimizer)
            batches = jax_attn.GivenBatches(a["inputs"], a["inputs"], jnp.int32(0))
            found = []
            for _ in range(chunks):
                state, some = jax_attn.train_chunk(state, batches, optimizer, 6 // chunks)
                found.append(some)
            return jnp.concatenate(found)

        inputs = np.broadcast_to(row, (6, B, T)).copy()
        return in_jax(run, {"weights": weights, "inputs": inputs}, np.float32)

    whole = losses(1)
    yield holds("new masks at every step", len(np.unique(whole)) == 6)
    yield same_bits("masks do not depend on the length of a chunk", whole, losses(2))


def test_checks():
    assert_all(checks(0))
