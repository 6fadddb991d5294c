"""What becomes of damaged, lying and malicious files: a model, or one line, and little memory."""

import tracemalloc

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import jax_attn as ja

MANY = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SPARE = 100_000_000  # bytes that a small file may take, most of them for a moment


def flipped_and_cut(data, whole, least=0):
    """`whole` with at most three bits flipped, at least so many, and perhaps without its end."""
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(least, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]


def outcome(path, **fields):
    """A model's type, or the line of a refusal. Anything else is raised."""
    tracemalloc.start()
    try:
        found = type(ja.load_model(path, **fields)).__name__
    except ja.InputError as error:
        found = str(error)
        assert "\n" not in found
        assert len(found) < 1000
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < SPARE, f"{peak:,} bytes"
    return found


SIZES = st.integers(-2, 2**64) | st.sampled_from([0, 1, 12, 36, 2**31, 2**63 - 1, 10**30])
ODD = st.none() | st.booleans() | st.text(max_size=3) | st.floats() | SIZES
