"""Faults of the weight bridge."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jax_attn.interop import entries, gpt2_layouts, lecture_layout, state_dict
from parity_tests.suite.mutants.planting import Mutant, Plant, edited, wrapped

LOAD = f"{state_dict.__name__}:load_state_dict"
NAMES = f"{state_dict.__name__}:_require_names"
SAME = f"{state_dict.__name__}:_require_same"
FILL = f"{state_dict.__name__}:fill"
ENTRIES = entries.__name__
LECTURE = lecture_layout.__name__


def _mutant(name: str, description: str, plant: Plant) -> Mutant:
    return Mutant(name, "bridge", description, "bridge", plant)


def _square_kept(entries: Callable[..., Any]) -> Callable[..., Any]:
    """What a shape check lets pass: the transpose is forgotten where the matrix is square."""

    def made(*args: Any) -> Any:
        for entry in entries(*args):
            square = len(entry.param.shape) == 2 and len(set(entry.param.shape)) == 1
            yield replace(entry, transposed=entry.transposed and not square)

    return made


def _square_transposed(entries: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any) -> Any:
        for entry in entries(*args):
            square = len(entry.param.shape) == 2 and len(set(entry.param.shape)) == 1
            yield replace(entry, transposed=square)

    return made


def _without_biases(load: Callable[..., Any]) -> Callable[..., Any]:
    def made(model: Any, state_dict: Any, layout: Any = "lecture") -> Any:
        zeroed = {
            name: np.zeros_like(value)
            if name.endswith(".bias") and "attn.bias" not in name
            else value
            for name, value in ((n, np.asarray(v)) for n, v in state_dict.items())
        }
        return load(model, zeroed, layout)

    return made


def _through_float32(load: Callable[..., Any]) -> Callable[..., Any]:
    def made(model: Any, state_dict: Any, layout: Any = "lecture") -> Any:
        rounded = {name: np.asarray(value, np.float32) for name, value in state_dict.items()}
        return load(model, rounded, layout)

    return made


MUTANTS = [
    _mutant(
        "square matrices not transposed",
        "a shape check cannot see it, nor can a round trip",
        wrapped(f"{ENTRIES}:linear", _square_kept),
    ),
    _mutant(
        "square Conv1D transposed",
        "GPT-2's c_proj is [in, out] already",
        wrapped(f"{gpt2_layouts.__name__}:_conv1d", _square_transposed),
    ),
    _mutant(
        "fused matrix filled as key, query, value",
        "for query, key, value",
        edited(
            f"{LECTURE}:_heads",
            '("query", "key", "value")',
            '("key", "query", "value")',
        ),
    ),
    _mutant(
        "parts interleaved by head",
        "q k v of head 0, then of head 1",
        edited(
            f"{LECTURE}:_heads",
            "part * n_embd + head * head_size",
            "(head * 3 + part) * head_size",
        ),
    ),
    _mutant(
        "heads in reverse",
        "the last first",
        edited(
            f"{LECTURE}:_heads",
            "part * n_embd + head * head_size",
            "part * n_embd + (attention.n_head - 1 - head) * head_size",
        ),
    ),
    _mutant(
        "lone head's query and key swapped",
        "both have one shape",
        edited(
            f"{LECTURE}:_head",
            '(("key", head.key), ("query", head.query)',
            '(("query", head.key), ("key", head.query)',
        ),
    ),
    _mutant(
        "norms swapped",
        "ln1 for ln2",
        edited(
            f"{LECTURE}:_block",
            'norm("ln1", block.ln1)\n    yield from norm("ln2", block.ln2)',
            'norm("ln1", block.ln2)\n    yield from norm("ln2", block.ln1)',
        ),
    ),
    _mutant(
        "scale and bias swapped",
        "of every norm",
        edited(
            f"{ENTRIES}:norm",
            '(("weight", layer.scale), ("bias", layer.bias))',
            '(("weight", layer.scale if layer.bias is None else layer.bias),'
            ' ("bias", None if layer.bias is None else layer.scale))',
        ),
    ),
    _mutant(
        "blocks in reverse",
        "the last first",
        edited(
            f"{LECTURE}:lecture",
            "enumerate(model.blocks)",
            "enumerate(reversed(model.blocks))",
        ),
    ),
    _mutant("biases left at zero", "not loaded", wrapped(LOAD, _without_biases)),
    _mutant("through float32", "float64 weights are rounded", wrapped(LOAD, _through_float32)),
    _mutant(
        "extra names ignored",
        "a misspelt weight goes unnoticed",
        edited(NAMES, "[name for name in given if name not in expected]", "[]"),
    ),
    _mutant(
        "missing names ignored",
        "a parameter keeps what it was",
        edited(NAMES, "[name for name in needed if name not in given]", "[]"),
    ),
    _mutant(
        "mask not looked at",
        "an anti-causal checkpoint loads",
        edited(FILL, "elif fault := entry.fault(value):", "elif fault := None:"),
    ),
    _mutant(
        "second copy not looked at",
        "a tied matrix may contradict itself",
        edited(SAME, "if entry.alias and", "if False and"),
    ),
]
