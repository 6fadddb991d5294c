"""Small JSON files: read with every fault named, written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 26  # far above any file of a run; a larger one is not read into memory


def read_small(path: Path) -> bytes:
    """What is in a file. FileNotFoundError, or ValueError with the fault in words."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a file")  # a pipe would be waited on for ever
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} is missing") from error
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. FileNotFoundError, or ValueError with the fault in words."""
    content = read_small(path)
    try:
        value = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces the file in one step; it is on the disk when this returns. OSError as usual."""
    partial = path.with_name(path.name + ".writing")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Puts a folder's list of names on the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened, and need not be
        sync(path)


def sync(path: Path) -> None:
    """Puts what was written to a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
