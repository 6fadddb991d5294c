"""A file of weights, whoever wrote it: safetensors or torch's, told apart by what is in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_attn.data import Tokenizer
from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError
from jax_attn.interop.meta_pickle import read_meta
from jax_attn.interop.model_file import ModelFile
from jax_attn.interop.safetensors_file import read_safetensors
from jax_attn.interop.safetensors_header import MAX_BYTES
from jax_attn.interop.torch_file import read_torch

LFS = b"version https://git-lfs"  # how a file begins that git-lfs has not fetched yet
# nanoGPT's names in model_args, and ours; its `bias` is of every projection and norm.
MODEL_ARGS = {
    "n_layer": ("n_layer",),
    "n_head": ("n_head",),
    "n_embd": ("n_embd",),
    "block_size": ("block_size",),
    "vocab_size": ("vocab_size",),
    "bias": ("qkv_bias", "linear_bias", "norm_bias"),
    "dropout": ("dropout_rate",),
}


def read_weights_file(path: Path) -> ModelFile:
    """What is in a file of `save_safetensors`, of safetensors by others, or of `torch.save`.

    InputError, with the reason, for a file that is damaged or none of these.
    """
    begin = _beginning(path)
    is_header = begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= MAX_BYTES
    if is_header or path.suffix == ".safetensors":
        return read_safetensors(path)
    if begin[:4] != b"PK\x03\x04" and begin[:1] != b"\x80":
        raise InputError(f"{shown(path)} is neither a safetensors file nor one of torch.save")
    torch_file = read_torch(path)
    return ModelFile(
        shown(path),
        torch_file.tensors,
        fields=_of_model_args(path, torch_file.beside.get("model_args")),
        read_tokenizer=lambda: _of_meta(path, torch_file.beside.get("config")),
    )


def _beginning(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{shown(path)} is no file")  # a pipe would be waited on for ever
        with path.open("rb") as file:
            begin = file.read(len(LFS))
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read ({error.strerror})") from error
    if begin == LFS:
        raise InputError(
            f"{shown(path)} is not the weights yet but where git-lfs fetches them: git lfs pull"
        )
    return begin


def _of_model_args(path: Path, arguments: Any) -> dict[str, Any]:
    """Fields of GPTConfig, as far as nanoGPT's `model_args` say them."""
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"{shown(path)}: its model_args are {arguments!r:.60}, no settings")
    return {
        field: value
        for name, value in arguments.items()
        for field in MODEL_ARGS.get(name, ())
        if value is not None  # minGPT's way to say nothing
    }


def _of_meta(path: Path, config: Any) -> Tokenizer | None:
    """The characters that nanoGPT's sample.py would find.

    They are in data/DATASET/meta.pkl of nanoGPT's folder, in which the checkpoint's folder is; a
    copy beside the checkpoint is as good.
    """
    places = [path.parent / "meta.pkl"]
    dataset = config.get("dataset") if isinstance(config, Mapping) else None
    if isinstance(dataset, str) and "\0" not in dataset:
        roots = (path.absolute().parents[1], Path(), path.parent)
        places += [root / "data" / dataset / "meta.pkl" for root in roots]
    found = next((place for place in places if os.path.isfile(place)), None)
    return None if found is None else read_meta(found)
