"""The checksum list of a folder, by which damage is known before anything else reads the files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jax_attn.json_files import read_json, sync_folder, write_json

CHECKSUMS = "checksums.json"


def seal(folder: Path) -> None:
    """Writes the SHA-256 of every file in `folder`; all of it is on the disk when this returns."""
    sums = {}
    for path in _files(folder):
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = _sha256(file)
            os.fsync(file.fileno())
    for parent, _, _ in os.walk(folder):
        sync_folder(Path(parent))
    write_json(folder / CHECKSUMS, sums)


def fault(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in words; None if it is as it was sealed.

    Names in the list are compared with those that the folder has, and never opened.
    """
    try:
        sums = read_json(folder / CHECKSUMS)
        found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        found.pop(CHECKSUMS)
        for name in sorted(sums.keys() | found.keys()):
            if name not in found:
                return f"the file {name[:100]!r} is missing"
            if name not in sums:
                return f"the file {name[:100]!r} does not belong to it"
            with found[name].open("rb") as file:
                if _sha256(file) != sums[name]:
                    return f"the file {name[:100]!r} is not as it was written"
    except FileNotFoundError:
        return "it has no checksum list"
    except ValueError as error:
        return f"its checksum list: {error}"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder. ValueError for links, pipes and the like."""
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names)):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                yield path
            elif not stat.S_ISDIR(mode):
                raise ValueError(f"{path.name[:100]!r} is neither a file nor a folder")


def _sha256(file) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
