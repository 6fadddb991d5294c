"""Folders of Hugging Face: config.json and weights, whole or in parts that an index names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jax_attn.data import Tokenizer, make_tokenizer
from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError
from jax_attn.interop.huggingface_config import fields_of
from jax_attn.interop.model_file import ModelFile
from jax_attn.interop.weights_file import read_weights_file
from jax_attn.json_files import read_json

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first is taken where there are both
INDEX = ".index.json"


def is_huggingface(folder: Path) -> bool:
    return any((folder / (name + end)).exists() for name in WEIGHTS for end in ("", INDEX))


def read_huggingface(folder: Path) -> ModelFile:
    """What `save_pretrained` wrote, or the like. InputError names what is damaged or missing."""
    try:
        config = read_json(folder / "config.json")
    except FileNotFoundError as error:
        raise InputError(f"{shown(folder)} has weights but no config.json") from error
    except ValueError as error:
        raise InputError(f"{shown(folder / 'config.json')} is damaged ({error})") from error
    try:
        fields = fields_of(config)
    except InputError as error:
        raise InputError(f"{shown(folder / 'config.json')}: {error}") from error
    found = _weights(folder)
    return ModelFile(
        shown(folder),
        found.tensors,
        fields=fields,
        read_tokenizer=lambda: found.read_tokenizer() or _tokenizer(folder),
    )


def _weights(folder: Path) -> ModelFile:
    for name in WEIGHTS:
        if (folder / name).exists():
            return read_weights_file(folder / name)
        if (folder / (name + INDEX)).exists():
            return _in_parts(folder, folder / (name + INDEX))
    raise InputError(f"{shown(folder)} has a config.json but no {' or '.join(WEIGHTS)}")


def _tokenizer(folder: Path) -> Tokenizer | None:
    """Of the files beside the weights; None where there are none."""
    if any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        return make_tokenizer(str(folder), lambda: ())
    return None


def _in_parts(folder: Path, index: Path) -> ModelFile:
    """Every tensor from the file that the index says it is in."""
    try:
        parts = read_json(index).get("weight_map")
    except ValueError as error:
        raise InputError(f"{shown(index)} is damaged ({error})") from error
    if not isinstance(parts, dict) or not parts:
        raise InputError(f"{shown(index)} has no weight_map")
    tensors: dict[str, NDArray] = {}
    for part in dict.fromkeys(map(_hashable, parts.values())):
        content = read_weights_file(_inside(folder, index, part)).tensors
        named = {name for name, of in parts.items() if of == part}
        for names, what in (
            (named - content.keys(), "it is not there"),
            (content.keys() - named, "the index does not say so"),
        ):
            if names:
                raise InputError(f"{shown(folder / part)}: {min(names)!r:.100}: {what}")
        tensors |= content
    return ModelFile(shown(folder), tensors)


def _hashable(part: Any) -> str:
    return part if isinstance(part, str) else repr(part)


def _inside(folder: Path, index: Path, part: str) -> Path:
    """The file of a part. InputError for a name that leads out of the folder.

    Links into the store of Hugging Face's own cache are none: snapshots there are made of them.
    """
    path = folder / part
    plain = part.isprintable() and not set(part) & set("/\\:") and part not in ("", ".", "..")
    if not plain or not part.endswith((".safetensors", ".bin")):
        raise InputError(f"{shown(index)} names {part!r:.100}, which is no file of its folder")
    if not path.exists():
        raise InputError(f"{shown(path)} is missing, which {index.name} names")
    home = path.resolve().parent
    own = folder.resolve()
    stored = own.parent.name == "snapshots" and home == own.parents[1] / "blobs"
    if home != own and not stored:
        raise InputError(f"{shown(path)} is a link out of its folder; put the file itself there")
    return path
