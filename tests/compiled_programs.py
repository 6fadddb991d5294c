"""The programs of small runs, as an accelerator's own compiler makes them; and their texts."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jax_attn import PRESETS
from jax_attn.compiling.compile import compile_for
from jax_attn.compiling.targets import TARGETS
from jax_attn.generate.buckets import cached_positions
from jax_attn.generate.loop import prefill
from jax_attn.runs.plan import RunPrograms

# Of every kind, as deep and wide as it must be to have every kind of kernel in it. Where a prompt
# is read, the last layer has no attention: two have one.
SMALL = {"n_head": 1, "n_embd": 64}
CONFIGS = {
    "bigram": PRESETS["bigram"][1],
    "head": PRESETS["head"][1],
    "lecture": replace(
        PRESETS["lecture"][1],
        model=replace(PRESETS["lecture"][1].model, n_layer=2, **SMALL),
        batch_size=4,
    ),
    # So many logits that they are never all held.
    "gpt2": replace(
        PRESETS["gpt2"][1],
        model=replace(PRESETS["gpt2"][1].model, n_layer=1, **SMALL),
        batch_size=4,
        accumulate_steps=2,
    ),
}
CONFIGS["a prompt of gpt2"] = replace(
    CONFIGS["gpt2"], model=replace(CONFIGS["gpt2"].model, n_layer=2)
)
# What each takes on an accelerator unless it is told otherwise; GPT-2 what it can be told, too.
DTYPES = [
    ("bigram", "float32"),
    ("head", "float32"),
    ("lecture", "bfloat16"),
    ("gpt2", "bfloat16"),
    ("gpt2", "float32"),
]
# The pass forward of GPT-2 in float32 is compiled in its training, and alone for a prompt.
RUNS = [
    (model, dtype, program)
    for model, dtype in DTYPES
    for program in ("training", "evaluation", "sampling")
    if (model, dtype, program) != ("gpt2", "float32", "evaluation")
]
PROMPTS = (1, 2, 17, 127, 128, 129, 1024)
VOCAB_SIZE = 65
# How often the maker's attention is in a program that can have it: once for each layer, but for the
# last one where its output is not asked for. The lecture's dropout is on the weights in
# training; its sample outgrows the window, whose positions are then computed anew.
FLASH = {
    ("gpt2", "training"): 1,
    ("gpt2", "evaluation"): 1,
    ("lecture", "evaluation"): 2,
    ("lecture", "sampling"): 1,
}


def run_programs(model, dtype, target):
    config = replace(CONFIGS[model], dtype=dtype)
    return RunPrograms(config, TARGETS[target], np.zeros(10_000, np.uint8), VOCAB_SIZE)


@functools.cache
def program_text(model, dtype, target, program):
    """Raises what the compiler raises."""
    # As users run it; the tests' own precision is the highest.
    with jax.default_matmul_precision(None):
        run = run_programs(model, dtype, target)
        make = {
            "training": lambda: run.training(run.config),
            "evaluation": run.evaluation,
            "sampling": run.sampling,
        }[program]
        return "\n".join(compiled.as_text() for compiled in jax.tree.leaves(make()))


def compile_prompt(dtype, target, length):
    """What the small GPT-2 makes of a prompt before it goes on; prompts of a bucket share it."""
    return _compile_prefill(dtype, target, cached_positions(length, CONFIGS["gpt2"].block_size))


@functools.cache
def _compile_prefill(dtype, target, positions):
    with jax.default_matmul_precision(None):
        leaves, structure = jax.tree.flatten(
            run_programs("a prompt of gpt2", dtype, target).state.model()
        )
        text = jax.ShapeDtypeStruct((1, 1025), jnp.int32)
        return compile_for(
            TARGETS[target], prefill, structure, leaves, text, positions=positions
        ).as_text()
