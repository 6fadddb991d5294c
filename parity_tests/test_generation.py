"""Generation: the same tokens, the likeliest ones and sampled ones, inside the window and past it.

The port takes token i as argmax(logits + Gumbel noise of fold_in(key, i)), and the reference draws
its tokens from the same noise: equal tokens mean equal choices all the way. The logits of the steps
that the port's cache allows are compared with the reference's whole pass. Prompts of different
lengths in one batch of the port are one after another in the reference.
"""

from importlib import import_module
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_attn
import torch_ref
from parity_tests.suite import pairs
from parity_tests.suite.pairs import Pair, V
from parity_tests.suite.tiers import (
    Checks,
    Function,
    assert_all,
    both_tiers,
    in_jax,
    in_torch,
    round_floats,
    same_bits,
)
from torch_ref.generate import keep_likeliest

WINDOW = 5
MARGIN = 1e-3  # between the two best tokens; nearer than rounding, float32 may choose either
MODELS = {
    "bigram": pairs.bigram(),
    "single head": pairs.single_head(),
    "lecture GPT": pairs.gpt("lecture", block_size=WINDOW),
    "gpt2 GPT": pairs.gpt("gpt2", block_size=WINDOW),
    "bare GPT": pairs.gpt("bare", block_size=WINDOW),
    "a model without a cache": pairs.gpt("bare", block_size=WINDOW),
}


class Plain(nnx.Module):
    """A port that generation knows nothing about but how to call it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.block_size = WINDOW

    def __call__(self, idx: Any) -> Any:
        return self.model(idx)


GREEDY: dict[str, Any] = {"temperature": 0.0}


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    yield from sample_checks(rng)
    for name, settings in (
        ("lecture GPT", GREEDY),
        ("gpt2 GPT", {"temperature": 1.0, "top_p": 0.9}),
        ("a model without a cache", {"temperature": 1.0}),
    ):
        yield from ragged_checks(name, MODELS[name], settings, rng)
    for name in ("lecture GPT", "gpt2 GPT", "bare GPT", "single head"):
        yield from step_checks(name, MODELS[name], WINDOW, rng)
    for name, settings, lengths in (
        ("lecture GPT", GREEDY, (3, 9)),
        ("gpt2 GPT", GREEDY, (WINDOW + 3, 4)),
        ("bigram", GREEDY, (1, 6)),
        ("lecture GPT", {"temperature": 0.7}, (3, 9)),
        ("gpt2 GPT", {"temperature": 1.3, "top_k": 3}, (1, 9)),
        ("single head", {"temperature": 1.0}, (2, 15)),
        ("lecture GPT", {"temperature": 0.7, "top_k": 6, "top_p": 0.6}, (3, 9)),
        ("a model without a cache", {"temperature": 1.0}, (2, 6)),
    ):
        yield from generation_checks(name, MODELS[name], settings, lengths, rng)


def step_checks(name: str, pair: Pair, length: int, rng: np.random.Generator) -> Checks:
    """Logits [2 T V]: the first two positions' keys and values from one pass, then step by step."""
    arrays = {"weights": pair.weights(rng), "idx": pairs.tokens(rng, 2, length)}

    def port(a: Any) -> Any:
        model = pair.port(a["weights"])
        cache = tuple(layer.with_room(length) for layer in model.prefill(a["idx"][:, :2]))
        step = jax.jit(lambda idx, cache, position: model.step(idx, cache, position))
        logits = []
        for t in range(2, length):
            found, cache = step(a["idx"][:, t : t + 1], cache, jnp.int32(t))
            logits.append(found[:, 0])
        return jnp.stack(logits, axis=1)

    yield from both_tiers(
        f"{name}, logits of single steps",
        lambda a: pair.reference(a["weights"])(a["idx"])[0][:, 2:],
        port,
        arrays,
    )


def generation_checks(
    name: str, pair: Pair, settings: dict[str, Any], lengths: tuple[int, int], rng: Any
) -> Checks:
    """Prompts of two rows; `lengths` are the prompt's and how many tokens are added."""
    prompt_length, added = lengths
    key = jax.random.key(int(rng.integers(2**31)))
    for dtype in (np.float64, np.float32):
        label = f"{name}, {', '.join(f'{k} {v:g}' for k, v in settings.items())}"
        label += f", {np.dtype(dtype).name}"
        while True:
            weights = round_floats(pair.weights(rng), np.float32)
            arrays = {"weights": weights, "prompt": pairs.tokens(rng, 2, prompt_length)}
            keys = [] if settings is GREEDY else [jax.random.fold_in(key, i) for i in range(added)]
            noise = gumbel_noise(keys, dtype)
            found = in_torch(
                reference_tokens(pair, added, settings),
                arrays | {"noise": noise},
                np.float64,
                label,
            )
            if found["lead"] > MARGIN:
                break
        got = in_jax(lambda a: port_tokens(pair, a, added, key, settings), arrays, dtype)
        yield same_bits(label, found["tokens"].astype(np.int32), got)


