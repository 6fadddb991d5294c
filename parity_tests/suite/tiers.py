"""One check at both tiers, and the few other kinds of check.

A check compares what a function of the reference and a function of the port make of the same
arrays. The arrays are drawn in float64 with all their bits; the float32 tier rounds them once, and
its oracle is the reference in float64 on the rounded values.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

from parity_tests.harness.budgets import BFLOAT16, FORWARD, SEMANTIC, Budget
from parity_tests.harness.compare import Report, bit_identical_after_rounding, compare
from parity_tests.harness.tensors import to_numpy
from parity_tests.suite.planted import planted_bugs
from parity_tests.suite.reach import can_reach, recorded

Check = tuple[str, Report]
Checks = Iterator[Check]
Arrays = Mapping[str, Any]  # NumPy arrays, or mappings of them; floats in float64
Function = Callable[[Any], Any]  # takes such a tree in its own framework, gives a tree of arrays


def both_tiers(
    name: str,
    reference: Function,
    port: Function,
    arrays: Arrays,
    *,
    budget: Budget = FORWARD,
) -> Checks:
    """Is it the same function, and is it as accurate?"""
    yield semantic(name, reference, port, arrays)
    yield numeric(name, reference, port, arrays, budget=budget)


def semantic(name: str, reference: Function, port: Function, arrays: Arrays) -> Check:
    """Both in float64."""
    expected = in_torch(reference, arrays, np.float64, name)
    got = in_jax(port, arrays, np.float64, name)
    return f"{name}, float64", compare(expected, got, budget=SEMANTIC)


def numeric(
    name: str,
    reference: Function,
    port: Function,
    arrays: Arrays,
    *,
    budget: Budget = FORWARD,
) -> Check:
    """Both in float32, x64 off, against the reference in float64."""
    rounded = round_floats(arrays, np.float32)
    oracle = in_torch(reference, rounded, np.float64, name)
    expected = in_torch(reference, rounded, np.float32, name)
    got = in_jax(port, rounded, np.float32, name)
    return f"{name}, float32", compare(expected, got, oracle, budget=budget)


def bfloat16(name: str, reference: Function, port: Function, arrays: Arrays) -> Check:
    """Both in bfloat16, from arrays that bfloat16 holds, against the reference in float64."""
    rounded = round_floats(arrays, ml_dtypes.bfloat16)
    oracle = in_torch(reference, rounded, np.float64, name)
    expected = in_torch(reference, rounded, torch.bfloat16, name)
    got = in_jax(port, rounded, np.float32, name)
    return f"{name}, bfloat16", compare(expected, got, oracle, budget=BFLOAT16)


def assert_all(checks: Checks) -> None:
    """Runs every check; an AssertionError holds the report of each that fails."""
    found = list(checks)
    failures = [f"{name}\n{report}" for name, report in found if not report.ok]
    assert not failures, f"{len(failures)} of {len(found)} checks fail\n" + "\n\n".join(failures)


def same_bits(name: str, expected: Any, got: Any) -> Check:
    """Trees of arrays of the same names, shapes and bits; dtypes must agree."""
    return name, compare(_bits(expected), _bits(got))


def holds(name: str, truth: bool) -> Check:
    """Something that is so or not."""
    return name, compare(np.array(True), np.array(truth))


def raises(name: str, error: type[Exception], message: str, call: Callable[[], Any]) -> Check:
    """The call must raise `error` with `message` in its text; anything else is a failed check."""
    try:
        call()
    except Exception as caught:
        return holds(name, isinstance(caught, error) and message in str(caught))
    return holds(name, False)


def same_bits_after_rounding(
    name: str, reference: Function, port: Function, arrays: Arrays
) -> Check:
    """Float64 on both sides, rounded to float32: no entry may have other bits.

    Entries that lie on a border between two float32s are excused and counted in the name.
    """
    expected = in_torch(reference, arrays, np.float64, name)
    found = bit_identical_after_rounding(expected, in_jax(port, arrays, np.float64, name))
    excused = f", {found.at_boundary} of {found.total} on a boundary" if found.at_boundary else ""
    return f"{name}, rounded to float32{excused}", compare(
        {"entries with other bits": np.array(0)},
        {"entries with other bits": np.array(found.differing)},
    )


Key = tuple[str, str, bytes]  # a check, a dtype, and a digest of the arrays
_remembered: dict[Key, Any] | None = None  # what the reference made
_ported: dict[Key, tuple[Any, frozenset[str]]] = {}  # what the port made, by which functions


def remember_results() -> None:
    """From now on both sides run once for each check and its arrays, in this process.

    For planted bugs: they are in the port alone, so that the reference stays the same, and the port
    in every check that runs nothing of what is replaced.
    """
    global _remembered
    _remembered = _remembered or {}


def in_torch(function: Function, arrays: Arrays, dtype: Any, check: str = "") -> Any:
    """What `function` makes of the arrays as torch tensors, floats in `dtype`; as NumPy.

    bfloat16 comes back as the torch tensors that it is, for NumPy has no such type. `check` is what
    tells it from other functions of the same arrays, where references are remembered.
    """
    if _remembered is None or not check:
        return _in_torch(function, arrays, dtype)
    key = (check, str(dtype), _digest(arrays))
    if key not in _remembered:
        _remembered[key] = _in_torch(function, arrays, dtype)
    return _remembered[key]


def _in_torch(function: Function, arrays: Arrays, dtype: Any) -> Any:
    torch_dtype = {np.float64: torch.float64, np.float32: torch.float32}.get(dtype, dtype)

    def convert(array: Any) -> torch.Tensor:
        array = np.asarray(array)
        if array.dtype.kind in "iub":
            return torch.from_numpy(array.astype(bool if array.dtype == bool else np.int64))
        return torch.from_numpy(array.astype(np.float64)).to(torch_dtype)

    made = function(_map(convert, arrays))
    if torch_dtype == torch.bfloat16:
        return _map(lambda x: x.detach(), made)
    return _map(to_numpy, made)


def in_jax(function: Function, arrays: Arrays, dtype: Any, check: str = "") -> Any:
    """What `function` makes of the arrays as jax arrays, floats in `dtype`; as NumPy.

    x64 is on for float64 and off otherwise: with it on, float32 programs change too. `check` tells
    it from other functions of the same arrays, where results are remembered.
    """
    if _remembered is None or not check:
        return _in_jax(function, arrays, dtype)
    key = (check, str(dtype), _digest(arrays))
    known, ran = _ported.get(key, (None, frozenset()))
    if planted_bugs:
        return known if key in _ported and not can_reach(ran) else _in_jax(function, arrays, dtype)
    with recorded() as reached:
        made = _in_jax(function, arrays, dtype)
    # Else one would later be taken for the other.
    assert known is None or same_bits(check, known, made)[1].ok, f"two checks are named {check!r}"
    _ported[key] = made, ran | reached
    return made


def _in_jax(function: Function, arrays: Arrays, dtype: Any) -> Any:

    def convert(array: Any) -> jax.Array:
        array = np.asarray(array)
        return jnp.asarray(array if array.dtype.kind in "iub" else array.astype(dtype))

    with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
        return _map(np.asarray, function(_map(convert, arrays)))


def round_floats(arrays: Arrays, dtype: Any) -> Any:
    """The tree with every float array rounded once to `dtype`, still as float64."""
    return _map(
        lambda a: a if np.asarray(a).dtype.kind in "iub" else a.astype(dtype).astype(np.float64),
        arrays,
    )


def _digest(arrays: Arrays) -> bytes:
    digest = hashlib.blake2b()

    def add(array: Any) -> None:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())

    _map(add, arrays)
    return digest.digest()


def _bits(tree: Any) -> Any:
    """Float arrays as the integers of the same bits, their dtype in the name."""
    unsigned = {8: np.int64, 4: np.int32, 2: np.int16}

    def convert(array: Any) -> Any:
        array = np.ascontiguousarray(to_numpy(array))
        if array.dtype.kind in "iub":
            return array
        return {f"bits of {array.dtype}": array.view(unsigned[array.dtype.itemsize])}

    return _map(convert, tree)


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _map(function, child) for name, child in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map(function, child) for child in tree]
    return function(tree)
