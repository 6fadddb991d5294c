"""The header of a safetensors file: what it says is checked before anything is read by it.

Eight bytes with the header's length, the header, a JSON object, then the tensors' bytes, one after
another without gaps: https://github.com/huggingface/safetensors. The library's reader for NumPy has
no bfloat16, and takes the last of two tensors of one name.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from jax_attn.errors import InputError

MAX_BYTES = 1 << 26  # of a header; a tokenizer in it takes a few million
MAX_RANK = 8
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor is in a file."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the file's beginning
    end: int


@dataclass(frozen=True)
class Header:
    """What a whole file holds."""

    entries: list[TensorEntry]  # in the order of their bytes
    metadata: dict[str, str]


def read_header(file: BinaryIO) -> Header:
    """InputError, saying why, unless every byte of the file has its place by the header."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise InputError(f"it has {size:,} bytes, fewer than its header of {length:,}")
    if length > MAX_BYTES:
        raise InputError(f"its header has {length:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_each_once)
    except RecursionError as error:
        raise InputError("its header is nested too deeply") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"its header is no JSON ({error!s:.100})") from error
    if not isinstance(header, dict):
        raise InputError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError("its __metadata__ are no texts")
    entries = [_entry(name, record, 8 + length) for name, record in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    end = 8 + length
    for entry in entries:
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a gap before"
            raise InputError(f"{entry.name!r:.100} {what}")
        end = entry.end
    if end != size:
        raise InputError(f"it has {size:,} bytes; by its header there are {end:,}")
    return Header(entries, metadata)


def _entry(name: str, record: Any, start: int) -> TensorEntry:
    """Of one tensor; `start` is where the bytes of all of them begin."""
    what = f"{name!r:.100}"
    if not isinstance(record, dict) or set(record) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{what} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise InputError(f"{what} is of type {kind!r:.40}; known are {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > MAX_RANK:
        raise InputError(f"{what} has no shape but {shape!r:.60}")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{what} has no place but {offsets!r:.60}")
    dtype = DTYPES[kind]
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes != offsets[1] - offsets[0]:
        raise InputError(
            f"{what} of shape {tuple(shape)!s:.60} and type {kind} has "
            f"{offsets[1] - offsets[0]:,} bytes instead of {n_bytes:,}"
        )
    return TensorEntry(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _sizes(value: Any) -> bool:
    """Whether it is a list of integers that sizes and places can be."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise InputError(f"its header has {name!r:.100} twice")
        found[name] = value
    return found
