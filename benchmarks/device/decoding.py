"""GPT-2's decoding in bfloat16: milliseconds a token."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

import jax_attn as ja
from benchmarks.device.gpt2_data import zipf_ids
from benchmarks.device.jax_gpt2 import gpt2_model
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes

PROMPT = 16  # tokens
ROUNDS = 3


def measure(record: Record, sizes: Sizes) -> None:
    record.device = jax.devices()[0].device_kind
    model = gpt2_model(sizes.gpt2, "bfloat16")
    new = sizes.decoded_tokens
    for batch_size in sizes.decoded_batches:
        prompt = jnp.asarray(zipf_ids((batch_size, PROMPT), sizes.gpt2.vocab_size))
        seconds = []
        for _ in range(1 + ROUNDS):
            begun = time.perf_counter()
            ja.generate(model, prompt, new, key=jax.random.key(0)).block_until_ready()
            seconds.append(time.perf_counter() - begun)
        compiling, *rounds = seconds
        record.add(
            "token",
            1e3 * min(rounds) / new,
            "ms",
            batch_size=batch_size,
            prompt=PROMPT,
            new=new,
            rounds=rounds,
            first_call=compiling,
        )
