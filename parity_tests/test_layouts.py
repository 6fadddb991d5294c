"""Other people's state dicts: from the names alone to the same function, and back bit for bit.

nanoGPT's and minGPT's names by a model of our own, GPT-2's by transformers, the lecture's by
`torch_ref`, the scale of the lecture notebook's last cell among them. Each is opened by `model_of`,
which is told what the weights do not tell, and the hidden states, weights of attention and logits
are compared. The other way, what the port writes is loaded by their module with `strict=True`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import jax_attn
import torch_ref
from jax_attn.interop import Layout, layout_of, model_of
from parity_tests.suite import pairs
from parity_tests.suite.pairs import BLOCK, B, C, H, K, L, T, V
from parity_tests.suite.tiers import (
    Check,
    Checks,
    assert_all,
    both_tiers,
    holds,
    in_jax,
    raises,
    same_bits,
)
from parity_tests.torch_nanogpt import NanoGPT

StateDict = dict[str, NDArray[Any]]
SHAPE = {"vocab_size": V, "block_size": BLOCK, "n_layer": L, "n_head": H, "n_embd": C}
# As many ids as channels: a missing transpose of the output matrix has no shape to show.
SQUARE = SHAPE | {"vocab_size": C}


@dataclass(frozen=True)
class Theirs:
    """A module of somebody's, and what the port must make of its weights."""

    make: Callable[[], nn.Module]
    layout: Layout
    fields: dict[str, Any]  # that the weights do not tell
    config: dict[str, Any] = field(default_factory=dict)  # what they do
    observe: Callable[[Any, Any], Any] = lambda module, idx: module(idx)

    def weights(self, rng: np.random.Generator) -> StateDict:
        """Random, by their names; a tied matrix twice, and buffers as they are."""
        module, drawn = self.make(), {}
        for name, tensor in module.named_parameters():
            drawn[name] = pairs.random_parameter(name, tuple(tensor.shape), rng)
        module.load_state_dict(
            {**module.state_dict(), **{n: torch.from_numpy(w) for n, w in drawn.items()}}
        )
        shared = {id(tensor): name for name, tensor in module.named_parameters()}
        given = {}
        for name, tensor in module.state_dict(keep_vars=True).items():
            given[name] = drawn.get(shared.get(id(tensor), ""), tensor.detach().numpy())
        return given

    def reference(self, arrays: Any) -> Any:
        """What their module shows with these weights, and no other names."""
        floats = [value for value in arrays["weights"].values() if value.is_floating_point()]
        module = self.make().to(floats[0].dtype).eval()
        module.load_state_dict(arrays["weights"], strict=True)
        return self.observe(module, arrays["idx"])

    def opened(self, weights: Any, **fields: Any) -> Any:
        dtype = next(iter(weights.values())).dtype
        return model_of(weights, param_dtype=dtype, **(self.fields | fields))


def nanogpt(shape: dict[str, int] = SHAPE, **options: Any) -> Callable[[], nn.Module]:
    return lambda: NanoGPT(**shape, **options)


def transformers_gpt2(shape: dict[str, int] = SHAPE, **options: Any) -> Callable[[], nn.Module]:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=shape["vocab_size"],
        n_positions=shape["block_size"],
        n_layer=shape["n_layer"],
        n_head=shape["n_head"],
        n_embd=shape["n_embd"],
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    return lambda: transformers.GPT2LMHeadModel(config)


def observe_transformers(module: Any, idx: Any) -> dict[str, Any]:
    out = module(idx, output_hidden_states=True, output_attentions=True)
    return {
        "hidden": list(out.hidden_states),
        "wei": torch.stack(out.attentions),
        "logits": out.logits,
    }


def lecture(**options: Any) -> Callable[[], nn.Module]:
    return lambda: torch_ref.GPTLanguageModel(**SHAPE, dropout=0.0, **options)


def observe_lecture(module: Any, idx: Any) -> dict[str, Any]:
    x = module.token_embedding_table(idx)
    hidden = [x + module.position_embedding_table(torch.arange(idx.shape[1]))]
    for block in module.blocks:
        hidden.append(block(hidden[-1]))
    hidden[-1] = module.ln_f(hidden[-1])
    return {
        "hidden": hidden,
        "wei": module.attention_weights(idx),
        "logits": module(idx)[0],
    }


