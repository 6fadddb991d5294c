"""The folder of a run: its configuration, tokenizer and metrics, and its state through Orbax.

Orbax is imported when a checkpoint is touched, not before: that takes a second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_attn.config import TrainConfig
from jax_attn.data import CharTokenizer, Corpus
from jax_attn.errors import InputError
from jax_attn.models import LanguageModel, build_model
from jax_attn.optim import make_optimizer
from jax_attn.training import TrainState

KEEP = 3  # newest checkpoints kept
VERSIONED = ("jax", "flax", "optax", "numpy")


@dataclass(frozen=True)
class Run:
    """A run directory and what its `config.json` and `tokenizer.json` say."""

    path: Path
    config: TrainConfig
    tokenizer: CharTokenizer
    corpus_sha256: str

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def create(cls, path: Path, config: TrainConfig, corpus: Corpus) -> Run:
        """Makes the directory. InputError if it exists already or cannot be made."""
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise InputError(
                f"{path} exists already; choose another --out, or go on with --resume {path}"
            ) from error
        except OSError as error:
            raise InputError(f"{path} cannot be made ({error.strerror})") from error
        record = {
            "config": config.to_dict(),
            "corpus": {
                "name": corpus.name,
                "sha256": corpus.sha256,
                "characters": len(corpus.tokens),
                "vocab_size": corpus.tokenizer.vocab_size,
            },
            "versions": {name: version(name) for name in VERSIONED},
        }
        corpus.tokenizer.save(path / "tokenizer.json")
        (path / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return cls(path, config, corpus.tokenizer, corpus.sha256)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Reads a run. InputError when the directory is none."""
        path = Path(path)
        try:
            record = json.loads((path / "config.json").read_text(encoding="utf-8"))
            config = TrainConfig.from_dict(record["config"])
            sha256 = record["corpus"]["sha256"]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{path} is no run directory: it has no config.json") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: config.json is damaged ({error})") from error
        return cls(path, config, CharTokenizer.load(path / "tokenizer.json"), sha256)

    def require_same_corpus(self, corpus: Corpus) -> None:
        """InputError unless `corpus` is the text that the run was trained on."""
        if corpus.sha256 != self.corpus_sha256:
            raise InputError(
                f"{self.path} was trained on a text of sha256 {self.corpus_sha256[:12]}…, but "
                f"{corpus.name} now has {corpus.sha256[:12]}…; bring the first one back"
            )

    def cut_metrics(self, step: int) -> None:
        """Drops the metrics of steps past `step`: they will be made again."""
        lines = self.metrics_path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.metrics_path.write_text("".join(kept), encoding="utf-8")

    def fresh(self) -> tuple[LanguageModel, Any, TrainState]:
        """The run's model, optimizer and state as they were before the first step."""
        model = build_model(self.config, self.tokenizer.vocab_size)
        optimizer = make_optimizer(
            self.config.optimizer, self.config.learning_rate, self.config.steps
        )
        return model, optimizer, TrainState.create(model, optimizer)


class Checkpoints:
    """The checkpoints of a run: written in the background, complete or absent, newest kept."""

    def __init__(self, run: Run) -> None:
        import orbax.checkpoint as ocp

        self._orbax = ocp
        self._run = run
        self._manager = ocp.CheckpointManager(
            run.checkpoints_path.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=KEEP),
        )

    def save(self, state: TrainState) -> None:
        """Begins to write `state` under its step number; the arrays may be donated at once."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=self._orbax.args.StandardSave(_named_arrays(state)))

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, in the structure of `like`. InputError if none can be read."""
        step = self._manager.latest_step()
        if step is None:
            raise InputError(f"{self._run.path} holds no complete checkpoint to go on from")
        template = jax.tree.map(_abstract, _named_arrays(like))
        try:
            arrays = self._manager.restore(step, args=self._orbax.args.StandardRestore(template))
            return _from_named_arrays(like, arrays)
        except Exception as error:  # Orbax and TensorStore raise of every kind for damaged files
            reason = (
                str(error).strip().splitlines()[0][:200] if str(error).strip() else "unreadable"
            )
            raise InputError(
                f"{self._run.path}: checkpoint {step} is damaged ({reason}); remove "
                f"{self._run.checkpoints_path / str(step)} to use the one before it"
            ) from error


def load_model(run_dir: str | os.PathLike[str]) -> LanguageModel:
    """The model of a run's newest complete checkpoint, ready to call.

    Raises InputError when `run_dir` is no run, or holds no readable checkpoint.
    """
    run = Run.open(run_dir)
    _, _, state = run.fresh()
    return require_checkpoints(run).restore(state).model()


def require_checkpoints(run: Run) -> Checkpoints:
    """The checkpoints of an existing run; InputError, and nothing created, where there are none."""
    if not run.checkpoints_path.is_dir():
        raise InputError(f"{run.path} holds no complete checkpoint to go on from")
    return Checkpoints(run)


def _named_arrays(state: TrainState) -> dict[str, Any]:
    """Every array of the state by its path; random keys as their integers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): _plain(x) for path, x in leaves}


def _from_named_arrays(like: TrainState, arrays: Mapping[str, Any]) -> TrainState:
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    values = [
        jax.random.wrap_key_data(arrays[name], impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else arrays[name]
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=x.sharding)
