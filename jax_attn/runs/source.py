"""Where a model comes from, and what it needs beside its weights to read and write a text.

One place for all commands: whatever takes a SOURCE opens it here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jax_attn.config import Activation, TrainConfig
from jax_attn.data import Tokenizer
from jax_attn.data.file_bytes import perhaps, shown
from jax_attn.errors import InputError
from jax_attn.interop.huggingface_folder import is_huggingface, read_huggingface
from jax_attn.interop.layouts import Layout
from jax_attn.interop.model_file import ModelFile
from jax_attn.interop.model_record import model_record
from jax_attn.interop.weights_file import read_weights_file
from jax_attn.json_files import read_json
from jax_attn.models.language_model import LanguageModel
from jax_attn.runs.checkpoint import STEP, model_of_run
from jax_attn.runs.run import Run
from jax_attn.runs.tokenizer_source import read_tokenizer

NANOGPT_FILE = "ckpt.pt"  # in nanoGPT's out_dir
BEST = "@best"
SOURCES = (
    "a run that train.py made, RUN@best, RUN/checkpoints/STEP, a .safetensors file, a file of "
    "torch.save, a folder of Hugging Face's with config.json, or nanoGPT's with ckpt.pt"
)


@dataclass(frozen=True)
class Source:
    """A model that is ready to call, and what is known of it."""

    name: str  # as it was given
    model: LanguageModel
    tokenizer: Tokenizer | None  # None: the source does not say which
    config: TrainConfig | None  # of the run that it is; None: it is no run
    corpus: dict[str, Any] | None = None  # what that run's config.json says of its text

    def require_tokenizer(self) -> Tokenizer:
        """InputError, with how to give one, where the source does not say which."""
        if self.tokenizer is None:
            raise InputError(
                f"{shown(Path(self.name))} does not say what its ids stand for; give --tokenizer "
                "PATH: a tokenizer.json, nanoGPT's meta.pkl, a folder with vocab.json and "
                "merges.txt, or the text whose characters they are"
            )
        return self.tokenizer


@dataclass(frozen=True)
class Untold:
    """What a file of weights may not say of itself."""

    layout: Layout | None = None  # names of the weights, where they are of several
    n_head: int | None = None  # attention heads a block
    activation: Activation | None = None  # of the feed-forward
    attention_scale: float | None = None  # multiplies the scores; else head_size**-0.5
    layer_norm_epsilon: float | None = None  # inside the square root; else 1e-5
    tokenizer: str | None = None  # path of a tokenizer, or of a text whose characters are the ids

    def given(self) -> dict[str, Any]:
        """Those that are, as arguments of `open_source`."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def open_source(
    source: str | os.PathLike[str],
    *,
    layout: Layout | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> Source:
    """What is at `source`, one of SOURCES.

    `layout`, `fields` of GPTConfig and the path of a `tokenizer` are what the source does not say
    of itself. InputError for what it contradicts, for what is missing, with how to give it, and for
    a source that is none or damaged.
    """
    opened = _open(source)
    model = _model(opened, layout, fields)
    own = opened.run.tokenizer if isinstance(opened, _OfRun) else _tokenizer(opened)
    vocab_size = model.token_embedding_table.num_embeddings
    if tokenizer is not None:
        given = read_tokenizer(tokenizer, vocab_size)
        if own is not None and own.record() != given.record():
            raise InputError(f"{_shown(source)} has another tokenizer than {_shown(tokenizer)}")
        own = given
    if own is not None and own.vocab_size > vocab_size:
        raise InputError(
            f"{_shown(source)} has {vocab_size:,} ids, but a tokenizer of {own.vocab_size:,}"
        )
    run = opened.run if isinstance(opened, _OfRun) else None
    if run is None:
        return Source(os.fspath(source), model, own, None)
    return Source(os.fspath(source), model, own, run.config, run.corpus)


def load_model(
    source: str | os.PathLike[str], *, layout: Layout | None = None, **fields: Any
) -> LanguageModel:
    """The model at `source`, as `open_source` finds it; ready to call."""
    return _model(_open(source), layout, fields)


@dataclass(frozen=True)
class _OfRun:
    run: Run
    best: bool = False


def _open(source: str | os.PathLike[str]) -> _OfRun | ModelFile:
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"source must be a path, that of {SOURCES}; got {type(source).__name__}")
    if not os.fspath(source):
        raise InputError(f"source is an empty path; give {SOURCES}")
    path = Path(source)
    if os.path.isdir(path):
        return _open_folder(path)
    if os.path.exists(path):
        return read_weights_file(path)
    name = os.fspath(source)
    if name.endswith(BEST):
        run = Run.open(name.removesuffix(BEST))
        if run.is_checkpoint:
            raise InputError(f"{shown(run.path)} is a checkpoint; {BEST} is of a run")
        return _OfRun(run, best=True)
    raise InputError(f"{_shown(source)}: {_of_a_run(path) or _nothing_there(path)}")


def _nothing_there(path: Path) -> str:
    return f"there is no such file or folder; give {SOURCES}{perhaps(path)}"


def _of_a_run(path: Path) -> str | None:
    """Why the run that is named has no such part; None where none is."""
    run, at, part = str(path).rpartition("@")
    if at and (Path(run) / "config.json").is_file():
        return f"a run has no @{part:.40}, only {BEST}: {shown(Path(run + BEST))}"
    folder = path.parent
    if folder.name != "checkpoints" or not (folder.parent / "config.json").is_file():
        return None
    names = os.listdir(folder) if folder.is_dir() else []
    kept = sorted(int(name) for name in names if STEP.fullmatch(name))
    if not kept:
        return "the run has no checkpoint yet"
    return f"there is no such checkpoint; kept are those of steps {', '.join(map(str, kept))}"


def _open_folder(path: Path) -> _OfRun | ModelFile:
    record: dict[str, Any] | None = None
    try:
        record = read_json(path / "config.json")
    except ValueError:  # damaged: whoever reads the folder says so
        pass
    except FileNotFoundError:
        if (path / NANOGPT_FILE).exists():
            return read_weights_file(path / NANOGPT_FILE)
    if record is not None and "config" in record:
        return _OfRun(Run.open(path))
    if is_huggingface(path) or (record is not None and "model_type" in record):
        return read_huggingface(path)
    if record is not None and not (path / "checkpoints").is_dir():
        raise InputError(
            f"{shown(path)}: its config.json is no run's and none of Hugging Face's, and there are "
            f"no weights beside it; give {SOURCES}"
        )
    return _OfRun(Run.open(path))


def _model(
    opened: _OfRun | ModelFile, layout: Layout | None, fields: Mapping[str, Any]
) -> LanguageModel:
    if isinstance(opened, ModelFile):
        return opened.model(layout, **fields)
    path = opened.run.path
    if layout is not None:
        raise InputError(f"{shown(path)} is a run: its weights have no layout to be told")
    model = model_of_run(opened.run, best=opened.best)
    said = model_record(model)
    for name, value in fields.items():
        if said.get(name, value) != value or name not in said:
            known = said.get(name, "no such field")
            raise InputError(f"{name} is given as {value!s:.40}, but {shown(path)} has {known}")
    return model


def _tokenizer(file: ModelFile) -> Tokenizer | None:
    try:
        return file.read_tokenizer()
    except InputError as error:
        raise InputError(f"{file.name}: its tokenizer: {error}") from error


def _shown(path: str | os.PathLike[str]) -> str:
    return shown(Path(path))
