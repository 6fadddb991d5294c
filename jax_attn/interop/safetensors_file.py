"""Models in safetensors files, with all that they need to be opened again.

The file's metadata hold, as JSON, the names that the tensors go by (`jax_attn.layout`), the model's
configuration (`jax_attn.model`) and its tokenizer (`jax_attn.tokenizer`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.data import Tokenizer, tokenizer_of
from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError
from jax_attn.interop.layouts import Layout, require_layout
from jax_attn.interop.model_file import ModelFile
from jax_attn.interop.model_record import KINDS, model_record
from jax_attn.interop.new_path import new_path
from jax_attn.interop.safetensors_header import read_header
from jax_attn.interop.state_dict import to_state_dict
from jax_attn.models.language_model import LanguageModel
from jax_attn.room import require_room

LAYOUT, MODEL, TOKENIZER = "jax_attn.layout", "jax_attn.model", "jax_attn.tokenizer"


def save_safetensors(
    model: LanguageModel,
    path: str | os.PathLike[str],
    layout: Layout = "lecture",
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes the parameters, by the layout's names and in their own dtype, and what they are of.

    InputError where something is already, and for a model that the layout has no names for.
    """
    metadata = model_metadata(model_record(model), layout, tokenizer)
    write_tensors(Path(path), to_state_dict(model, layout), metadata)


def load_safetensors(path: str | os.PathLike[str], layout: Layout | None = None) -> LanguageModel:
    """The model in a file of `save_safetensors`, or in one of others as far as its arrays tell.

    Parameters have the file's dtypes. InputError for a file that is damaged, whose configuration
    or `layout` disagrees with its tensors, or that does not say enough to be called
    (`load_model` takes what is missing).
    """
    return read_safetensors(Path(path)).model(layout=layout)


def read_safetensors(path: Path) -> ModelFile:
    """What a file holds. InputError for a damaged one."""
    tensors, metadata = read_tensors(path)
    try:
        record = _of_json(MODEL, metadata)
        tokenizer = _of_json(TOKENIZER, metadata)
        layout = require_layout(metadata[LAYOUT]) if LAYOUT in metadata else None
    except InputError as error:
        raise InputError(f"{shown(path)}: {error}") from error
    kind = record.get("kind")
    if kind not in (None, *KINDS):
        raise InputError(f"{shown(path)}: its {MODEL} is of a {kind!r:.60}, none of {KINDS}")
    fields = {name: value for name, value in record.items() if name != "kind"}
    return ModelFile(
        shown(path),
        tensors,
        layout,
        fields,
        kind,
        lambda: tokenizer_of(tokenizer) if tokenizer else None,
    )


def _of_json(key: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The record under a key; {} where there is none."""
    try:
        record = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"its {key} is no JSON") from error
    if not isinstance(record, dict):
        raise InputError(f"its {key} is no JSON object")
    return record


def model_metadata(
    record: dict[str, Any], layout: Layout, tokenizer: Tokenizer | None
) -> dict[str, str]:
    """The texts that go into a file beside the tensors."""
    metadata = {"format": "pt", LAYOUT: layout, MODEL: json.dumps(record)}
    if tokenizer is not None:
        metadata[TOKENIZER] = json.dumps(tokenizer.record())
    return metadata


def read_tensors(path: Path) -> tuple[dict[str, NDArray], dict[str, str]]:
    """All tensors of a file, in memory, and its metadata. InputError for a damaged file."""
    try:
        with path.open("rb") as file:
            header = read_header(file)
            n_bytes = sum(entry.end - entry.begin for entry in header.entries)
            require_room(n_bytes, "its tensors")
            tensors = {}
            for entry in header.entries:
                file.seek(entry.begin)
                content = np.fromfile(file, np.uint8, entry.end - entry.begin)
                tensors[entry.name] = content.view(entry.dtype).reshape(entry.shape)
    except InputError as error:
        raise InputError(
            f"{shown(path)} is no safetensors file that can be used: {error}"
        ) from error
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read ({error.strerror})") from error
    return tensors, header.metadata


def write_tensors(path: Path, tensors: Mapping[str, NDArray], metadata: dict[str, str]) -> None:
    """A file that is there whole or not at all. InputError where something is already."""
    from safetensors.numpy import save_file

    contiguous: dict[str, Any] = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    with new_path(path) as partial:
        save_file(contiguous, partial, metadata)
