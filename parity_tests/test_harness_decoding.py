"""Decoding from a cache, and padding: the two faults that public ports have, and their kin."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from parity_tests import compare_decoding, lift_float32, transformers_decoding
from parity_tests.hand_cast_decoders import llama, weights_of
from parity_tests.harness.decoding import DecodingReport

RANDOM = np.random.default_rng(0)
V, C, LONGEST, WINDOW = 11, 6, 16, 5
TOKENS = RANDOM.integers(1, V, (3, 11))
WEIGHTS = {
    name: RANDOM.normal(size=shape)
    for name, shape in {
        "token": (V, C),
        "position": (LONGEST, C),
        "query": (C, C),
        "key": (C, C),
        "value": (C, C),
        "head": (C, V),
    }.items()
}


def attention(
    tokens: Any, mask: Any, cache: Any = None, *, window: int | None = None, fault: str = ""
) -> tuple[Any, Any]:
    """One head, learned positions, a sliding window, and a cache that grows.

    In NumPy: a model may be of anything, and this compiles nothing for its many lengths.
    """
    tokens, mask, w = np.asarray(tokens), np.asarray(mask), WEIGHTS
    decoding = cache is not None
    if fault == "padding ignored":
        mask = np.ones_like(mask)
    if decoding and fault == "window ignored when decoding":
        window = None
    if window and fault == "window off by one":
        window += 1
    positions = np.cumsum(mask, 1) - 1
    if fault == "positions count padding":
        positions = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    if decoding and fault == "position off by one":
        positions = positions + 1
    new = positions[:, -tokens.shape[1] :]
    x = w["token"][tokens] + w["position"][new]
    key, value = x @ w["key"], x @ w["value"]
    if decoding:
        old_key, old_value = cache
        if window and fault == "window rolled":
            old_key, old_value = old_key[:, -window + 2 :], old_value[:, -window + 2 :]
        key, value = np.concatenate([old_key, key], 1), np.concatenate([old_value, value], 1)
    seen = positions[:, None, -key.shape[1] :]
    visible = mask[:, None, -key.shape[1] :] & (seen <= new[:, :, None])
    if window:
        visible &= seen > new[:, :, None] - window
    scores = np.where(visible, x @ w["query"] @ key.mT / C, -1e30)
    wei = np.exp(scores - scores.max(-1, keepdims=True))
    y = x + wei / wei.sum(-1, keepdims=True) @ value
    cache = (value, key) if fault == "cache swapped" and not decoding else (key, value)
    return y @ w["head"], cache


def compared(
    window: int | None = None, full_fault: str = "", step_fault: str = ""
) -> DecodingReport:
    def full(tokens: Any, mask: Any) -> Any:
        return attention(tokens, mask, window=window, fault=full_fault)[0]

    def step(tokens: Any, mask: Any, cache: Any) -> Any:
        return attention(tokens, mask, cache, window=window, fault=step_fault)

    return compare_decoding(full, step, TOKENS)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_a_right_one(window: int | None) -> None:
    report = compared(window)
    assert report.ok, report
    assert report.verdict == (
        "same: cached decoding after prompts of 1 and 3 with the full forward; left padding of 3; "
        "right padding of 3; 3 rows, no length beyond 11"
    )
    assert "not compared: the full forward with the reference's (no `reference`)" in str(report)


BOTH = ("padding ignored", "positions count padding")


@pytest.mark.parametrize(
    ("fault", "said", "position"),
    [
        ("padding ignored", "left padding of 3 changes the logits of the full forward", 0),
        ("positions count padding", "left padding of 3 changes the logits of the full forward", 0),
        ("window ignored when decoding", "cached decoding after a prompt of 1 differs", WINDOW),
        ("window off by one", "cached decoding after a prompt of 1 differs", WINDOW),
        ("window rolled", "cached decoding after a prompt of 1 differs", WINDOW - 1),
        ("position off by one", "cached decoding after a prompt of 1 differs", 1),
        ("cache swapped", "cached decoding after a prompt of 1 differs", 1),
    ],
)
def test_planted_faults(fault: str, said: str, position: int) -> None:
    report = compared(WINDOW, fault if fault in BOTH else "", fault)
    first = report.findings[0]
    assert first.what.startswith(said)
    assert first.position == position
    assert first.relative > 0.01
    assert f"from position {position} on: by " in report.verdict


def test_padding_that_only_decoding_ignores() -> None:
    report = compared(None, "", "padding ignored")
    (finding,) = report.findings
    assert finding.what == "left padding of 3 changes the logits of cached decoding"


def test_tokens_within_the_window_cannot_show_it_and_the_length_is_said() -> None:
    report = compare_decoding(
        lambda t, m: attention(t, m, window=9)[0],
        lambda t, m, c: attention(t, m, c, window=9, fault="window ignored when decoding"),
        TOKENS[:, :8],
    )
    assert report.ok
    assert "no length beyond 8" in report.verdict


def test_only_the_last_logits_of_a_prompt() -> None:
    def step(tokens: Any, mask: Any, cache: Any) -> Any:
        logits, cache = attention(tokens, mask, cache)
        return logits[:, -1], cache

    assert compare_decoding(lambda t, m: attention(t, m)[0], step, TOKENS).ok


def test_nan_on_one_side_is_a_difference() -> None:
    def step(tokens: Any, mask: Any, cache: Any) -> Any:
        logits, cache = attention(tokens, mask, cache)
        return logits * (np.nan if mask.shape[1] == 4 else 1), cache

    report = compare_decoding(lambda t, m: attention(t, m)[0], step, TOKENS)
    assert report.findings[0].position == 3


SIZES: dict[str, Any] = dict(
    vocab_size=V,
    hidden_size=12,
    intermediate_size=17,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=32,
    tie_word_embeddings=False,
)
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SIZES, sliding_window=WINDOW)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=V, n_positions=32, n_embd=12, n_layer=2, n_head=2)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_transformers_decode_as_they_say(kind: str) -> None:
    with lift_float32():
        torch.manual_seed(0)
        report = compare_decoding(*transformers_decoding(MODELS[kind]().eval()), TOKENS)
    assert report.ok, report


@pytest.mark.parametrize("window", [WINDOW, None])
def test_a_port_against_mistral_beyond_its_window(window: int | None) -> None:
    with lift_float32():
        torch.manual_seed(0)
        model = MODELS["mistral"]().eval()
        weights = weights_of(model)
        port = jax.jit(lambda tokens: llama(weights, tokens, model.config, 1e-6, window))

        def full(tokens: Any, mask: Any) -> Any:
            return port(tokens)

        def step(tokens: Any, mask: Any, cache: Any) -> Any:
            """Without a cache, its tokens are what is kept."""
            cache = tokens if cache is None else jnp.concatenate([cache, tokens], 1)
            rest = jnp.zeros((len(tokens), TOKENS.shape[1] - cache.shape[1]), int)
            return port(jnp.concatenate([cache, rest], 1))[:, cache.shape[1] - 1], cache

        reference, _ = transformers_decoding(model)
        report = compare_decoding(full, step, TOKENS, reference=reference, padding=0)
    assert report.ok == (window is not None)
    if window is None:
        assert report.verdict.startswith(
            f"the port's full forward differs from the reference's from position {WINDOW} on: by "
        )
    assert "not compared: padding (`padding` is 0)" in str(report)


def _shape(tokens: Any, mask: Any) -> Any:
    return attention(tokens, mask)[0]


@pytest.mark.parametrize(
    ("full", "tokens", "words"),
    [
        (_shape, TOKENS[:, :7], "7 tokens a row are too few: more than 7 are needed"),
        (_shape, TOKENS * 0.5, r"tokens are integers \[B T\], not float64"),
        (lambda t, m: _shape(t, m)[:, -1], TOKENS, r"not \[B T V\]"),
        (lambda t, m: _shape(t, m).astype("float32"), TOKENS, "the logits are float32"),
    ],
)
def test_refusals(full: Any, tokens: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare_decoding(full, attention, tokens)


def test_a_model_without_a_cache() -> None:
    with pytest.raises(
        ValueError, match=r"Linear\.forward takes neither cache nor past_key_values"
    ):
        transformers_decoding(torch.nn.Linear(2, 2))
