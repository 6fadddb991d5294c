"""Seconds of training until the whole validation split is at 1.88: `mini` against nanoGPT's recipe.

Both train in turns of 50 steps. Evaluation, compilation and start are not counted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.interleave import Side
from benchmarks.rows import OURS, Row, Rows
from jax_attn.data import load_corpus

LOSS = 1.88
TURN = 50  # steps
MOST_TURNS = 60


class JaxMini:
    units = 1

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        import jax_attn as ja
        from jax_attn.runs.build_model import build_model

        config = ja.PRESETS["mini"][1]
        corpus = ja.load_corpus("tinyshakespeare", warn=print)
        model = build_model(config, corpus.tokenizer.vocab_size)
        optimizer = ja.make_optimizer(config.optimizer, config.learning_rate, config.steps)
        self._state: Any = ja.TrainState.create(model, optimizer)
        batches = ja.RandomBatches(
            jnp.asarray(corpus.train),
            jax.random.key(config.seed),
            config.batch_size,
            config.block_size,
        )
        validation = jnp.asarray(corpus.validation)
        self._chunk = lambda state: ja.train_chunk(state, batches, optimizer, TURN)
        self._evaluate = lambda: ja.evaluate(
            self._state.model(), validation, block_size=config.block_size
        )

    def run(self) -> None:
        self._state, losses = self._chunk(self._state)
        losses.block_until_ready()

    def result(self) -> np.ndarray:
        return np.asarray(self._evaluate())


class TorchNanoGPT:
    units = 1

    def __init__(self, train: np.ndarray, validation: np.ndarray) -> None:
        import torch

        from benchmarks import nanogpt

        torch.manual_seed(1337)
        self._model = nanogpt.NanoGPT()
        self._optimizer = nanogpt.make_optimizer(self._model)
        self._rate = nanogpt.learning_rate
        self._windows = torch.from_numpy(train).unfold(0, nanogpt.T + 1, 1)
        n = (len(validation) - 1) // nanogpt.T * nanogpt.T
        self._inputs = torch.from_numpy(validation[:n]).view(-1, nanogpt.T)
        self._targets = torch.from_numpy(validation[1 : n + 1]).view(-1, nanogpt.T)
        self._batch, self._torch, self._step = nanogpt.B, torch, 0

    def run(self) -> None:
        for _ in range(TURN):
            window = self._windows[self._torch.randint(len(self._windows), (self._batch,))]
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(self._step)
            loss = self._model(window[:, :-1], window[:, 1:])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._step += 1

    def result(self) -> np.ndarray:
        with self._torch.no_grad():
            return np.asarray(self._model(self._inputs, self._targets).item())


def time_to_loss_rows() -> Rows:
    corpus = load_corpus("tinyshakespeare", warn=print)
    splits = [np.asarray(split, np.int64) for split in (corpus.train, corpus.validation)]
    other = "nanoGPT's recipe, torch"
    sides = [Side(OURS, JaxMini), Side(other, partial(TorchNanoGPT, *splits))]
    spent: dict[str, float] = {OURS: 0.0, other: 0.0}
    reached: dict[str, float] = {}
    try:
        for _ in range(MOST_TURNS):
            for side in [s for s in sides if s.name not in reached]:
                spent[side.name] += side.ask("run", 1)
                if float(side.ask("result")) <= LOSS:
                    reached[side.name] = spent[side.name]
            if len(reached) == len(sides):
                break
    finally:
        for side in sides:
            side.close()
    if OURS not in reached:
        raise RuntimeError(f"our own run did not reach {LOSS} in {MOST_TURNS * TURN} steps")
    note = "" if other in reached else f"torch had not reached {LOSS} when it was stopped"
    theirs = reached.get(other, spent[other])
    ratio = theirs / reached[OURS]
    name = f"training until validation loss {LOSS}"
    yield Row(
        name, other, reached[OURS], theirs, "s", ratio, ratio, ratio, must=2, goal=3, note=note
    )
