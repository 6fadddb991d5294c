"""Prompts of a command line: given in it, or in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jax_attn.data import Tokenizer
from jax_attn.data.file_bytes import perhaps, shown
from jax_attn.errors import InputError

STANDARD_INPUT = Path("-")


def read_prompt(path: Path) -> str:
    """The text of a file, or of standard input. One line end at its end is none of the prompt's.

    Editors and `echo` add that one. InputError for what cannot be read or is not UTF-8.
    """
    name = "standard input" if path == STANDARD_INPUT else shown(path)
    try:
        content = _standard_input() if path == STANDARD_INPUT else path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not UTF-8 at byte offset {error.start:,}; convert the prompt to it"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file of a prompt{perhaps(path)}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: the prompt cannot be read ({reason})") from error
    return text.removesuffix("\n").removesuffix("\r")


def encode_prompt(
    prompt: str, tokenizer: Tokenizer, skip_unknown: bool, warn: Callable[[str], None]
) -> NDArray[np.integer]:
    """Its ids, at least one. `warn` gets a line on characters that are skipped.

    InputError for an empty one, and for characters that no id stands for, unless they are skipped.
    """
    unknown = tokenizer.unknown(prompt) if skip_unknown else ""
    if unknown:
        prompt = prompt.translate(dict.fromkeys(map(ord, unknown)))
        names = ", ".join(map(repr, unknown[:10]))
        more = f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else ""
        warn(f"skipped in the prompt, for the model does not know them: {names}{more}")
    ids = tokenizer.encode(prompt)
    if not len(ids):
        nothing = "nothing is left of the prompt" if unknown else "the prompt is empty"
        raise InputError(f"{nothing}; give at least one character")
    return ids


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise InputError("standard input is closed: there is no prompt to read")
    return sys.stdin.buffer.read()
