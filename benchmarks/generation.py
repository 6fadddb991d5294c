"""Tokens one by one, batch 1: the port against the lecture's loop and torch with a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.models import fast_gpt, jax_gpt, lecture_gpt
from benchmarks.weights import LECTURE, MICRO, Case

# GPT-2's size, in the lecture's layout: an output matrix of its own, as large as the tied one.
GPT2 = Case("GPT-2 124 M", 1024, 12, 12, 768, batch_size=1, vocab_size=50257)


@dataclass(frozen=True)
class Request:
    """A prompt of `prompt_length` tokens continued by `n` likeliest ones."""

    case: Case
    prompt_length: int
    n: int

    def prompt(self) -> np.ndarray:
        draw = np.random.default_rng(2)
        return draw.integers(0, self.case.vocab_size, (1, self.prompt_length))


REQUESTS = {
    "micro, within the window": Request(MICRO, 1, MICRO.block_size),
    "micro, past the window": Request(MICRO, MICRO.block_size, 300),
    "lecture, within the window": Request(LECTURE, 1, LECTURE.block_size),
    "lecture, past the window": Request(LECTURE, LECTURE.block_size, 20),
    "GPT-2 124 M": Request(GPT2, 16, 64),
}


class JaxGeneration:
    def __init__(self, request: Request) -> None:
        import jax
        import jax.numpy as jnp

        import jax_attn as ja

        model = jax_gpt(request.case)
        prompt, key = jnp.asarray(request.prompt(), jnp.int32), jax.random.key(0)
        self.units = request.n
        self._generate = lambda: ja.generate(model, prompt, request.n, key=key, temperature=0.0)

    def result(self) -> np.ndarray:
        return np.asarray(self._generate())

    def run(self) -> None:
        self._generate().block_until_ready()


class TorchGeneration:
    """ "lecture" is the loop as taught; "cached" keeps keys and values and takes one position."""

    def __init__(self, request: Request, kind: Literal["lecture", "cached"]) -> None:
        import torch

        from torch_ref import generate

        case = request.case
        prompt = torch.from_numpy(request.prompt())
        self.units = request.n
        if kind == "cached":
            if request.prompt_length + request.n > case.block_size + 1:
                raise ValueError("past the window torch with a cache does not do the same thing")
            fast = fast_gpt(case).eval()
            self._generate = lambda: cached_generate(fast, case, prompt, request.n)
            return
        model = lecture_gpt(case).eval()
        self._generate = lambda: generate(model, prompt, request.n, case.block_size, temperature=0)

    def result(self) -> np.ndarray:
        return self._generate().numpy()

    def run(self) -> None:
        self._generate()


def cached_generate(model: Any, case: Case, idx: Any, n: int) -> Any:
    """[1 T0] -> [1 T0+n], the likeliest tokens; keys and values in arrays made beforehand."""
    import torch
    from torch.nn import functional as F

    shape = (1, case.n_head, case.block_size, case.n_embd // case.n_head)
    caches = [(torch.empty(shape), torch.empty(shape)) for _ in model.blocks]

    def last_logits(new: Any, start: int) -> Any:
        T = new.shape[1]
        end = start + T
        x = model.token_embedding_table(new) + model.position_embedding_table.weight[start:end]
        for block, (keys, values) in zip(model.blocks, caches, strict=True):
            qkv = block.qkv(block.ln1(x)).view(1, T, 3, case.n_head, -1)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            keys[:, :, start:end] = key
            values[:, :, start:end] = value
            heads = F.scaled_dot_product_attention(
                query, keys[:, :, :end], values[:, :, :end], is_causal=T > 1
            )
            x = x + block.proj(heads.transpose(1, 2).reshape(1, T, -1))
            x = x + block.contract(F.relu(block.expand(block.ln2(x))))
        return model.lm_head(model.ln_f(x[:, -1]))

    with torch.inference_mode():
        new = idx
        for _ in range(n):
            logits = last_logits(new, idx.shape[1] - new.shape[1])
            new = logits.argmax(dim=-1, keepdim=True)
            idx = torch.cat((idx, new), dim=1)
    return idx