def observe_port(model: Any, idx: Any) -> dict[str, Any]:
    hidden = [model.embed(idx)]
    for block in model.blocks:
        hidden.append(block(hidden[-1]))
    hidden[-1] = model.ln_f(hidden[-1])
    return {"hidden": hidden, "wei": model.attention_weights(idx), "logits": model(idx)}


def all_of_them() -> dict[str, Theirs]:
    heads = {"n_head": H}
    biased = {"qkv_bias": True, "head_bias": False}
    bare = biased | {"qkv_bias": False, "linear_bias": False, "norm_bias": False}
    exact = {"activation": "gelu", "tie_embeddings": True}
    tanh = {"activation": "gelu_tanh", "tie_embeddings": True}
    untied = {"activation": "gelu_tanh", "tie_embeddings": False}
    notebook = {"attention_scale": C**-0.5}  # of the lecture notebook's last cell
    small = {"n_layer": 1, "n_head": K}
    of_lecture = partial(Theirs, layout="lecture", observe=observe_lecture)
    of_gpt2 = partial(Theirs, layout="gpt2", observe=observe_transformers)
    return {
        "nanoGPT": Theirs(nanogpt(), "nanogpt", heads, biased | exact),
        "nanoGPT without biases": Theirs(nanogpt(bias=False), "nanogpt", heads, bare | exact),
        "minGPT": Theirs(
            nanogpt(SQUARE, tied=False, masks=True, gelu="tanh"),
            "nanogpt",
            heads,
            biased | untied | SQUARE,
        ),
        "GPT-2": of_gpt2(transformers_gpt2(), fields=heads, config=biased | tanh),
        "GPT-2, untied": of_gpt2(
            transformers_gpt2(SQUARE, tie_word_embeddings=False),
            fields=heads,
            config=biased | untied | SQUARE,
        ),
        "GPT-2 of other sizes, unscaled": of_gpt2(
            transformers_gpt2(
                SHAPE | small,
                n_inner=11,
                scale_attn_weights=False,
                activation_function="relu",
                layer_norm_epsilon=1e-3,
            ),
            fields={
                "n_head": K,
                "attention_scale": 1.0,
                "activation": "relu",
                "layer_norm_epsilon": 1e-3,
            },
            config=biased | {"tie_embeddings": True, "n_inner": 11} | small,
        ),
        "lecture": of_lecture(lecture(), fields={}),
        "lecture notebook": of_lecture(lecture(**notebook), fields=notebook),
    }


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    for name, theirs in all_of_them().items():
        yield from read(name, theirs, rng)
        yield from written(name, theirs, rng)
        yield from recognised(name, theirs, rng)
    yield from small_models(rng)
    yield from prefixes(rng)
    yield from types(rng)
    yield from refusals(rng)


def read(name: str, theirs: Theirs, rng: np.random.Generator) -> Checks:
    """Their weights make the same function of the port, and come back as they were."""
    weights = theirs.weights(rng)
    idx = pairs.tokens(rng, B, T)
    arrays = {"weights": weights, "idx": idx}

    def port(a: Any) -> Any:
        return observe_port(theirs.opened(a["weights"]), a["idx"])

    yield from both_tiers(f"{name}, read", theirs.reference, port, arrays)
    for dtype in (np.float64, np.float32):
        given = {key: value.astype(dtype) for key, value in weights.items()}
        # Masks stay as they are made, in float32.
        expected = {
            key: value.astype(np.float32) if is_mask(key) else value for key, value in given.items()
        }
        got = in_jax(
            lambda a: jax_attn.to_state_dict(theirs.opened(a["weights"]), theirs.layout),
            {"weights": given},
            dtype,
        )
        yield same_bits(f"{name}, {np.dtype(dtype).name} round trip", expected, got)


def is_mask(name: str) -> bool:
    return name.endswith((".attn.bias", ".tril"))


