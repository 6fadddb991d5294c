"""Generation: the same tokens, the likeliest ones and sampled ones, inside the window and past it.

The port samples as argmax(logits + Gumbel noise of a key). The keys it used are recorded, and the
reference draws its tokens from the same noise: equal tokens mean equal choices all the way.
"""

from importlib import import_module
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attn
import torch_ref
from parity_tests.harness import pairs
from parity_tests.harness.pairs import Pair, V
from parity_tests.harness.tiers import (
    Arrays,
    Checks,
    Function,
    assert_all,
    holds,
    in_jax,
    in_torch,
    round_floats,
    same_bits,
)

WINDOW = 5
MARGIN = 1e-3  # between the two best tokens; nearer than rounding, float32 may choose either
MODELS = {
    "bigram": pairs.bigram(),
    "single head": pairs.single_head(),
    "lecture GPT": pairs.gpt("lecture", block_size=WINDOW),
    "gpt2 GPT": pairs.gpt("gpt2", block_size=WINDOW),
}
GREEDY: dict[str, Any] = {"temperature": 0.0}


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    yield from sample_checks(rng)
    for name, settings, lengths in (
        ("lecture GPT", GREEDY, (3, 9)),
        ("gpt2 GPT", GREEDY, (WINDOW + 3, 4)),
        ("bigram", GREEDY, (1, 6)),
        ("lecture GPT", {"temperature": 0.7}, (3, 9)),
        ("gpt2 GPT", {"temperature": 1.3, "top_k": 3}, (1, 9)),
        ("single head", {"temperature": 1.0}, (2, 15)),
    ):
        yield from generation_checks(name, MODELS[name], settings, lengths, rng)


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
            keys = [] if settings is GREEDY else port_keys(pair, arrays, added, key, settings)
            if settings is not GREEDY:
                different = {np.asarray(jax.random.key_data(k)).tobytes() for k in keys}
                fresh = len(different) == len(keys) == added
                yield holds(f"{label}: a fresh key at every step", fresh)
                if not fresh:
                    return
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
    return jax_attn.generate(model, arrays["prompt"], added, key=key, **settings)


def port_keys(
    pair: Pair, arrays: Arrays, added: int, key: Any, settings: dict[str, Any]
) -> list[Any]:
    """The keys that an uncompiled run hands to `jax.random.categorical`, in order."""
    keys: list[Any] = []
    categorical = jax.random.categorical

    def note(key: Any, *args: Any, **kwargs: Any) -> Any:
        keys.append(key)
        return categorical(key, *args, **kwargs)

    with jax.disable_jit(), mock.patch.object(jax.random, "categorical", note):
        in_jax(lambda a: port_tokens(pair, a, added, key, settings), arrays, np.float32)
    return keys


def gumbel_noise(keys: list[Any], dtype: Any) -> Any:
    """[N 2 V]: what `categorical` adds to logits of this type. jax documents that it is this."""
    with jax.enable_x64(dtype == np.float64):
        noise = [np.asarray(jax.random.gumbel(key, (2, V), dtype), np.float64) for key in keys]
    return np.array(noise).reshape(len(keys), 2, V)


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
    """One draw for many rows, against argmax(logits + noise) among torch's `topk`."""
    sample = import_module("jax_attn.generate").sample
    logits = rng.normal(size=(61, V)).astype(np.float32) * 2
    key = jax.random.key(int(rng.integers(2**31)))
    noise = torch.tensor(np.asarray(jax.random.gumbel(key, logits.shape, jnp.float32)))
    for top_k in (None, 1, 3, V, V + 2):
        kept = torch.tensor(logits)
        if top_k is not None:
            smallest = kept.topk(min(top_k, V)).values[:, [-1]]
            kept = kept.masked_fill(kept < smallest, float("-inf"))
        expected = (kept + noise).argmax(-1).to(torch.int32)
        got = np.asarray(sample(jnp.asarray(logits), key, top_k)).astype(np.int32)
        yield same_bits(f"sample, top_k {top_k}", expected, got)


@pytest.mark.parametrize("seed", [0, 1])
def test_checks(seed):
    assert_all(checks(seed))
