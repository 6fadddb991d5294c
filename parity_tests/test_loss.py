"""The loss: mean cross-entropy in nats over the targets that count, and its mean over a text."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import jax_attn
import jax_attn.nn.chunked_loss
import jax_attn.training.step
import torch_ref
from parity_tests.harness.budgets import LOSS
from parity_tests.suite import pairs
from parity_tests.suite.pairs import B, C, Pair, T, V
from parity_tests.suite.tiers import (
    Arrays,
    Check,
    Checks,
    Function,
    assert_all,
    both_tiers,
    holds,
    in_jax,
    in_torch,
    semantic,
)

IGNORE = -1


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    yield from function_checks(rng)
    yield from outside_checks(rng)
    yield from parts_checks(rng)
    yield from accumulation_checks(rng)
    yield from evaluation_checks(rng)


def function_checks(rng: np.random.Generator) -> Checks:
    """On given logits: some targets ignored, rows of unequal length, extreme and sure logits."""
    logits, targets = rng.normal(size=(B, T, V)) * 3, pairs.tokens(rng, B, T)
    some = np.where(rng.random((B, T)) < 0.4, IGNORE, targets)
    some[0, 0], some[0, 1] = IGNORE, 3
    ragged = np.where(np.arange(T) < np.array([[2], [T]]), targets, IGNORE)
    sure = logits / 3 + 9 * (np.arange(V) == targets[..., None])
    cases = {
        "every target": (logits, targets),
        "some ignored": (logits, some),
        "ragged rows": (logits, ragged),
        "all ignored": (logits, np.full((B, T), IGNORE, np.int32)),
        "logits of 1000": (logits * 300, targets),
        "one token": (logits[:1, :1], targets[:1, :1]),
        "no batch axis": (logits[0], targets[0]),
    }
    for name, (given, wanted) in cases.items():
        arrays = {"logits": given, "targets": wanted}
        yield from both_tiers(name, reference_loss, port_loss, arrays, budget=LOSS)
    # One loss a token: the mean would hide how accurate a small one is.
    arrays = {"logits": sure + 100, "targets": targets}
    yield from both_tiers("sure predictions", *one_by_one(reference_loss, port_loss), arrays)
    yield holds("bfloat16 logits, float32 loss", bfloat16_loss_is_wide(logits, targets))


def reference_loss(arrays: Any) -> torch.Tensor:
    flat = arrays["logits"].reshape(-1, arrays["logits"].shape[-1])
    return F.cross_entropy(flat, arrays["targets"].reshape(-1), ignore_index=IGNORE)


def port_loss(arrays: Any) -> jax.Array:
    return jax_attn.next_token_loss(arrays["logits"], arrays["targets"])


def one_by_one(reference: Function, port: Function) -> tuple[Function, Function]:
    """The loss of every row of logits alone."""

    def rows(arrays):
        flat = arrays["logits"].reshape(-1, V), arrays["targets"].reshape(-1)
        return [{"logits": x[None], "targets": y[None]} for x, y in zip(*flat, strict=True)]

    return (
        lambda a: torch.stack([reference(row) for row in rows(a)]),
        lambda a: jnp.stack([port(row) for row in rows(a)]),
    )


def bfloat16_loss_is_wide(logits: Any, targets: Any) -> bool:
    rounded = jnp.asarray(logits, jnp.bfloat16)
    wide = np.asarray(rounded, np.float64)
    loss = jax_attn.next_token_loss(rounded, jnp.asarray(targets))
    expected = in_torch(reference_loss, {"logits": wide, "targets": targets}, np.float64)
    return loss.dtype == jnp.float32 and abs(float(loss) - expected) <= 8 * 2**-23 * expected


def outside_checks(rng: np.random.Generator) -> Checks:
    """A target that is no token: torch raises, compiled code must at least not count it as one."""
    for label in (-2, V, -V):
        targets = pairs.tokens(rng, B, T)
        targets[1, 2] = label
        arrays = {"logits": rng.normal(size=(B, T, V)), "targets": targets}
        loss = in_jax(port_loss, arrays, np.float64)
        yield holds(f"target {label} gives NaN", bool(np.isnan(loss)))


def output_arrays(rng: np.random.Generator) -> Arrays:
    """What an output matrix is given, its bias, and targets of which one is ignored."""
    targets = pairs.tokens(rng, B, T)
    targets[1, 2] = IGNORE
    return {
        "hidden": rng.normal(size=(B, T, C)),
        "matrix": rng.normal(size=(C, V)),
        "bias": rng.normal(size=V),
        "targets": targets,
    }


def output_reference(arrays: Any) -> torch.Tensor:
    logits = arrays["hidden"] @ arrays["matrix"] + arrays.get("bias", 0)
    return reference_loss({"logits": logits, "targets": arrays["targets"]})


def output_in_parts(arrays: Any) -> jax.Array:
    """With room for the logits of 5 of the 14 rows, their columns padded to a multiple of 128."""
    total, count = jax_attn.nn.chunked_loss.chunked_loss_sum(
        arrays["hidden"], arrays["matrix"], arrays.get("bias"), arrays["targets"], 5 * 128
    )
    return total / count


def parts_checks(rng: np.random.Generator) -> Checks:
    """Output matrix and loss in one, a part of the logits at a time."""
    arrays = output_arrays(rng)
    functions = output_reference, output_in_parts
    yield from both_tiers("in parts", *functions, arrays, budget=LOSS)
    without = {name: array for name, array in arrays.items() if name != "bias"}
    yield from both_tiers("in parts, without bias", *functions, without, budget=LOSS)
    for label in (-2, V, -V):
        arrays["targets"][0, 1] = label
        loss = in_jax(output_in_parts, arrays, np.float64)
        yield holds(f"in parts, target {label} gives NaN", bool(np.isnan(loss)))


def accumulation_checks(rng: np.random.Generator) -> Checks:
    """A batch in parts is the whole batch, though its parts hold unequal numbers of targets."""
    pair = pairs.bigram()
    targets = pairs.tokens(rng, 4, T)
    targets[0, 1:] = targets[2, ::2] = IGNORE
    arrays = {"weights": pair.weights(rng), "idx": pairs.tokens(rng, 4, T), "targets": targets}
    for parts in (1, 2, 4):

        def observe(model, a, parts=parts):
            state = jax_attn.TrainState.create(model, jax_attn.make_optimizer(OPTIMIZER, 1e-3, 1))
            loss, _, _ = jax_attn.training.step.loss_and_gradients(
                state, a["idx"], a["targets"], parts
            )
            return loss

        functions = pair.functions(lambda m, a: m(a["idx"], a["targets"])[1], observe)
        yield from both_tiers(f"in {parts} parts", *functions, arrays, budget=LOSS)


OPTIMIZER = jax_attn.OptimizerConfig()


def evaluation_checks(rng: np.random.Generator) -> Checks:
    """`evaluate` sees every token but the first once; `estimate_loss` is the lecture's."""
    pair = pairs.single_head()
    for length in (2, 41, 3 * 2 * T + 1):  # one target; a ragged end; full batches
        arrays = {"weights": pair.weights(rng), "tokens": pairs.tokens(rng, length)}
        yield evaluation(f"evaluate {length} tokens", pair, arrays)
    batches = {
        "weights": pair.weights(rng),
        "inputs": pairs.tokens(rng, 5, B, T),
        "targets": pairs.tokens(rng, 5, B, T),
    }
    yield semantic("estimate_loss", *pair.functions(reference_estimate, port_estimate), batches)