def written(name: str, theirs: Theirs, rng: np.random.Generator) -> Checks:
    """What the port writes makes the same function of their module."""
    weights = theirs.weights(rng)
    idx = pairs.tokens(rng, B, T)
    with jax.enable_x64(True):
        model = theirs.opened({k: w.astype(np.float64) for k, w in weights.items()})
        by_theirs = jax_attn.to_state_dict(model, theirs.layout)
        by_lecture = jax_attn.to_state_dict(model, "lecture")

    def reference(a: Any) -> Any:
        return theirs.reference({"weights": a["theirs"], "idx": a["idx"]})

    def port(a: Any) -> Any:
        fields = {"activation": model.config.activation} | theirs.fields
        fields["tie_embeddings"] = model.config.tie_embeddings
        dtype = a["lecture"]["lm_head.weight"].dtype
        return observe_port(model_of(a["lecture"], param_dtype=dtype, **fields), a["idx"])

    arrays = {"theirs": by_theirs, "lecture": by_lecture, "idx": idx}
    yield from both_tiers(f"{name}, written", reference, port, arrays)


def recognised(name: str, theirs: Theirs, rng: np.random.Generator) -> Checks:
    """The configuration is read off the arrays, but for the fields that are given."""
    weights = theirs.weights(rng)
    yield holds(f"{name}, layout", layout_of(weights) == theirs.layout)
    fields: dict[str, Any] = SHAPE | theirs.config | theirs.fields
    model: Any = model_of(weights, **theirs.fields)
    yield holds(f"{name}, configuration", model.config == jax_attn.GPTConfig(**fields))


def small_models(rng: np.random.Generator) -> Checks:
    """The lecture's other two, which need no fields."""
    for name, pair in (("bigram", pairs.bigram()), ("single head", pairs.single_head())):
        arrays = {"weights": pair.weights(rng), "idx": pairs.tokens(rng, B, T)}

        def port(a: Any) -> Any:
            dtype = next(iter(a["weights"].values())).dtype
            return model_of(a["weights"], param_dtype=dtype)(a["idx"])

        reference, _ = pair.functions(lambda m, a: m(a["idx"])[0])
        yield from both_tiers(f"{name}, read", reference, port, arrays)


def prefixes(rng: np.random.Generator) -> Checks:
    """What torch.compile and data parallelism add to the names, and what a bare body leaves out."""
    theirs = all_of_them()["GPT-2"]
    weights = float32(theirs.weights(rng))
    expected = jax_attn.to_state_dict(theirs.opened(weights), "gpt2")
    body = {name.removeprefix("transformer."): value for name, value in weights.items()}
    del body["lm_head.weight"]
    masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, BLOCK, BLOCK), np.uint8)) for i in range(L)}
    masks |= {f"h.{i}.attn.masked_bias": np.array(-1e4, np.float32) for i in range(L)}
    named = {
        "_orig_mod.": {f"_orig_mod.{name}": value for name, value in weights.items()},
        "module.": {f"module.{name}": value for name, value in weights.items()},
        "_orig_mod.module.": {f"_orig_mod.module.{k}": v for k, v in weights.items()},
        "module._orig_mod.": {f"module._orig_mod.{k}": v for k, v in weights.items()},
        "a compiled block": {k.replace(".h.1.", ".h.1._orig_mod."): v for k, v in weights.items()},
        "a bare body": body,
        "an old body with its buffers": body | masks,
        "a bare body of a wrapper": {f"module.{name}": value for name, value in body.items()},
    }
    for label, given in named.items():
        yield opens(f"names with {label}", theirs, given, expected)


