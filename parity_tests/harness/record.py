"""Every call of every layer: what went in, what came out, and the layer as it was then."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import torch

from parity_tests.harness import jax_listening, on_torch
from parity_tests.harness.calls import Call, run
from parity_tests.harness.copies import copy_of
from parity_tests.harness.jax_recording import JaxRecording
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.linen_errors import in_one_sentence
from parity_tests.harness.taps import layers
from parity_tests.harness.tensors import as_torch
from parity_tests.harness.trees import map_arrays


@dataclass(frozen=True)
class Record:
    """A run of a model."""

    model: Any  # after the call
    calls: tuple[Call, ...]  # in the order in which they end: a layer before what contains it
    unheard: tuple[str, ...]  # layers that were not called, or where nobody could listen


def record(model: Any, inputs: Any) -> Record:
    """Runs a copy of the model once, without a gradient.

    `inputs`: an array; a tuple of positional arguments; or a dict of keyword arguments.
    """
    model = copy_of(model)
    if kind_of(model) == "torch":
        hearing = on_torch.Recording()
        with torch.no_grad(), on_torch.listened_to(model, hearing):
            run(model, map_arrays(as_torch, inputs))
    else:
        hearing = JaxRecording()
        with jax_listening.listened_to(model, hearing) as listened, in_one_sentence(model):
            run(listened, map_arrays(jnp.asarray, inputs))
    calls = _numbered(hearing.calls())
    heard = {call.name for call in calls}
    return Record(model, calls, tuple(sorted(layers(model).keys() - heard)))


def _numbered(calls: Sequence[Call]) -> tuple[Call, ...]:
    counts: Counter[str] = Counter()
    numbered = []
    for call in calls:
        numbered.append(replace(call, count=counts[call.name]))
        counts[call.name] += 1
    return tuple(numbered)
