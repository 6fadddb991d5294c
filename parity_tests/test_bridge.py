"""The weight bridge: every number of the reference goes to one place of the port, and comes back.

Proved four ways: exact round trip; a bijection, by giving every number a name; every parameter, and
GPT-2's names, against a conversion written by hand; a one-hot probe of the square matrices, where a
missing transpose has no shape to give it away. And it is loud: a wrong name or shape is an error.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

import jax_attn
from parity_tests.suite import pairs
from parity_tests.suite.pairs import BLOCK, STYLES, C, H, L, Pair
from parity_tests.suite.tiers import (
    Check,
    Checks,
    assert_all,
    in_jax,
    in_torch,
    raises,
    same_bits,
)

StateDict = dict[str, NDArray[Any]]


def all_pairs() -> dict[str, Pair]:
    return {
        "head": pairs.head(),
        "multi-head": pairs.multi_head(qkv_bias=True),
        "feed-forward": pairs.feed_forward(),
        "block": pairs.block("gpt2"),
        "bigram": pairs.bigram(),
        "single head": pairs.single_head(),
    } | {f"{style} GPT": pairs.gpt(style) for style in STYLES}


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    for name, pair in all_pairs().items():
        for dtype in (np.float64, np.float32):
            yield round_trip(f"{name}, {np.dtype(dtype).name} round trip", pair, rng, dtype)
        yield bijection(f"{name}, every number in one place", pair)
    for style in STYLES:
        yield places(f"{style} GPT, by hand", pairs.gpt(style), rng)
    yield from square_probes(rng)
    yield from gpt2_layout(rng)
    yield from refusals(rng)


def round_trip(name: str, pair: Pair, rng: np.random.Generator, dtype: Any) -> Check:
    """reference → port → reference: the same names and bits, the causal masks of a GPT included."""
    weights = pair.weights(rng)
    arrays = {"weights": weights}
    expected = in_torch(lambda a: reference_state(pair, a["weights"]), arrays, dtype)
    got = in_jax(lambda a: jax_attn.to_state_dict(pair.port(a["weights"])), arrays, dtype)
    masks = {key: value for key, value in expected.items() if key.endswith("tril")}
    if not any(key.endswith("tril") for key in got):
        expected = {key: value for key, value in expected.items() if key not in masks}
    else:
        expected |= {key: value.astype(np.float32) for key, value in masks.items()}
    return same_bits(name, expected, got)


def reference_state(pair: Pair, weights: Any) -> Any:
    return dict(pair.reference(weights).state_dict())


def bijection(name: str, pair: Pair) -> Check:
    """Numbers 1, 2, 3, … over the whole state dict must all arrive, each once, and nothing else."""
    reference = pair.make_reference()
    numbered, start = {}, 1
    for key, parameter in reference.named_parameters():
        size = parameter.numel()
        numbered[key] = np.arange(start, start + size, dtype=np.float64).reshape(parameter.shape)
        start += size
    arrived = in_jax(
        lambda a: [leaf for leaf in jax.tree.leaves(nnx.state(pair.port(a["weights"]), nnx.Param))],
        {"weights": numbered},
        np.float64,
    )
    flat = np.concatenate([np.ravel(leaf) for leaf in arrived])
    return same_bits(name, np.arange(1, start, dtype=np.float64), np.sort(flat))


def places(name: str, pair: Pair, rng: np.random.Generator) -> Check:
    """Each of the port's parameters against what the lecture's weights say it must hold."""
    weights = pair.weights(rng)
    by_hand = {"token_embedding_table.embedding": weights["token_embedding_table.weight"]}
    by_hand["position_embedding_table.embedding"] = weights["position_embedding_table.weight"]
    for i in range(L):
        block = f"blocks.{i}"
        by_hand |= norm_by_hand(weights, f"{block}.ln1") | norm_by_hand(weights, f"{block}.ln2")
        for part in ("weight", "bias"):
            rows = [
                weights[whole]
                for name in ("query", "key", "value")
                for head in range(H)
                if (whole := f"{block}.sa.heads.{head}.{name}.{part}") in weights
            ]
            kernel = "kernel" if part == "weight" else "bias"
            if rows:
                by_hand[f"{block}.sa.qkv.{kernel}"] = np.concatenate(rows).T
            for ours, theirs in (
                ("sa.proj", "sa.proj"),
                ("ffwd.expand", "ffwd.net.0"),
                ("ffwd.contract", "ffwd.net.2"),
            ):
                if f"{block}.{theirs}.{part}" in weights:
                    by_hand[f"{block}.{ours}.{kernel}"] = weights[f"{block}.{theirs}.{part}"].T
    by_hand |= norm_by_hand(weights, "ln_f")
    if "lm_head.weight" in weights:
        by_hand["lm_head.kernel"] = weights["lm_head.weight"].T
        by_hand["lm_head.bias"] = weights["lm_head.bias"]

    def parameters(a: Any) -> Any:
        state = nnx.state(pair.port(a["weights"]), nnx.Param)
        return {
            ".".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(state)
        }

    return same_bits(name, by_hand, in_jax(parameters, {"weights": weights}, np.float64))


def norm_by_hand(weights: StateDict, name: str) -> StateDict:
    parts = {"scale": f"{name}.weight", "bias": f"{name}.bias"}
    return {f"{name}.{part}": weights[whole] for part, whole in parts.items() if whole in weights}


def square_probes(rng: np.random.Generator) -> Checks:
    """One 1 in a square matrix, away from the diagonal; every input channel in turn."""
    i, j = rng.choice(C, 2, replace=False)
    head, attention = pairs.head(C, C), pairs.multi_head()
    for pair, layers in ((head, ("key", "query", "value")), (attention, ("proj",))):
        for layer in layers:
            weights = {name: np.zeros_like(value) for name, value in pair.weights(rng).items()}
            weights[f"{layer}.weight"][i, j] = 1.0
            functions = pair.functions(lambda m, a, layer=layer: getattr(m, layer)(a["x"]))
            arrays = {"weights": weights, "x": np.eye(C)[None]}
            yield same_bits(
                f"one-hot {layer}",
                in_torch(functions[0], arrays, np.float64),
                in_jax(functions[1], arrays, np.float64),
            )


def gpt2_layout(rng: np.random.Generator) -> Checks:
    """The `gpt2` names, written and read, against the lecture's names rearranged by hand."""
    for tied in (True, False):
        pair = pairs.gpt("gpt2", tie_embeddings=tied)
        weights = pair.weights(rng)
        expected = gpt2_names(weights)
        label = "tied" if tied else "untied"

        def write(a, pair=pair):
            return jax_attn.to_state_dict(pair.port(a["weights"]), "gpt2")

        def read(a, pair=pair, weights=weights):
            port = pair.port({name: a["first"] * 0 + value for name, value in weights.items()})
            port = jax_attn.load_state_dict(port, a["gpt2"], "gpt2")
            return jax_attn.to_state_dict(port)

        got = in_jax(write, {"weights": weights}, np.float64)
        yield same_bits(f"gpt2 layout written, {label}", expected, got)
        masks = {f"transformer.h.{i}.attn.bias": causal_mask()[None, None] for i in range(L)}
        arrays = {"gpt2": expected | masks, "first": np.zeros(())}
        got = in_jax(read, arrays, np.float64)
        masks = {name: value for name, value in got.items() if name.endswith("tril")}
        output = {"lm_head.weight": expected["lm_head.weight"]}
        yield same_bits(f"gpt2 layout read, {label}", weights | masks | output, got)