def types(rng: np.random.Generator) -> Checks:
    """Tensors of torch in every type and arrays of others give the numbers that they hold."""
    theirs = all_of_them()["nanoGPT"]
    weights = float32(theirs.weights(rng))
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        tensors = {n: torch.from_numpy(w).to(dtype).requires_grad_() for n, w in weights.items()}
        exact = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
        yield opens(f"tensors of {dtype}", theirs, tensors, exact)
    for dtype in (jnp.bfloat16, np.float16, np.float32):
        for make in (np.asarray, jnp.asarray):
            arrays = {name: make(value.astype(dtype)) for name, value in weights.items()}
            exact = {n: np.asarray(value).astype(np.float32) for n, value in arrays.items()}
            label = f"{make.__module__} arrays of {np.dtype(dtype)}"
            yield opens(label, theirs, arrays, exact)
    strange = {n: w.copy() for n, w in weights.items()}
    for name in ("transformer.wpe.weight", "transformer.h.1.ln_2.bias"):
        strange[name].flat[:3] = np.nan, np.inf, -np.inf
    yield opens("numbers that are not finite", theirs, strange, strange)


def opens(label: str, theirs: Theirs, given: Any, expected: StateDict) -> Check:
    """A failed check, not a crash, where it is refused."""
    try:
        model = model_of(given, **theirs.fields)
        return same_bits(label, expected, jax_attn.to_state_dict(model, theirs.layout))
    except jax_attn.InputError:
        return holds(label, False)


def float32(weights: StateDict) -> StateDict:
    return {name: value.astype(np.float32) for name, value in weights.items()}


def refusals(rng: np.random.Generator) -> Checks:
    """What would be another function, or is not whole, is an error that says so."""
    nano, tied, mini = (all_of_them()[name] for name in ("nanoGPT", "GPT-2", "minGPT"))
    conv, linear, masked = (float32(theirs.weights(rng)) for theirs in (tied, nano, mini))
    c_attn, output, wte = (
        "transformer.h.0.attn.c_attn.weight",
        "lm_head.weight",
        "transformer.wte.weight",
    )
    mask, score = "transformer.h.1.attn.bias", "transformer.h.1.attn.masked_bias"
    anti = masked | {mask: masked[mask].swapaxes(2, 3)}
    longer = np.concatenate([masked[wte], masked[wte][:1]])
    heads = {"n_head": H}
    cases: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "another layout": ("layout 'gpt2', not 'nanogpt'", conv, {"layout": "nanogpt"} | heads),
        "turned": ("layout 'nanogpt', not 'gpt2'", linear, {"layout": "gpt2"} | heads),
        "a query-key-value of no layout": (c_attn, linear | {c_attn: linear[c_attn][1:]}, heads),
        "no heads": ("give it, as n_head=12", linear, {}),
        "layers": ("n_layer is given as 3, but the arrays have 2", linear, {"n_layer": 3} | heads),
        "vocabulary": ("vocab_size is given as 10", linear, {"vocab_size": 10} | heads),
        "unknown field": ("no size", linear, {"size": 1} | heads),
        "a token more in the embedding": (output, masked | {wte: longer}, heads),
        "a token more in the output": (output, masked | {output: longer}, heads),
        "tied, but not the same": (
            output,
            linear | {output: linear[output] + 1},
            {"tie_embeddings": True} | heads,
        ),
        "not tied, but missing": (
            f"missing: {output}",
            {name: value for name, value in linear.items() if name != output},
            {"tie_embeddings": False} | heads,
        ),
        "anti-causal": (mask, anti, heads),
        "masked by nothing": (score, conv | {score: np.array(-1.0)}, heads),
        "two names of one": (wte, linear | {f"module.{wte}": linear[wte]}, heads),
        "a bias of the head": ("lm_head.bias", linear | {"lm_head.bias": np.zeros(V)}, heads),
    }
    for label, (message, given, fields) in cases.items():
        error = jax_attn.InputError
        call = partial(model_of, given, **fields)
        yield raises(f"{label} is refused", error, message, call)
    held = pairs.gpt().port({k: jnp.asarray(w, "float32") for k, w in lecture_weights(rng).items()})
    for layout in ("nanogpt", "gpt2"):
        write = partial(jax_attn.to_state_dict, held, layout)
        yield raises(f"{layout} holds no bias of the head", error, "lm_head.bias", write)


def lecture_weights(rng: np.random.Generator) -> StateDict:
    return pairs.gpt().weights(rng)


def test_checks():
    assert_all(checks(0))


def test_head_size_is_not_one():
    """Else permuted heads would not show."""
    assert C == H * K
    assert min(H, K) > 1
