"""The models to be timed, filled with the same weights on every side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.weights import Case, lecture_state_dict

if TYPE_CHECKING:
    import torch_ref
    from benchmarks.best_torch import FastGPT
    from jax_attn import GPT

# Each framework is imported by its own side only.


def jax_gpt(case: Case, dtype: str = "float32") -> GPT:
    from flax import nnx
    from jax import numpy as jnp

    import jax_attn as ja

    config = ja.GPTConfig.lecture(
        vocab_size=case.vocab_size,
        block_size=case.block_size,
        n_layer=case.n_layer,
        n_head=case.n_head,
        n_embd=case.n_embd,
        dropout_rate=0.0,
    )
    model: Any = ja.GPT(config, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype))
    return ja.load_state_dict(model, lecture_state_dict(case))


def lecture_gpt(case: Case) -> torch_ref.GPTLanguageModel:
    """The lecture's code as taught, without dropout."""
    import torch

    import torch_ref

    model = torch_ref.GPTLanguageModel(
        case.vocab_size, case.block_size, case.n_layer, case.n_head, case.n_embd, dropout=0.0
    )
    tensors = {name: torch.from_numpy(x) for name, x in lecture_state_dict(case).items()}
    buffers = {n: b for n, b in model.state_dict().items() if n not in tensors}
    model.load_state_dict(tensors | buffers)
    return model


def fast_gpt(case: Case) -> FastGPT:
    from benchmarks.best_torch import FastGPT

    return FastGPT(case).load_lecture(lecture_state_dict(case))
