"""The text of a run that goes on: the same as before, wherever it is now."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from jax_attn.data import BUILT_IN, Corpus, UnknownCharacters, load_corpus
from jax_attn.data.text_file import can_be_read_again, shown
from jax_attn.errors import InputError
from jax_attn.runs.commands import resume_command
from jax_attn.runs.run import Run


def text_of_run(run: Run, data: str | None, warn: Callable[[str], None]) -> Corpus:
    """From where it was, or from `data`: whatever has the same bytes.

    InputError, with the remedy, for another text, for one that is not there any more or could be
    read only once, and for a checkpoint: it is not the run.
    """
    if run.is_checkpoint:
        folder = run.path.absolute().parents[1]
        whole = run.path.absolute().parent.name == "checkpoints" and folder.is_dir()
        remedy = f": {resume_command(folder)}" if whole else ", whose folder is not around it"
        raise InputError(f"{run.path} is a checkpoint; what goes on is its run{remedy}")
    known = f"{run.path} was trained on a text of sha256 {run.corpus['sha256'][:12]}…"
    remedy = f"give it with: {resume_command(run.path)} --data PATH"
    name = run.config.data if data is None else data
    if data is None and name not in BUILT_IN and not can_be_read_again(Path(name)):
        why = "can be read only once" if os.path.exists(name) else "there is no such file any more"
        raise InputError(f"{shown(Path(name))}: {why}; {known}: {remedy}")
    try:
        corpus = load_corpus(name, warn, encoding=run.config.encoding, tokenizer=run.tokenizer)
    except UnknownCharacters as error:
        raise InputError(
            f"{known}; the one that is there now, or tokenizer.json, is another: {error}; "
            f"{remedy}; every checkpoint has a copy of the tokenizer"
        ) from error
    if corpus.sha256 != run.corpus["sha256"]:
        raise InputError(
            f"{known}, but {corpus.name} now has {corpus.sha256[:12]}…; bring the first one back, "
            f"or {remedy}"
        )
    # A byte order mark was a symbol once, and still is to the runs of that time.
    marked = run.corpus.get("characters") == sum(corpus.characters) + 1
    return corpus.with_mark() if marked else corpus
