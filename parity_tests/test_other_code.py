"""Other people's code, so that the port and its reference cannot share a mistake.

torch's fused attention and nn.MultiheadAttention, the GPT-2 of transformers, the attention of flax
and of jax.nn, and the formulas written out in NumPy.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from flax.nnx.nn.attention import dot_product_attention_weights
from torch.nn import functional as F

import jax_attn
from parity_tests.suite import closed_form, pairs
from parity_tests.suite.pairs import BLOCK, STYLES, B, C, H, K, L, Pair, S, T, V
from parity_tests.suite.tiers import (
    Checks,
    Function,
    assert_all,
    both_tiers,
    in_jax,
    numeric,
    semantic,
)

LONG = 131


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    yield from torch_kernel_checks(rng)
    yield from torch_module_checks(rng)
    yield from transformers_checks(rng)
    yield from jax_checks(rng)
    yield from closed_form_checks(rng)


def torch_kernel_checks(rng: np.random.Generator) -> Checks:
    for length in (T, LONG):
        arrays = {k: rng.normal(size=(1, H, length, K)) for k in ("query", "key", "value")}
        for causal in (True, False):
            yield from both_tiers(
                f"torch scaled_dot_product_attention T={length}{' causal' if causal else ''}",
                lambda a, causal=causal: F.scaled_dot_product_attention(
                    a["query"], a["key"], a["value"], is_causal=causal
                ),
                lambda a, causal=causal: jax_attn.dot_product_attention(
                    a["query"], a["key"], a["value"], causal=causal
                ),
                arrays,
            )


def torch_module_checks(rng: np.random.Generator) -> Checks:
    """nn.MultiheadAttention with the same weights: to itself, causal, and to a context."""
    pair = pairs.multi_head(qkv_bias=True)
    for name, source_length in (("causal", None), ("cross", S)):
        arrays = {"weights": pair.weights(rng), "x": rng.normal(size=(B, T, C))}
        if source_length is not None:
            arrays["context"] = rng.normal(size=(B, source_length, C))

        def port(a: Any) -> Any:
            model = pair.port(a["weights"])
            x, context = a["x"], a.get("context")
            return {"output": model(x, context), "wei": model.weights(x, context)}

        yield from both_tiers(
            f"torch nn.MultiheadAttention, {name}", torch_multi_head, port, arrays
        )


def torch_multi_head(arrays: Any) -> dict[str, Any]:
    weights, x = arrays["weights"], arrays["x"]
    module = torch.nn.MultiheadAttention(C, H, batch_first=True, dtype=x.dtype)
    state = {"out_proj.weight": weights["proj.weight"], "out_proj.bias": weights["proj.bias"]}
    for part in ("weight", "bias"):
        state[f"in_proj_{part}"] = torch.cat(
            [weights[f"heads.{h}.{n}.{part}"] for n in ("query", "key", "value") for h in range(H)]
        )
    module.load_state_dict(state)
    context = arrays.get("context", x)
    mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1) if "context" not in arrays else None
    output, wei = module(x, context, context, attn_mask=mask, average_attn_weights=False)
    return {"output": output, "wei": wei}


def transformers_checks(rng: np.random.Generator) -> Checks:
    """GPT-2 with random weights through the `gpt2` layout: hidden states, attentions, logits."""
    import transformers

    for tied in (True, False):
        config = transformers.GPT2Config(
            vocab_size=V,
            n_positions=BLOCK,
            n_embd=C,
            n_layer=L,
            n_head=H,
            tie_word_embeddings=tied,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]
            bos_token_id=None,
            eos_token_id=None,
        )
        template = transformers.GPT2LMHeadModel(config)
        weights = {
            name: pairs.random_parameter(name, tuple(parameter.shape), rng)
            for name, parameter in template.named_parameters()
        }

        def theirs(a: Any, config: Any = config) -> dict[str, Any]:
            model = transformers.GPT2LMHeadModel(config).to(a["weights"]["lm_head.weight"].dtype)
            model.load_state_dict(a["weights"])
            out = model.eval()(a["idx"], output_hidden_states=True, output_attentions=True)
            return {
                "hidden": dict(enumerate(out.hidden_states)),
                "wei": torch.stack(out.attentions),
                "logits": out.logits,
            }

        def ours(a: Any, tied: bool = tied) -> dict[str, Any]:
            pair = pairs.gpt("gpt2", tie_embeddings=tied)
            dtype = a["weights"]["lm_head.weight"].dtype
            empty = {k: jnp.zeros(v.shape, dtype) for k, v in pair.weights(rng).items()}
            given = {name: np.asarray(value) for name, value in a["weights"].items()}
            model = jax_attn.load_state_dict(pair.port(empty), given, "gpt2")
            x = model.embed(a["idx"])
            states = {0: x}
            for i, block in enumerate(model.blocks, start=1):
                x = states[i] = block(x)
            states[L] = model.ln_f(x)  # theirs gives the last one after the final norm
            wei = model.attention_weights(a["idx"])
            return {"hidden": states, "wei": wei, "logits": model(a["idx"])}

        if tied:
            weights["lm_head.weight"] = weights["transformer.wte.weight"]
        arrays = {"weights": weights, "idx": pairs.tokens(rng, B, T)}
        yield from both_tiers(
            f"transformers GPT-2{'' if tied else ', untied'}", theirs, ours, arrays
        )


def jax_checks(rng: np.random.Generator) -> Checks:
    """Their axes are [B T H K]; ours [B H T K].

    flax's weights are of any precision. The whole attention of flax and of jax.nn takes the softmax
    in float32 whatever it is given, so it can be held against the port's in float32 alone.
    """
    arrays = {name: rng.normal(size=(B, T, H, K)) for name in ("query", "key", "value")}

    def swapped(a: Any) -> list[Any]:
        return [a[name].swapaxes(1, 2) for name in ("query", "key", "value")]

    yield semantic(
        "flax dot_product_attention_weights",
        through_jax(lambda a: dot_product_attention_weights(a["query"], a["key"], mask=causal(a))),
        lambda a: jax_attn.attention_weights(*swapped(a)[:2], mask=jax_attn.causal_mask(T)),
        arrays,
    )
    for name, theirs in (
        (
            "flax nnx.dot_product_attention",
            lambda a: nnx.dot_product_attention(a["query"], a["key"], a["value"], mask=causal(a)),
        ),
        (
            "jax.nn.dot_product_attention",
            lambda a: jax.nn.dot_product_attention(
                a["query"], a["key"], a["value"], is_causal=True
            ),
        ),
    ):

        def reference(a: Any, theirs: Function = theirs) -> Any:
            if a["query"].dtype == torch.float32:
                return through_jax(theirs)(a).swapaxes(1, 2)
            return F.scaled_dot_product_attention(*swapped(a), is_causal=True)

        yield numeric(
            name, reference, lambda a: jax_attn.dot_product_attention(*swapped(a)), arrays
        )


def causal(arrays: Any) -> jax.Array:
    return nnx.make_causal_mask(jnp.ones(arrays["query"].shape[:2]))


def through_jax(function: Function) -> Function:
    """A function of jax arrays in the reference's place, in the precision of what it is given."""

    def run(a: Any) -> Any:
        given = {name: value.numpy() for name, value in a.items()}
        return in_jax(function, given, given["query"].dtype.type)

    return run


