"""Each of torch's CPU random streams by name, here and in torch, and a replay of calls on both."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from jax_attn import Generator

Call = tuple[Any, ...]


def softmax_rows(rows: int, seed: int, temperature: float = 1.0) -> torch.Tensor:
    """[rows 65] probabilities that take nothing from the stream under test."""
    logits = np.random.default_rng(seed).normal(0, 1 / temperature, (rows, 65))
    return F.softmax(torch.from_numpy(logits).float(), dim=-1)


def start(layer: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in layer.parameters()]


def kept(p: float, shape: Any) -> torch.Tensor:
    return F.dropout(torch.ones(shape), p) != 0


# name -> (the stream here, the stream in torch); both take the call's arguments.
STREAMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "rand": (Generator.rand, torch.rand),
    "rand64": (
        lambda g, shape: g.rand(shape, np.float64),
        lambda shape: torch.rand(shape, dtype=torch.float64),
    ),
    "randn": (Generator.randn, torch.randn),
    "randn64": (
        lambda g, shape: g.randn(shape, np.float64),
        lambda shape: torch.randn(shape, dtype=torch.float64),
    ),
    "normal": (Generator.normal, lambda m, s, shape: torch.empty(shape).normal_(m, s)),
    "uniform": (Generator.uniform, lambda a, b, shape: torch.empty(shape).uniform_(a, b)),
    "randint": (
        Generator.randint,
        lambda a, b, shape: torch.randint(a, b, torch.empty(shape).shape),
    ),
    "bernoulli": (Generator.bernoulli, lambda p, shape: torch.empty(shape).bernoulli_(p)),
    "dropout": (Generator.dropout_mask, kept),
    "exponential": (Generator.exponential, lambda shape: torch.empty(shape).exponential_()),
    "exponential64": (
        lambda g, shape: g.exponential(shape, np.float64),
        lambda shape: torch.empty(shape, dtype=torch.float64).exponential_(),
    ),
    "multinomial": (
        lambda g, *rows: g.multinomial(softmax_rows(*rows).numpy()),
        lambda *rows: torch.multinomial(softmax_rows(*rows), 1),
    ),
    "multinomial64": (
        lambda g, *rows: g.multinomial(softmax_rows(*rows).double().numpy()),
        lambda *rows: torch.multinomial(softmax_rows(*rows).double(), 1),
    ),
    "randperm": (Generator.randperm, torch.randperm),
    "linear": (Generator.linear, lambda *sizes: start(torch.nn.Linear(*sizes))),
    "embedding": (Generator.embedding, lambda *sizes: start(torch.nn.Embedding(*sizes))[0]),
}


def assert_same(ours: Any, theirs: Any, where: object = None) -> None:
    if isinstance(theirs, list):  # a layer: weight and perhaps bias
        for one, other in zip(ours, [*theirs, None][: len(ours)], strict=True):
            assert (one is None) == (other is None), where
            if other is not None:
                assert_same(one, other, where)
        return
    theirs = theirs.numpy()
    assert isinstance(ours, np.ndarray), where
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
    assert ours.tobytes() == theirs.tobytes(), where


def replay(seed: int, *calls: Call) -> None:
    """The same calls on one generator here and on torch's global one give the same bits."""
    torch.manual_seed(seed)
    generator = Generator(seed)
    for step, (name, *arguments) in enumerate(calls):
        here, there = STREAMS[name]
        assert_same(here(generator, *arguments), there(*arguments), (seed, calls[: step + 1]))
