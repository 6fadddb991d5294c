"""What a run begins with where that is not drawn: the weights and tokens of a SOURCE."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.config import (
    BigramShape,
    GPTShape,
    HeadShape,
    InitVocabulary,
    ModelShape,
    TrainConfig,
)
from jax_attn.data import ByteTokenizer, CharTokenizer, Corpus
from jax_attn.data.file_bytes import shown
from jax_attn.data.tokenizer import UnknownCharacters
from jax_attn.errors import InputError
from jax_attn.interop.model_record import model_record
from jax_attn.models.extended import extended
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel
from jax_attn.models.single_head import SingleHeadLanguageModel
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.presets import PRESETS
from jax_attn.runs.run import Run
from jax_attn.runs.run_text import corpus_of
from jax_attn.runs.source import Source, open_source
from jax_attn.training.step import TrainState

# Settings of a model's shape that are the run's own, whatever a source has.
OWN = ("dropout_rate", "vocab_size")


@dataclass(frozen=True)
class Init:
    """What somebody asks a new run to start from."""

    source: str | os.PathLike[str]
    vocabulary: InitVocabulary = "refuse"  # or "extend": with characters that source lacks
    # The settings that were named, as "block_size" and "model.n_head"; None: those in which the
    # configuration differs from the preset that is nearest to it.
    given: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.vocabulary not in get_args(InitVocabulary):
            raise InputError(f"init_vocabulary is {self.vocabulary!r:.40}; it is refuse or extend")


@dataclass(frozen=True)
class Start:
    """A source of weights, and the settings of a run that begins with them."""

    source: Source
    vocabulary: InitVocabulary
    config: TrainConfig

    def corpus(self, say: Callable[[str], None], *, fetch: bool = True) -> Corpus:
        """The run's text in the source's tokens; `fetch` as of `load_corpus`.

        Characters that the source does not know: InputError, or new ids after its own where the
        vocabulary is to be extended.
        """
        own, name = self.source.tokenizer, shown(Path(self.source.name))
        if own is None:
            corpus, tokens = corpus_of(self.config, say, fetch=fetch), self.config.tokens
            n, vocab_size = corpus.tokenizer.vocab_size, vocabulary_size(self.source.model)
            if n > vocab_size or (n < vocab_size and tokens == "char"):
                raise InputError(
                    f"{name} does not say what its {vocab_size:,} ids stand for; --tokens {tokens} "
                    f"makes {n:,} of this text. Make it a run that knows them, and start from "
                    f"that: python -m jax_attn.interop {name} --tokenizer PATH --to run --out RUN, "
                    "with the text that it was trained on, or its tokenizer"
                )
            say(f"{name} does not say what its ids stand for: taken for --tokens {tokens}")
            return corpus
        try:
            return corpus_of(self.config, say, fetch=fetch, tokenizer=own)
        except UnknownCharacters:
            if not isinstance(own, CharTokenizer):
                raise
        # What the first piece of a large text has, is not all that it has.
        in_characters = dataclasses.replace(self.config, tokens="char")
        of_text = corpus_of(in_characters, say, fetch=fetch).tokenizer
        unknown = UnknownCharacters(own.unknown(cast(CharTokenizer, of_text).characters))
        if self.vocabulary == "refuse":
            raise InputError(
                f"{name}: {unknown}; --init-vocabulary extend grows its tables by those of the text"
            )
        say(f"{unknown}: the tables are extended by {len(unknown.characters):,} ids")
        return corpus_of(self.config, say, fetch=fetch, tokenizer=own.extended(unknown.characters))


def start_from(init: Init, config: TrainConfig) -> Start:
    """The settings of `config` with the shape of the model that the run starts from.

    Those that were given are taken where the source does not say them of itself. InputError for
    those that it contradicts; but a smaller block size leaves out its last positions.
    """
    if config.rng == "torch":
        raise InputError("rng torch draws the lecture's initial weights: it does not go with init")
    given = given_in(config) if init.given is None else init.given
    fields = {
        name: getattr(config.model, name)
        for name in (each.removeprefix("model.") for each in given if each.startswith("model."))
        if name not in OWN and hasattr(config.model, name)
    }
    opened = open_source(init.source, **fields)
    name = shown(Path(opened.name))
    kinds = {"char": CharTokenizer, "bytes": ByteTokenizer}
    own = opened.tokenizer
    agree = own is None or isinstance(own, kinds.get(config.tokens, ()))
    if own is not None and "tokens" in given and not agree:
        raise InputError(f"tokens is {config.tokens!r:.60}, but {name} has {own.describe()}")
    block_size = model_record(opened.model).get("block_size")  # a bigram has none
    if block_size is None or "block_size" not in given:
        block_size = block_size or config.block_size
    elif config.block_size > block_size:
        raise InputError(
            f"block_size is {config.block_size:,}, but {name} has {block_size:,} positions"
        )
    else:
        block_size = config.block_size
    shape = shape_of(opened, getattr(config.model, "dropout_rate", 0.0))
    config = dataclasses.replace(config, model=shape, block_size=block_size)
    return Start(opened, init.vocabulary, config)


def given_in(config: TrainConfig) -> set[str]:
    """In which settings it differs from the preset with which it agrees in the most."""
    mine = _settings(config)
    presets = [_settings(preset) for _, preset in PRESETS.values()]
    differences = [
        {name for name in mine if mine[name] != preset.get(name, mine[name])} for preset in presets
    ]
    return min(differences, key=len)


def _settings(config: TrainConfig) -> dict[str, Any]:
    settings = vars(config) | {"model": config.model.kind}
    return settings | {f"model.{name}": value for name, value in vars(config.model).items()}


def shape_of(source: Source, dropout_rate: float) -> ModelShape:
    """The settings of a run that make the source's model. InputError where there are none."""
    model, own = source.model, source.tokenizer
    n_ids = vocabulary_size(model)
    spare = 0 if own is None or own.vocab_size == n_ids else n_ids
    if isinstance(model, GPT):
        fields = dataclasses.asdict(model.config)
        fields = {f.name: fields[f.name] for f in dataclasses.fields(GPTShape)}
        return GPTShape(**(fields | {"vocab_size": spare, "dropout_rate": dropout_rate}))
    if own is not None and spare:
        raise InputError(
            f"{shown(Path(source.name))} has {n_ids:,} ids for {own.vocab_size:,} symbols, which "
            "only a GPT is trained with"
        )
    if isinstance(model, SingleHeadLanguageModel):
        _, head_size = model.sa_head.key.kernel.shape
        return HeadShape(model.token_embedding_table.features, head_size)
    return BigramShape()