def closed_form_checks(rng: np.random.Generator) -> Checks:
    x = {"x": rng.normal(size=(B, T, C))}
    for name in ("running_mean_loop", "running_mean_matmul", "running_mean_softmax"):
        yield semantic(
            f"NumPy {name}",
            lambda a: closed_form.running_mean(a["x"].numpy()),
            lambda a, name=name: getattr(jax_attn, name)(a["x"]),
            x,
        )
    for style in STYLES:
        pair, config = pairs.gpt(style), pairs.gpt_config(**STYLES[style])
        arrays = {"weights": pair.weights(rng), "idx": pairs.tokens(rng, B, T)}
        targets = pairs.tokens(rng, B, T)
        targets[1, 2:5] = -1
        arrays["targets"] = targets

        def numpy_gpt(a: Any, config: Any = config) -> Any:
            weights = {name: value.numpy() for name, value in a["weights"].items()}
            found = closed_form.gpt(weights, a["idx"].numpy(), config)
            return found | {"loss": closed_form.loss(found["logits"], a["targets"].numpy())}

        yield semantic(f"NumPy {style} GPT", numpy_gpt, port_gpt(pair), arrays)
    yield from adamw_checks(rng)


def port_gpt(pair: Pair) -> Function:
    def run(a: Any) -> Any:
        model = pair.port(a["weights"])
        wei, x, states = model.attention_weights(a["idx"]), model.embed(a["idx"]), {}
        for i, block in enumerate(model.blocks):
            x = block(x)
            states |= {f"wei {i}": wei[i], f"block {i}": x}
        logits = model(a["idx"])
        loss = jax_attn.next_token_loss(logits, a["targets"])
        return states | {"logits": logits, "loss": loss}

    return run


def adamw_checks(rng: np.random.Generator) -> Checks:
    """Five steps of the formulas; gradients of both signs and of many sizes."""
    config = jax_attn.OptimizerConfig(beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.3)
    sizes = np.exp(rng.uniform(-10, 3, (5, 7)))
    arrays = {"params": rng.normal(size=7), "gradients": rng.normal(size=(5, 7)) * sizes}

    def reference(a: Any) -> Any:
        gradients = list(a["gradients"].numpy())
        params, mean, square = closed_form.adamw(a["params"].numpy(), gradients, 0.07, config)
        return {"params": params, "mean": mean, "square": square}

    def port(a: Any) -> Any:
        optimizer = jax_attn.make_optimizer(config, 0.07, 5)
        params, state = a["params"], optimizer.init(a["params"])
        for gradient in a["gradients"]:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        moments = (optax.tree_utils.tree_get(state, name) for name in ("mu", "nu"))
        return dict(zip(("params", "mean", "square"), (params, *moments), strict=True))

    yield semantic("NumPy AdamW", reference, port, arrays)


def test_checks():
    assert_all(checks(0))
