"""A GPT's training step: the compiled chunk against the best torch and the lecture's code."""

from __future__ import annotations

from typing import Literal

import numpy as np

from benchmarks.models import fast_gpt, jax_gpt, lecture_gpt
from benchmarks.weights import Case, random_batches

STEPS = 10  # in one run
LEARNING_RATE = 3e-4


class JaxTraining:
    """`train_chunk` on given batches."""

    units = STEPS

    def __init__(self, case: Case, dtype: str = "float32") -> None:
        import jax.numpy as jnp

        import jax_attn as ja

        model = jax_gpt(case, dtype)
        optimizer = ja.make_optimizer(ja.OptimizerConfig(), LEARNING_RATE, steps=1_000)
        self._state = ja.TrainState.create(model, optimizer)
        inputs, targets = map(jnp.asarray, random_batches(case, STEPS))
        self._inputs, self._targets = inputs, targets
        self._step = 0
        self._chunk = lambda: ja.train_chunk(
            self._state,
            ja.GivenBatches(inputs, targets, np.int32(self._step)),
            optimizer,
            STEPS,
        )

    def result(self) -> np.ndarray:
        self._state, losses = self._chunk()
        self._step += STEPS
        return np.asarray(losses)

    def run(self) -> None:
        self.result()


class TorchTraining:
    """The best torch, run as it is or compiled."""

    units = STEPS

    def __init__(self, case: Case, kind: Literal["eager", "compiled", "lecture"]) -> None:
        import torch

        if kind == "lecture":
            model = lecture_gpt(case)
            self._loss = lambda x, y: model(x, y)[1]
            self._optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        else:
            model = fast_gpt(case)
            self._loss = torch.compile(model) if kind == "compiled" else model
            self._optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        inputs, targets = random_batches(case, STEPS)
        self._batches = list(zip(torch.from_numpy(inputs), torch.from_numpy(targets), strict=True))

    def _step(self, x, y):
        loss = self._loss(x, y)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def result(self) -> np.ndarray:
        return np.array([self._step(x, y).item() for x, y in self._batches])

    def run(self) -> None:
        for x, y in self._batches:
            self._step(x, y)
