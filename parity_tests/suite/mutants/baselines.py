"""The rules by which public suites compare a port, applied to the same planted bugs.

* KL 0.1: MaxText's `forward_pass_logit_checker.py`, the largest divergence of one token.
* rtol 1: the relative tolerance on logits that MaxText's checks go up to.
* logits 7e-2: an absolute tolerance on logits, as in DeepSpeed's forward tests.
* Levanter: `test_hf_gpt2_serialize.py`, softmax and gradients within 1e-2, parameters after one
  AdamW step of 1e-3 within 2e-3.
* 1e-5: Hugging Face's former Flax tests, on all hidden states, attentions and logits.
* llm.c: `test_gpt2.c`, logits and loss within 1e-2, gradients within 2e-2.

Each is given more than its own suite gives it: three styles of GPT with every parameter random.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from numpy.typing import NDArray

import jax_attn
import jax_attn.training.step
from parity_tests.suite import pairs
from parity_tests.suite.gradients import by_reference_name
from parity_tests.suite.pairs import STYLES, B, T
from parity_tests.suite.tiers import in_jax, in_torch

Observed = dict[str, Any]
RATE = 1e-3


def close(ref: Any, port: Any, relative: float, absolute: float) -> bool:
    return bool(np.allclose(port, ref, rtol=relative, atol=absolute))


def all_close(ref: Observed, port: Observed, relative: float, absolute: float) -> bool:
    return set(ref) <= set(port) and all(
        close(ref[name], port[name], relative, absolute) for name in ref
    )


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergence(ref: NDArray[Any], port: NDArray[Any]) -> float:
    expected, got = softmax(ref.astype(np.float64)), softmax(port.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((expected * (np.log(expected) - np.log(got))).sum(-1).max())


# Whether a port passes.
RULES: dict[str, Callable[[Observed, Observed], bool]] = {
    "KL 0.1": lambda r, p: divergence(r["logits"], p["logits"]) < 0.1,
    "rtol 1": lambda r, p: close(r["logits"], p["logits"], 1.0, 0.0),
    "logits 7e-2": lambda r, p: close(r["logits"], p["logits"], 0.0, 7e-2),
    "Levanter": lambda r, p: (
        close(softmax(r["logits"]), softmax(p["logits"]), 1e-2, 1e-2)
        and all_close(r["gradients"], p["gradients"], 1e-2, 1e-2)
        and all_close(r["stepped"], p["stepped"], 1e-3, 2e-3)
    ),
    "1e-5": lambda r, p: (
        all_close(r["hidden"], p["hidden"], 0.0, 1e-5)
        and close(r["wei"], p["wei"], 0.0, 1e-5)
        and close(r["logits"], p["logits"], 0.0, 1e-5)
    ),
    "llm.c": lambda r, p: (
        close(r["logits"], p["logits"], 0.0, 1e-2)
        and close(r["loss"], p["loss"], 0.0, 1e-2)
        and all_close(r["gradients"], p["gradients"], 0.0, 2e-2)
    ),
}


def caught_by_rules() -> dict[str, bool]:
    """Which rules notice that something is wrong with the port as it is now.

    All do if it raises.
    """
    caught = dict.fromkeys(RULES, False)
    for style in STYLES:
        rng = np.random.default_rng(0)
        pair = pairs.gpt(style)
        arrays = {
            "weights": pair.weights(rng),
            "idx": pairs.tokens(rng, B, T),
            "targets": pairs.tokens(rng, B, T),
        }
        reference, port = pair.functions(observe_reference, observe_port)
        expected = in_torch(reference, arrays, np.float32, f"baselines, {style}")
        try:
            got = in_jax(port, arrays, np.float32, f"baselines, {style}")
        except Exception:
            return dict.fromkeys(RULES, True)
        for name, passes in RULES.items():
            with np.errstate(all="ignore"):
                caught[name] |= not passes(expected, got)
        if all(caught.values()):
            break
    return caught


def observe_reference(model: Any, arrays: Any) -> Observed:
    idx = arrays["idx"]
    x = model.token_embedding_table(idx)
    x = x + model.position_embedding_table(torch.arange(idx.shape[1]))
    hidden = {"embedded": x}
    for i, block in enumerate(model.blocks):
        x = hidden[str(i)] = block(x)
    hidden["ln_f"] = model.ln_f(x)
    wei = model.attention_weights(idx)
    logits, loss = model(idx, arrays["targets"])
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0).step()
    stepped = {name: p.detach() for name, p in model.named_parameters()}
    found = {"hidden": hidden, "wei": wei, "logits": logits, "loss": loss}
    return found | {"gradients": gradients, "stepped": stepped}


def observe_port(model: Any, arrays: Any) -> Observed:
    idx = arrays["idx"]
    x = model.embed(idx)
    hidden = {"embedded": x}
    for i, block in enumerate(model.blocks):
        x = hidden[str(i)] = block(x)
    hidden["ln_f"] = model.ln_f(x)
    wei, logits = model.attention_weights(idx), model(idx)
    config = jax_attn.OptimizerConfig(weight_decay=0.0, clip_norm=1.0)
    optimizer = jax_attn.make_optimizer(config, RATE, 1)
    state = jax_attn.TrainState.create(model, optimizer)
    loss, gradients, _ = jax_attn.training.step.loss_and_gradients(state, idx, arrays["targets"])
    updates, _ = optimizer.update(gradients, state.opt_state, state.params)
    stepped = optax.apply_updates(state.params, updates)
    found = {"hidden": hidden, "wei": wei, "logits": jnp.asarray(logits), "loss": loss}
    return found | {
        name: by_reference_name(nnx.merge(state.graphdef, params, state.rest))
        for name, params in (("gradients", gradients), ("stepped", stepped))
    }
