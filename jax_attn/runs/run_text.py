"""The texts of a run: those that it begins with, and the same when it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable

from jax_attn.config import Paths, TrainConfig
from jax_attn.data import BUILT_IN, Corpus, Tokenizer, UnknownCharacters, load_corpus
from jax_attn.data.documents import in_words, lost
from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError
from jax_attn.runs.commands import resume_command
from jax_attn.runs.run import Run


def corpus_of(
    config: TrainConfig,
    warn: Callable[[str], None],
    *,
    fetch: bool = True,
    tokenizer: Tokenizer | None = None,
    check: Callable[[list[tuple[Paths, str]]], object] = lambda texts: None,
) -> Corpus:
    """What a configuration says, with tokens of its own kind or of the given `tokenizer`.

    `check` gets the names and SHA-256s of the texts before anything is made of them.
    """
    return load_corpus(
        config.data,
        warn,
        encoding=config.encoding,
        fetch=fetch,
        validation=config.validation,
        validation_fraction=config.validation_fraction,
        tokens=config.tokens,
        tokenizer=tokenizer,
        check=check,
    )


def text_of_run(
    run: Run, data: Paths | None, validation: Paths | None, warn: Callable[[str], None]
) -> Corpus:
    """From where they were, or from `data` and `validation`: whatever has the same bytes.

    InputError, with the remedy, for another text, for one that is not there any more or could be
    read only once, and for a checkpoint: it is not the run.
    """
    if run.is_checkpoint:
        folder = run.path.absolute().parents[1]
        whole = run.path.absolute().parent.name == "checkpoints" and folder.is_dir()
        remedy = f": {resume_command(folder)}" if whole else ", whose folder is not around it"
        raise InputError(f"{run.path} is a checkpoint; what goes on is its run{remedy}")
    if not run.corpus["sha256"]:
        return _first_text(run, data, validation, warn)
    before = run.config
    if validation is not None and before.validation is None:
        raise InputError(
            f"{run.path} validates with a part of its text: it has no --validation to move"
        )
    _require_there(run, "data", before.data, data)
    if before.validation is not None:
        _require_there(run, "validation", before.validation, validation)
    config = run.with_data(data or before.data, validation or before.validation).config

    def check(texts: list[tuple[Paths, str]]) -> None:
        for flag, (name, sha256) in zip(_HASHES, texts, strict=False):
            _require_same(run, flag, name, sha256)

    try:
        corpus = corpus_of(config, warn, tokenizer=run.tokenizer, check=check)
    except UnknownCharacters as error:
        raise InputError(
            f"tokenizer.json of {run.path} is not that of its text: {error}; every checkpoint has "
            "a copy of it"
        ) from error
    # A byte order mark was a symbol once, and still is to the runs of that time.
    marked = run.corpus.get("characters") == sum(corpus.characters) + 1
    return corpus.with_mark() if marked else corpus


def _first_text(
    run: Run, data: Paths | None, validation: Paths | None, warn: Callable[[str], None]
) -> Corpus:
    """Of a run that was made of weights alone."""
    if data is None:
        raise InputError(
            f"{run.path} has had no text yet; give one with: {resume_command(run.path)} --data PATH"
        )
    corpus = corpus_of(run.with_data(data, validation).config, warn, tokenizer=run.tokenizer)
    corpus.require_block(run.config.block_size)
    return corpus


def _require_there(run: Run, flag: str, before: Paths, now: Paths | None) -> None:
    """InputError where a text is to be read from where it was, and cannot be."""
    if now is not None or before in BUILT_IN or (path := lost(before)) is None:
        return
    why = "can be read only once" if os.path.exists(path) else "there is no such file any more"
    raise InputError(f"{shown(path)}: {why}; {_known(run, flag)}: {_remedy(run, flag)}")


def _require_same(run: Run, flag: str, name: Paths, sha256: str) -> None:
    if sha256 != run.corpus.get(_HASHES[flag]):
        raise InputError(
            f"{_known(run, flag)}, but {in_words(name)} now has {sha256[:12]}…; bring the "
            f"first one back, or {_remedy(run, flag)}"
        )


_HASHES = {"data": "sha256", "validation": "validation_sha256"}
_USES = {"data": "trained on", "validation": "validated with"}


def _known(run: Run, flag: str) -> str:
    sha256 = str(run.corpus.get(_HASHES[flag]))[:12]
    return f"{run.path} was {_USES[flag]} a text of sha256 {sha256}…"


def _remedy(run: Run, flag: str) -> str:
    return f"give it with: {resume_command(run.path)} --{flag} PATH"
