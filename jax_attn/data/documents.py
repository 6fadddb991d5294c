"""The files that a text is in: one, several, or all of a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jax_attn.config import Paths, require_paths
from jax_attn.data.file_bytes import can_be_read_again, is_packed, lasting_name, shown
from jax_attn.errors import InputError

ENDINGS = (".txt", ".md", ".txt.gz", ".md.gz")  # of the files in a folder that are read
NAMED = 3  # names that a message has
TIMES_PACKED = 3  # a text's size is at least that of its .gz


def given_paths(data: Any) -> Paths:
    """What a caller names: a name or path, or several. InputError for anything else."""
    one = isinstance(data, str | bytes) or not isinstance(data, Sequence)
    several: list[Any] = [data] if one else list(data)
    for name in several:
        if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
            raise InputError(f"data is a {type(name).__name__}, not a name or the path of a text")
    paths: list[str] = [os.fspath(name) for name in several]
    require_paths("data", paths)
    return tuple(paths) if len(paths) > 1 else paths[0]


def paths_of(data: Paths) -> list[Path]:
    """Those that are named, be it by one."""
    return [Path(name) for name in ((data,) if isinstance(data, str) else data)]


def in_words(data: Paths) -> str:
    """For a message or a line."""
    return data if isinstance(data, str) else _some(list(data))


def lasting_names(data: Paths) -> Paths:
    """By which the same is found later."""
    names = tuple(map(lasting_name, paths_of(data)))
    return names[0] if isinstance(data, str) else names


def lost(data: Paths) -> Path | None:
    """The first that cannot be opened again: neither a plain file nor a folder; None if all can."""
    there = (can_be_read_again(path) or _is_folder(path) for path in paths_of(data))
    return next(
        (p for p, is_there in zip(paths_of(data), there, strict=True) if not is_there), None
    )


def documents_of(data: Paths, warn: Callable[[str], None]) -> list[Path]:
    """The files, one document each: folders give way to what is in them.

    Of a folder these are all with one of ENDINGS, in folders inside it too, in the order of their
    paths. `warn` gets a line for what is hidden there, and for a link to a folder above itself,
    which are passed over. InputError for a folder that has none or cannot be read.
    """
    found = []
    for path in paths_of(data):
        if _is_folder(path):
            found += _documents_in(path, warn)
        else:
            found.append(path)
    return found


def size_in_bytes(documents: list[Path]) -> int | None:
    """Of all together, about, if packed; None where one is no plain file that is there."""
    if not all(map(can_be_read_again, documents)):
        return None
    times = (TIMES_PACKED if is_packed(path) else 1 for path in documents)
    return sum(path.stat().st_size * n for path, n in zip(documents, times, strict=True))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False  # whoever reads it says what it is


def _documents_in(folder: Path, warn: Callable[[str], None]) -> list[Path]:
    hidden: list[str] = []
    others: list[str] = []
    found = []
    for path in _walk(folder, hidden, warn):
        if path.name.lower().endswith(ENDINGS):
            found.append(path)
        else:
            others.append(path.name)
    if hidden:
        warn(f"{shown(folder)}: what is hidden in it is passed over: {_some(sorted(hidden))}")
    if not found:
        there = f"it has {_some(sorted(others))}" if others else "it is empty"
        raise InputError(
            f"{shown(folder)}: a folder without texts, *.txt or *.md or those with .gz: {there}; "
            "name the files themselves"
        )
    for path in found:
        if path.exists() and not can_be_read_again(path):
            raise InputError(
                f"{shown(path)}: in a folder only plain files are read; name it itself"
            )
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _walk(folder: Path, hidden: list[str], warn: Callable[[str], None]) -> Iterator[Path]:
    """All that is in a folder and is none, each folder looked into once, however it is linked."""
    waiting, seen = [folder], {folder.resolve()}
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(entry.name for entry in os.scandir(folder))
        except OSError as error:
            raise InputError(f"{shown(folder)}: cannot be read ({error.strerror})") from error
        for name in entries:
            path = folder / name
            if name.startswith("."):
                hidden.append(name)
            elif not _is_folder(path):
                yield path
            elif (real := path.resolve()) in seen:
                warn(f"{shown(path)}: a link to a folder that is read already; it is passed over")
            else:
                seen.add(real)
                waiting.append(path)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(shown(Path(name)) for name in names[:NAMED]) + more