def vocabulary_size(model: LanguageModel) -> int:
    return model.token_embedding_table.num_embeddings


def fill(model: LanguageModel, source: LanguageModel) -> None:
    """Gives `model` the parameters of `source`, in its own dtype.

    More ids than the source has get what `extended` gives them; a shorter context leaves out the
    last positions.
    """
    more = vocabulary_size(model) - vocabulary_size(source)
    source = extended(source, more) if more else source
    theirs = dict(nnx.to_flat_state(nnx.state(source, nnx.Param)))
    filled = []
    for path, param in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        given = theirs[path][...]
        rows = slice(param.shape[0])  # all, but of the positions
        filled.append((path, param.replace(jnp.asarray(given[rows], param.dtype))))
    nnx.update(model, nnx.from_flat_state(filled))


def source_record(source: Source) -> dict[str, Any]:
    """What `config.json` keeps: where a run was started from, and the weights' hash."""
    path = os.path.abspath(source.name) if os.path.exists(source.name) else source.name
    return {"source": path, "sha256": weights_sha256(source.model)}


def save_start(run: Run, source: LanguageModel) -> None:
    """Makes the run's checkpoint of step 0: the weights of `source`, a fresh optimizer."""
    model = run.fresh_model()
    fill(model, source)
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        checkpoints.save(TrainState.create(model, run.optimizer()))


def weights_sha256(model: LanguageModel) -> str:
    """Of all parameters, with their places in the model, shapes and dtypes."""
    digest = hashlib.sha256()
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    for path, param in sorted(params, key=lambda each: str(each[0])):
        value = np.ascontiguousarray(param[...])
        digest.update(f"{path} {value.shape} {value.dtype}\n".encode())
        digest.update(value.view(np.uint8).data)
    return digest.hexdigest()
