"""Files and folders of an export: there whole or not at all, and never in another's place."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

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
    except (OSError, SafetensorError) as error:
        raise InputError(f"{shown(path)} cannot be written ({_reason(error)})") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # what could not be made is not there to remove
                partial.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """In the system's words, also where safetensors has wrapped them."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = re.search(r"I/O error: (.*) \(os error", str(error))
    return found[1] if found else textwrap.shorten(str(error), 200, placeholder=" …")