def evaluation(name: str, pair: Pair, arrays: Arrays) -> Check:
    """Window by window, end to end, as plain as can be."""

    def reference(model, a):
        tokens, total = a["tokens"], 0.0
        for start in range(0, len(tokens) - 1, T):
            window = tokens[start : start + T + 1]
            inputs, targets = window[None, :-1], window[None, 1:]
            total += float(model(inputs, targets)[1].detach()) * targets.numel()
        return np.array(total / (len(tokens) - 1))

    def port(model, a):
        return np.array(jax_attn.evaluate(model, a["tokens"], block_size=T, batch_size=2))

    return semantic(name, *pair.functions(reference, port), arrays)


def reference_estimate(model: Any, arrays: Any) -> Any:
    """The lecture's function, its batches handed to it in order; it keeps losses in the default."""
    batches = [*zip(arrays["inputs"], arrays["targets"], strict=True)]
    given = iter(batches * 2)  # it goes through "train" and "val"
    torch.set_default_dtype(torch.float64)
    try:
        return np.array(torch_ref.estimate_loss(model, lambda _: next(given), len(batches))["val"])
    finally:
        torch.set_default_dtype(torch.float32)


def port_estimate(model: Any, arrays: Any) -> Any:
    batches = jax_attn.GivenBatches(arrays["inputs"], arrays["targets"], jnp.int32(0))
    return np.array(jax_attn.estimate_loss(model, batches, len(arrays["inputs"])))


def test_checks():
    assert_all(checks(0))


@pytest.mark.parametrize("label", [-2, V])
def test_reference_raises_for_a_target_that_is_no_token(label):
    with pytest.raises((IndexError, RuntimeError)):
        F.cross_entropy(torch.zeros(1, V), torch.tensor([label]), ignore_index=IGNORE)
