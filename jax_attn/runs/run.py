"""The folder of a run: its configuration and tokenizer, and the lock of who writes it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import optax

from jax_attn.config import OptimizerConfig, Paths, TrainConfig
from jax_attn.data import Corpus, Tokenizer, load_tokenizer
from jax_attn.data.file_bytes import perhaps, shown
from jax_attn.errors import InputError
from jax_attn.json_files import read_json, write_json
from jax_attn.models.language_model import LanguageModel
from jax_attn.runs.build_model import build_model
from jax_attn.runs.commands import quoted, resume_command
from jax_attn.runs.metrics import Metrics
from jax_attn.training.optim import make_optimizer
from jax_attn.training.step import TrainState

VERSIONED = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
# What may change between two parts of a run. A text is known by its hash, not by its path.
CHANGEABLE = (
    "steps",
    "optimizer.schedule_steps",
    "data",
    "validation",
    "checkpoint_every",
    "sample_tokens",
)

NO_TEXT = {"name": "", "sha256": ""}  # what a run says of its text that was made of weights alone


class FolderTaken(InputError):
    """A run is to be made where something is already."""


@dataclass(frozen=True)
class Run:
    """A run directory and what its `config.json` and `tokenizer.json` say.

    A checkpoint holds both files too, and can be opened in the same way.
    """

    path: Path
    config: TrainConfig
    tokenizer: Tokenizer
    corpus: dict[str, Any]  # names and SHA-256s, and sizes for the reader's eye
    versions: dict[str, str]  # of the libraries that wrote it
    started_from: dict[str, Any] | None = None  # a source of weights and their sha256; None: drawn

    @property
    def metrics(self) -> Metrics:
        return Metrics(self.path / "metrics.jsonl", self.writing)

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def is_checkpoint(self) -> bool:
        """Whether this is a checkpoint of a run, whole or not."""
        return (self.path / "arrays").is_dir()

    @classmethod
    def create(
        cls,
        path: Path,
        config: TrainConfig,
        corpus: Corpus,
        started_from: dict[str, Any] | None = None,
    ) -> Run:
        """Makes the directory, whole or not at all.

        FolderTaken if it exists, also if another process is the faster one; InputError if it cannot
        be made.
        """
        about = about_corpus(corpus)
        return cls(path, config, corpus.tokenizer, about, versions_in_use(), started_from).make()

    def make(self) -> Run:
        """Makes this run's directory, as `create`."""
        path = self.path
        taken = FolderTaken(
            f"{path} exists already; choose another --out, or go on with --resume {quoted(path)}"
        )
        if path.exists():
            raise taken
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            self.write(partial)
            partial.rename(path)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise taken from error  # by another run of this moment
            raise InputError(
                f"{path} cannot be made ({error.strerror}); choose another --out"
            ) from error
        return self

    def write(self, folder: Path) -> None:
        """Writes `config.json` and `tokenizer.json` into `folder`. OSError as usual."""
        self.tokenizer.save(folder / "tokenizer.json")
        record = {
            "config": self.config.to_dict(),
            "corpus": self.corpus,
            "versions": self.versions,
        }
        if self.started_from is not None:
            record["started_from"] = self.started_from
        write_json(folder / "config.json", record)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Reads a run. InputError when the directory is none."""
        path = Path(path)
        if not os.path.isdir(path):
            what = "is a file" if os.path.exists(path) else "there is no such folder"
            raise InputError(
                f"{shown(path)}: {what}; a run is the folder that train.py made{perhaps(path)}"
            )
        try:
            record = read_json(path / "config.json")
            config = TrainConfig.from_dict(record["config"])
            corpus = dict(record["corpus"]) | {"sha256": str(record["corpus"]["sha256"])}
            versions = {str(k): str(v) for k, v in dict(record["versions"]).items()}
            begun = record.get("started_from")
            started_from = None if begun is None else dict(begun)
        except FileNotFoundError as error:
            raise InputError(_no_run(path)) from error
        except KeyError as error:
            raise InputError(
                f"{path}: config.json has no {error}, as that of a run has; every checkpoint has "
                "a copy of it"
            ) from error
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}: config.json is damaged ({error}); every checkpoint has a copy of it"
            ) from error
        tokenizer = load_tokenizer(path / "tokenizer.json")
        return cls(path, config, tokenizer, corpus, versions, started_from)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes to this run meanwhile. InputError when somebody does."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / "lock")
        with self.writing():
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise InputError(
                    f"{self.path} is being trained by another process; wait for it or stop it"
                ) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns the failure to write a file of this run into an InputError with the remedy."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written to ({error.strerror or error}); see to its room "
                f"and permissions, then go on with: {resume_command(self.path)}"
            ) from error

    def with_steps(self, steps: int | None, schedule_steps: int | None = None) -> Run:
        """The same run with another total of steps, not yet written down; None is the old one.

        The learning rate keeps its schedule, unless `schedule_steps` gives it another length.
        InputError for numbers that no run takes, and for a learning rate without a schedule.
        """
        old = self.config
        new = dataclasses.replace(old, steps=old.steps if steps is None else steps)
        scheduled = old.optimizer.depends_on(min(old.steps, new.steps))
        if schedule_steps is not None and not scheduled:
            raise InputError(
                f"the learning rate of {self.path} is constant: it has no schedule_steps to change"
            )
        if schedule_steps is None and scheduled and new.steps != old.steps:
            schedule_steps = old.optimizer.schedule_steps or old.steps
        if schedule_steps is not None:
            optimizer = dataclasses.replace(old.optimizer, schedule_steps=schedule_steps)
            new = dataclasses.replace(new, optimizer=optimizer)
        return dataclasses.replace(self, config=new)

    def with_data(self, data: Paths, validation: Paths | None) -> Run:
        """The same run with its texts in other places, not yet written down."""
        config = dataclasses.replace(self.config, data=data, validation=validation)
        return dataclasses.replace(self, config=config)

    def with_text(self, corpus: Corpus) -> Run:
        """The same run with its texts in other places, or with its first ones; not written yet."""
        about = self.corpus if self.corpus["sha256"] else about_corpus(corpus)
        run = self.with_data(corpus.name, corpus.validation_name)
        return dataclasses.replace(run, corpus=about)

    def require_same(self, saved: Run) -> None:
        """InputError, with the difference, unless a checkpoint `saved` is of this very run."""
        ours, theirs = _flat(self.config.to_dict()), _flat(saved.config.to_dict())
        differences = [
            f"{name} is {ours.get(name)!r} instead of {theirs.get(name)!r}"
            for name in sorted(ours.keys() | theirs.keys())
            if name not in CHANGEABLE and ours.get(name) != theirs.get(name)
        ]
        for name, what in (
            ("sha256", "the corpus has"),
            ("validation_sha256", "the text to validate with has"),
        ):
            first, second = (str(run.corpus.get(name))[:12] for run in (self, saved))
            if first != second and saved.corpus["sha256"]:
                differences.append(f"{what} sha256 {first}… instead of {second}…")
        if self.tokenizer.record() != saved.tokenizer.record():
            differences.append(
                f"tokenizer.json has {self.tokenizer.describe()} "
                f"instead of {saved.tokenizer.describe()}"
            )
        if differences:
            raise InputError(
                f"{self.path} is not as checkpoint {saved.path.name} was trained: "
                f"{'; '.join(differences)}; copies of its config.json and tokenizer.json are in "
                f"{saved.path}"
            )

    def optimizer(self) -> optax.GradientTransformation:
        config, rate = self.config.optimizer, self.config.learning_rate
        steps = config.schedule_steps or self.config.steps
        return _optimizer(dataclasses.replace(config, schedule_steps=None), rate, steps)

    def fresh_model(self) -> LanguageModel:
        """The run's model as it was before the first step."""
        return build_model(self.config, self.tokenizer.vocab_size)

    def fresh(self) -> TrainState:
        """The run's state as it was before the first step."""
        return TrainState.create(self.fresh_model(), self.optimizer())

    def shapes(self) -> TrainState:
        """Of every array of the state, in its place: known at once, at any size."""
        return jax.eval_shape(self.fresh)