def port_tokens(pair: Pair, arrays: Any, added: int, key: Any, settings: dict[str, Any]) -> Any:
    model = pair.port(arrays["weights"])
    if pair is MODELS["a model without a cache"]:
        model = Plain(model)
    return jax_attn.generate(model, arrays["prompt"], added, key=key, **settings)


def ragged_checks(name: str, pair: Pair, settings: dict[str, Any], rng: Any) -> Checks:
    """Prompts with a key each: of one token, within the window, at its end, and past it."""
    lengths, added = (1, 2, WINDOW, WINDOW + 2), 8
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), len(lengths))
    label = f"{name}, prompts of {lengths}, {', '.join(f'{k} {v:g}' for k, v in settings.items())}"
    while True:
        weights = round_floats(pair.weights(rng), np.float32)
        prompt = pairs.tokens(rng, len(lengths), max(lengths))
        expected, leads = np.full((len(lengths), max(lengths) + added), -1, np.int32), []
        for row, length in enumerate(lengths):
            own = [jax.random.fold_in(keys[row], i) for i in range(added)]
            noise = gumbel_noise([] if settings is GREEDY else own, np.float32, rows=1)
            arrays = {"weights": weights, "prompt": prompt[row : row + 1, :length], "noise": noise}
            reference = reference_tokens(pair, added, settings)
            found = in_torch(reference, arrays, np.float64, label)
            expected[row, : length + added] = found["tokens"][0]
            leads.append(found["lead"])
        if min(leads) > MARGIN:
            break
    arrays = {"weights": weights, "prompt": prompt}
    settings = settings | {"lengths": np.array(lengths)}
    got = in_jax(lambda a: port_tokens(pair, a, added, keys, settings), arrays, np.float32)
    yield same_bits(label, expected, got)


def gumbel_noise(keys: list[Any], dtype: Any, rows: int = 2) -> Any:
    """[N rows V]: what is added to logits of this type."""
    with jax.enable_x64(dtype == np.float64):
        noise = [np.asarray(jax.random.gumbel(key, (rows, V), dtype), np.float64) for key in keys]
    return np.array(noise).reshape(len(keys), rows, V)


def reference_tokens(pair: Pair, added: int, settings: dict[str, Any]) -> Function:
    """The tokens, and the smallest lead that one of them had over the next best."""

    def run(a: Any) -> Any:
        model = pair.reference(a["weights"])
        steps, leads = iter(a["noise"]), []

        def note(scores: torch.Tensor) -> None:
            best = scores.detach().topk(2, dim=-1).values
            leads.append((best[:, 0] - best[:, 1]).min())

        def multinomial(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
            scores = probs.log() + next(steps)
            note(scores)
            return scores.argmax(dim=-1, keepdim=True)

        if settings is GREEDY:
            model.register_forward_hook(lambda _, __, output: note(output[0][:, -1]))
        size = getattr(model, "block_size", None)
        with mock.patch.object(torch, "multinomial", multinomial):
            tokens = torch_ref.generate(model, a["prompt"], added, size, **settings)
        return {"tokens": tokens, "lead": torch.stack(leads).min()}

    return run


def sample_checks(rng: np.random.Generator) -> Checks:
    """One draw for many rows, against argmax(logits + noise) among those that torch keeps."""
    sampling = import_module("jax_attn.generate.sampling")
    logits = rng.normal(size=(61, V)).astype(np.float32) * 2
    key = jax.random.key(int(rng.integers(2**31)))
    noise = jax.random.gumbel(key, logits.shape, jnp.float32)
    noise_in_torch = torch.tensor(np.asarray(noise))
    for top_k in (None, 1, 3, V, V + 2):
        expected = (kept_by_torch(logits, top_k) + noise_in_torch).argmax(-1).to(torch.int32)
        got = np.asarray(sampling.sample(jnp.asarray(logits), noise, jnp.ones(()), top_k)).astype(
            np.int32
        )
        yield same_bits(f"sample, top_k {top_k}", expected, got)
    for top_k, top_p in ((None, 1e-6), (None, 0.3), (None, 0.8), (None, 0.99), (7, 0.6)):
        label = f"sample, top_k {top_k}, top_p {top_p}"
        kept = kept_by_torch(logits / np.float32(0.6), top_k, top_p)
        given = jnp.asarray(logits), noise, jnp.float32(0.6), top_k, jnp.float32(top_p)
        expected = (kept + noise_in_torch).argmax(-1).to(torch.int32)
        yield same_bits(label, expected, np.asarray(sampling.sample(*given)).astype(np.int32))
        if top_k is None:
            got = np.isfinite(np.asarray(sampling.likeliest(given[0], given[2], given[4])))
            yield same_bits(f"{label}, which are kept", kept.isfinite(), got)


def kept_by_torch(
    logits: np.ndarray, top_k: int | None, top_p: float | None = None
) -> torch.Tensor:
    kept = torch.tensor(logits)
    if top_k is not None:
        smallest = kept.topk(min(top_k, V)).values[:, [-1]]
        kept = kept.masked_fill(kept < smallest, float("-inf"))
    return kept if top_p is None else keep_likeliest(kept, top_p)


def test_checks():
    assert_all(checks(0))
