"""The checkpoints of a run, through Orbax: in the background, whole or absent, checked when read.

A checkpoint is a folder named by its step. It is made as `STEP.writing`, gets its checksum list
when all else in it is on the disk, and then its name: so what bears a number was once complete.

Orbax is imported when a checkpoint is touched, not before: that takes a second.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import logging
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jax_attn.errors import InputError
from jax_attn.json_files import read_json, sync, sync_folder, write_json
from jax_attn.models.language_model import LanguageModel
from jax_attn.runs import checksums
from jax_attn.runs.run import Run, versions_in_use
from jax_attn.training.step import TrainState

KEEP = 3  # newest checkpoints kept, beside the best
SPARE = 1 << 20  # bytes that a checkpoint takes beside its arrays, at most
STEP = re.compile(r"0|[1-9][0-9]{0,9}")  # the name of a complete checkpoint
REMNANT = re.compile(r"[0-9]+\.(writing|removing)")  # of a run that was killed


def _on_standard_error(line: str) -> None:
    print(line, file=sys.stderr)


class Checkpoints:
    """Saves and restores the state of a run; `say` gets a line for whatever is passed over."""

    def __init__(self, run: Run, say: Callable[[str], None] = _on_standard_error) -> None:
        self._run = run
        self._say = say
        self._background = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._faulty: set[int] = set()
        self._newest: Path | None = None
        self._links = contextlib.ExitStack()  # ended with the checkpoints

    @functools.cached_property
    def _orbax(self) -> Any:
        import orbax.checkpoint as ocp

        # Orbax logs a failure with several tracebacks, and raises it too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        return ocp.StandardCheckpointer()

    def _arrays_of(self, checkpoint: Path) -> Path:
        """Where Orbax has the arrays: it finds its files by patterns, in which * ? [ are none.

        TensorStore, too, takes a backslash for what parts folders.
        """
        path = checkpoint.absolute()
        name = str(path)
        if (
            name.isprintable()
            and glob.escape(name) == name
            and (os.sep == "\\" or "\\" not in name)
        ):
            return path / "arrays"
        link = Path(self._links.enter_context(tempfile.TemporaryDirectory())) / "checkpoint"
        link.symlink_to(path, target_is_directory=True)
        return link / "arrays"

    def prepare(self) -> None:
        """Imports Orbax, before the first save has to."""
        _ = self._orbax

    def save(self, state: TrainState, validation_loss: float | None = None) -> None:
        """Begins to write `state` under its step number; the arrays may be donated at once.

        The newest `KEEP` checkpoints are kept, and the one of the least validation loss.
        Raises InputError when this or the save before it fails, for want of space for example.
        """
        self.finish_writing()
        self._newest = None
        step = int(state.step)
        whole = step in self._steps() and step not in self._faulty
        # One whose evaluation was stopped lacks the loss by which it may be the best.
        lacks_loss = validation_loss is not None and math.isnan(self._loss(step))
        if whole and not lacks_loss:
            return
        partial = self._run.checkpoints_path / f"{step}.writing"
        with self._run.writing():
            for remnant in self._run.checkpoints_path.glob("*"):
                if REMNANT.fullmatch(remnant.name):
                    shutil.rmtree(remnant)
            partial.mkdir(parents=True)
            arrays = _named_arrays(state)
            # Known beforehand, because TensorStore's threads stop noisily when a write fails.
            if shutil.disk_usage(partial).free < sum(a.nbytes for a in arrays.values()) + SPARE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._orbax.save(self._arrays_of(partial), arrays)
        self._writing = self._background.submit(self._complete, partial, step, validation_loss)

    def close(self) -> None:
        """Waits until everything is written. Raises InputError when it cannot be."""
        try:
            self.finish_writing()
        finally:
            self._background.shutdown()
            self._orbax.close()
            self._links.close()

    def newest(self) -> Path | None:
        """The newest complete checkpoint; None when there is none yet.

        Damaged ones are passed over. InputError when all are damaged, or when it was trained
        otherwise than the run's files now say: known before a model is built, because a wrong
        size can be a very large one.
        """
        if self._newest is None:
            self._newest = self._choose()
        return self._newest

    def best(self) -> Path:
        """The complete checkpoint of the least validation loss; damaged ones are passed over.

        InputError when none of those that there are has been evaluated.
        """
        losses = {step: self._loss(step) for step in self._steps()}
        for step in sorted(losses, key=lambda step: (losses[step], step)):
            if not math.isfinite(losses[step]):
                continue
            folder = self._run.checkpoints_path / str(step)
            if self._is_whole(folder):
                return folder
        raise InputError(
            f"{self._run.path} has no checkpoint with a validation loss: one is taken every "
            "--eval-every steps, and saved every --checkpoint-every"
        )

    def restore(self, like: TrainState) -> TrainState | None:
        """The state in `newest`, with the structure and shapes of `like`; None, errors as there."""
        folder = self.newest()
        return None if folder is None else self.restore_from(folder, like)

    def restore_from(self, folder: Path, like: TrainState) -> TrainState:
        """The state in one checkpoint. InputError when it cannot be read."""
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        template = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
            for name, x in jax.eval_shape(_named_arrays, like).items()
        }
        try:
            arrays = self._orbax.restore(self._arrays_of(folder), template)
            return _from_named_arrays(like, arrays)
        except Exception as error:  # Orbax and TensorStore raise of every kind
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise InputError(f"{folder} cannot be read ({reason})") from error

    def _choose(self) -> Path | None:
        steps = sorted(self._steps(), reverse=True)
        for step in steps:
            folder = self._run.checkpoints_path / str(step)
            if self._is_whole(folder):
                return folder
        if steps:
            raise InputError(
                f"{self._run.path}: no checkpoint is whole; to begin at step 0 again, remove "
                f"{self._run.checkpoints_path}"
            )
        return None

    def _is_whole(self, folder: Path) -> bool:
        """False, and a line, where it is damaged. InputError where it is not of this run."""
        fault = checksums.fault(folder)
        if fault is not None:
            self._faulty.add(int(folder.name))
            self._say(f"checkpoint {folder.name} is damaged and passed over: {fault}")
            return False
        self._require_fit(folder)
        return True

    def _steps(self) -> set[int]:
        """The steps of the checkpoints that were complete once."""
        folder = self._run.checkpoints_path
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return {int(name) for name in names if STEP.fullmatch(name)}

    def _require_fit(self, folder: Path) -> None:
        """InputError unless it is of this run; a line when other versions wrote it."""
        saved = Run.open(folder)
        self._run.require_same(saved)
        in_use = versions_in_use()
        changed = [
            f"{name} {then}, now {in_use.get(name, 'absent')}"
            for name, then in saved.versions.items()
            if in_use.get(name) != then
        ]
        if changed:
            self._say(
                f"checkpoint {folder.name} was written with {'; '.join(changed)}: "
                "what follows may differ in the last bits"
            )

    def _complete(self, partial: Path, step: int, validation_loss: float | None) -> None:
        """In the background: the rest of a checkpoint, its checksums, its name; old ones go."""
        self._orbax.wait_until_finished()
        replace(self._run, versions=versions_in_use()).write(partial)
        write_json(partial / "progress.json", {"step": step, "validation_loss": validation_loss})
        if self._run.metrics.path.exists():
            sync(self._run.metrics.path)  # never behind a checkpoint
        checksums.seal(partial)
        final = partial.with_name(str(step))
        removing = final.with_name(f"{step}.removing")
        if final.exists():  # damaged, or without its loss
            final.rename(removing)
        partial.rename(final)
        sync_folder(final.parent)
        shutil.rmtree(removing, ignore_errors=True)
        self._faulty.discard(step)
        steps = self._steps()
        losses = {s: self._loss(s) for s in steps - self._faulty}
        known = [s for s in losses if math.isfinite(losses[s])]
        kept = {*sorted(losses)[-KEEP:], *sorted(known, key=losses.__getitem__)[:1]}
        for old in steps - kept:
            self._remove(final.with_name(str(old)))

    def _loss(self, step: int) -> float:
        """Validation loss of a checkpoint; NaN when unknown."""
        try:
            progress = read_json(self._run.checkpoints_path / str(step) / "progress.json")
            return float(progress["validation_loss"])
        except (OSError, ValueError, KeyError, TypeError):
            return math.nan

    @staticmethod
    def _remove(folder: Path) -> None:
        """Under another name first: what bears a number is never half removed."""
        removing = folder.with_name(f"{folder.name}.removing")
        folder.rename(removing)
        shutil.rmtree(removing)

    def finish_writing(self) -> None:
        """Waits for the save under way. Raises InputError when it has failed."""
        writing, self._writing = self._writing, None
        with self._run.writing():
            try:
                if writing is not None:
                    writing.result()
            except ValueError as error:  # TensorStore's, whatever the fault
                code = re.search(r"os_error_code='(\d+)'", str(error))
                reason = os.strerror(int(code[1])) if code else str(error).splitlines()[0][:200]
                raise OSError(0, reason) from error


def has_checkpoint(run: Run) -> bool:
    """Whether there is one that was complete once."""
    return any(STEP.fullmatch(path.name) for path in run.checkpoints_path.glob("*"))


def model_of_run(run: Run, *, best: bool = False) -> LanguageModel:
    """Of the newest complete checkpoint, of the `best`, or of the very one that `run` is.

    InputError when there is no whole one.
    """
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        if best:
            folder = checkpoints.best()
        else:
            folder = run.path if run.is_checkpoint else checkpoints.newest()
        if folder is None:
            raise InputError(f"{run.path} holds no complete checkpoint yet")
        damage = checksums.fault(folder) if run.is_checkpoint else None
        if damage is not None:
            raise InputError(f"checkpoint {folder} is damaged: {damage}")
        return checkpoints.restore_from(folder, run.shapes()).model()


def _named_arrays(state: TrainState) -> dict[str, Any]:
    """Every array of the state by its path; random keys as their integers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): _plain(x) for path, x in leaves}


def _from_named_arrays(like: TrainState, arrays: Mapping[str, Any]) -> TrainState:
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    values = [
        jax.random.wrap_key_data(arrays[name], impl=_generator(leaf))
        if _is_key(leaf)
        else arrays[name]
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def _generator(key: Any) -> Any:
    """The random generator that `key`, which may be its shape only, is of."""
    found = []
    jax.eval_shape(lambda k: found.append(jax.random.key_impl(k)), key)
    return found[0]


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x
