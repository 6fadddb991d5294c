"""Files and folders of an export: there whole or not at all, and never in another's place."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError


@contextlib.contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder under; it gets its own when all is written.

    InputError where something is at `path`, and where nothing can be written.
    """
    if os.path.lexists(path):
        raise InputError(f"{shown(path)} exists already; choose another place")
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if os.path.lexists(path):  # by another program, meanwhile
            raise InputError(f"{shown(path)} exists already; choose another place")
        partial.rename(path)
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be written ({error.strerror or error})") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