def about_corpus(corpus: Corpus) -> dict[str, Any]:
    """What `config.json` says of a run's texts."""
    about = {
        "name": corpus.name,
        "sha256": corpus.sha256,
        "validation_name": corpus.validation_name,
        "validation_sha256": corpus.validation_sha256,
        "documents": corpus.documents,
        "characters": sum(corpus.characters),
        "tokens": len(corpus.train) + len(corpus.validation),
        "vocab_size": corpus.tokenizer.vocab_size,
    }
    splits = ("train", corpus.train), ("validation", corpus.validation)
    for (split, tokens), n_characters in zip(splits, corpus.characters, strict=True):
        about[split] = {"tokens": len(tokens), "characters": n_characters}
    return about


def _no_run(path: Path) -> str:
    """Why a folder is none of a run, and which one may have been meant."""
    why = f"{path} is no run directory: it has no config.json"
    for above in path.absolute().parents:
        if (above / "config.json").is_file():
            return f"{why}; the run is {quoted(above)}"
    with contextlib.suppress(OSError):
        inside = sorted(found.parent.name for found in path.glob("*/config.json"))
        if inside:
            more = f" and {len(inside) - 3:,} more" if len(inside) > 3 else ""
            return f"{why}; it holds the runs {', '.join(inside[:3])}{more}"
    return why


def versions_in_use() -> dict[str, str]:
    """Of the libraries that decide a run's bits."""
    return {name: version(name) for name in VERSIONED}


@functools.cache
def _optimizer(
    config: OptimizerConfig, learning_rate: float, steps: int
) -> optax.GradientTransformation:
    """One for all runs of the same settings.

    It is a static argument of the training program, like no other even of the same settings: a
    second run in this process would be traced and compiled anew.
    """
    return make_optimizer(config, learning_rate, steps)


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
