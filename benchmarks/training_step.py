"""A GPT's training step: the compiled chunk against the best torch and the lecture's code."""

from __future__ import annotations

from typing import Literal

import numpy as np

from benchmarks.weights import Case, lecture_state_dict, random_batches

STEPS = 10  # in one run
LEARNING_RATE = 3e-4


class JaxTraining:
    """`train_chunk` on given batches."""

    units = STEPS

    def __init__(self, case: Case, dtype: str = "float32") -> None:
        import jax.numpy as jnp
        from flax import nnx

        import jax_attn as ja

        config = ja.GPTConfig.lecture(
            vocab_size=case.vocab_size,
            block_size=case.block_size,
            n_layer=case.n_layer,
            n_head=case.n_head,
            n_embd=case.n_embd,
            dropout_rate=0.0,
        )
        model = ja.GPT(config, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype))
        ja.load_state_dict(model, lecture_state_dict(case))
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

        from benchmarks.best_torch import FastGPT
        from torch_ref import GPTLanguageModel

        state = lecture_state_dict(case)
        if kind == "lecture":
            model = GPTLanguageModel(
                case.vocab_size,
                case.block_size,
                case.n_layer,
                case.n_head,
                case.n_embd,
                dropout=0.0,
            )
            tensors = {name: torch.from_numpy(x) for name, x in state.items()}
            buffers = {n: b for n, b in model.state_dict().items() if n not in tensors}
            model.load_state_dict(tensors | buffers)
            self._loss = lambda x, y: model(x, y)[1]
            self._optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        else:
            model = FastGPT(case).load_lecture(state)
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
