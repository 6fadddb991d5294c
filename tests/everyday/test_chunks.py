"""Where the chunks of a run end, whatever its cadences."""

import dataclasses

import numpy as np
import pytest

import jax_attn as ja
from jax_attn.runs.chunks import chunk_end, longest_chunk

# Cadences (evaluation, checkpoint), steps, most of a chunk, and where the chunks end.
CHUNKS = [
    ("a divisor", (1000, 1000), 1000, 200, [200, 400, 600, 800, 1000]),
    ("a prime number of steps", (100, 100), 211, 50, [50, 100, 150, 200, 211]),
    ("steps that divide nothing", (1000, 10_000), 7, 200, [7]),
    ("a cadence that none divides", (7, 11), 22, 50, [7, 11, 14, 21, 22]),
    ("parts as equal as can be", (10, 100), 10, 4, [3, 6, 10]),
    ("a cadence past the end", (10**9, 10**9), 450, 200, [200, 400, 450]),
]


@pytest.mark.parametrize(
    ("cadences", "steps", "most", "ends"), [pytest.param(*row[1:], id=row[0]) for row in CHUNKS]
)
def test_chunks_depend_on_no_common_divisor(cadences, steps, most, ends):
    settings = dataclasses.replace(
        ja.PRESETS["bigram"][1], steps=steps, eval_every=cadences[0], checkpoint_every=cadences[1]
    )
    found = [0]
    while found[-1] < steps:
        found.append(chunk_end(settings, most, found[-1]))
    assert found[1:] == ends
    assert max(np.diff(found)) <= longest_chunk(settings, most)