def causal_mask() -> NDArray[np.float64]:
    return np.tril(np.ones((BLOCK, BLOCK)))


def gpt2_names(weights: StateDict) -> StateDict:
    """GPT-2's Conv1D holds [in, out]; query, key and value stand side by side, heads in order."""
    renamed = {
        "transformer.wte.weight": weights["token_embedding_table.weight"],
        "transformer.wpe.weight": weights["position_embedding_table.weight"],
        "transformer.ln_f.weight": weights["ln_f.weight"],
        "transformer.ln_f.bias": weights["ln_f.bias"],
        "lm_head.weight": weights.get("lm_head.weight", weights["token_embedding_table.weight"]),
    }
    for i in range(L):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        for part in ("weight", "bias"):
            parts = [
                weights[f"{ours}.sa.heads.{head}.{name}.{part}"]
                for name in ("query", "key", "value")
                for head in range(H)
            ]
            renamed[f"{theirs}.attn.c_attn.{part}"] = np.concatenate(parts).T
            renamed[f"{theirs}.attn.c_proj.{part}"] = weights[f"{ours}.sa.proj.{part}"].T
            renamed[f"{theirs}.mlp.c_fc.{part}"] = weights[f"{ours}.ffwd.net.0.{part}"].T
            renamed[f"{theirs}.mlp.c_proj.{part}"] = weights[f"{ours}.ffwd.net.2.{part}"].T
            renamed[f"{theirs}.ln_1.{part}"] = weights[f"{ours}.ln1.{part}"]
            renamed[f"{theirs}.ln_2.{part}"] = weights[f"{ours}.ln2.{part}"]
    return renamed


def refusals(rng: np.random.Generator) -> Checks:
    """What does not fit is an error that names it, and leaves the model as it was."""
    pair = pairs.gpt("gpt2")
    weights = pair.weights(rng)
    weights["lm_head.weight"] = weights["token_embedding_table.weight"]
    key, mask = "blocks.1.sa.heads.2.key.weight", "blocks.0.sa.heads.0.tril"
    output = weights["lm_head.weight"]
    broken: dict[str, tuple[str, StateDict]] = {
        "missing": (key, {name: value for name, value in weights.items() if name != key}),
        "extra": ("blocks.2.ln1.bias", weights | {"blocks.2.ln1.bias": weights["ln_f.bias"]}),
        "mis-shaped": (key, weights | {key: weights[key].T}),
        "truncated": ("lm_head.weight", weights | {"lm_head.weight": output[1:]}),
        "untied": ("lm_head.weight", weights | {"lm_head.weight": output + 1}),
        "anti-causal": (mask, weights | {mask: causal_mask().T}),
    }
    for what, (name, given) in broken.items():
        yield from refusal(what, pair, weights, given, name)


def refusal(what: str, pair: Pair, weights: StateDict, given: StateDict, name: str) -> Checks:
    with jax.enable_x64(True):
        filled = {key: jax.numpy.asarray(value) for key, value in weights.items()}
        filled.pop("lm_head.weight")
        port = pair.port(filled)
        before = jax_attn.to_state_dict(port)
        load: Callable[[], Any] = lambda: jax_attn.load_state_dict(port, given)  # noqa: E731
        yield raises(f"{what} name or shape is refused", jax_attn.InputError, name, load)
        yield same_bits(f"{what}: model unchanged", before, jax_attn.to_state_dict(port))


def test_checks():
    assert_all(checks(0))
