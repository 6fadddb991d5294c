"""torch's files, read and written by a program of their own: `python -m torch_ref.files`.

Nothing here imports torch, so that a JAX program stays one; only who gives a torch file needs it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError
from jax_attn.interop.new_path import new_path
from jax_attn.interop.safetensors_file import read_tensors, write_tensors
from jax_attn.json_files import read_json, write_json

TENSORS, RECORD = "tensors.safetensors", "record.json"  # as in torch_ref/files.py
LEAST_TIMEOUT_S = 120  # torch takes seconds to be imported
BYTES_A_SECOND = 10_000_000  # at least, of a disk


@dataclass(frozen=True)
class TorchFile:
    """A state dict, and what else of plain types is in the file."""

    tensors: dict[str, NDArray]
    beside: dict[str, Any]  # nanoGPT's model_args, config, iter_num, …; {} of a bare state dict


def read_torch(path: Path) -> TorchFile:
    """What `torch.save` wrote. Nothing in it is called.

    InputError with the remedy where torch is not installed, and for a file that is damaged, holds
    more than tensors and plain values, or no state dict.
    """
    with tempfile.TemporaryDirectory() as folder:
        _run("read", path, Path(folder), reading=path)
        try:
            record = read_json(Path(folder, RECORD))
        except ValueError as error:
            raise InputError(f"{shown(path)}: what is beside its tensors: {error}") from error
        tensors, _ = read_tensors(Path(folder, TENSORS))
    for name, of in record["aliases"].items():
        tensors[name] = tensors[of]
    return TorchFile(tensors, record["beside"])


def write_torch(
    path: Path,
    tensors: Mapping[str, NDArray],
    aliases: Mapping[str, str] | None = None,
    under: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """What `torch.load` reads: a bare state dict, or `{under: state dict, **beside}`.

    `aliases` are names of tensors that are other names' again, and share their memory there.
    InputError where something is at `path` already, and where torch is not installed.
    """
    with tempfile.TemporaryDirectory() as name, new_path(path) as partial:
        folder = Path(name)
        write_tensors(folder / TENSORS, tensors, {"format": "pt"})
        record = {"under": under, "beside": dict(beside or {}), "aliases": dict(aliases or {})}
        write_json(folder / RECORD, record)
        _run("write", folder, partial, reading=path)


def _run(task: str, source: Path, target: Path, *, reading: Path) -> None:
    """The program. InputError, with what it says, when it does not succeed."""
    torch_ref = importlib.util.find_spec("torch_ref")
    if torch_ref is None or torch_ref.origin is None or importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{shown(reading)}: torch's files take torch to read and write, which is not installed "
            "here: pip install torch, or make it a .safetensors file where there is torch"
        )
    root = str(Path(torch_ref.origin).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    size = source.stat().st_size if source.is_file() else 0
    try:
        done = subprocess.run(
            # -P: a torch.py in the working folder is none of torch's.
            [sys.executable, "-P", "-m", "torch_ref.files", task, source, target],
            env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LEAST_TIMEOUT_S + size / BYTES_A_SECOND,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{shown(reading)}: torch did not come to an end with it") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"torch ended with {done.returncode}"
        raise InputError(f"{shown(reading)}: {textwrap.shorten(reason, 400, placeholder=' …')}")
