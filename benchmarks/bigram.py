"""The bigram model's training loop: the compiled chunk against torch, best and as taught."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

B, T, V = 32, 8, 65
STEPS = 1000  # in one run
LEARNING_RATE = 1e-2


def table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((V, V)).astype(np.float32)


def corpus() -> np.ndarray:
    """A million characters in which the next one depends on the last: something to learn."""
    draw = np.random.default_rng(1)
    steps = draw.choice([1, 2, 5], 1_000_000)
    return np.cumsum(steps) % V


class JaxBigram:
    """Batches are drawn on the device, inside the compiled program."""

    units = STEPS

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        import jax_attn as ja

        model = ja.BigramLanguageModel(V, rngs=nnx.Rngs(0))
        ja.load_state_dict(model, {"token_embedding_table.weight": table()})
        optimizer = ja.make_optimizer(ja.OptimizerConfig(), LEARNING_RATE, steps=100_000)
        self._state: Any = ja.TrainState.create(model, optimizer)
        batches = ja.RandomBatches(jnp.asarray(corpus(), jnp.uint8), jax.random.key(0), B, T)
        self._chunk = lambda state: ja.train_chunk(state, batches, optimizer, STEPS)
        self._wait = jax.block_until_ready

    def result(self) -> np.ndarray:
        """The loss that the loop arrives at; the batches of the two frameworks are not the same."""
        losses = []
        for _ in range(3000 // STEPS):
            self._state, chunk = self._chunk(self._state)
            losses.append(np.asarray(chunk))
        return np.asarray(np.concatenate(losses)[-1000:].mean())

    def run(self) -> None:
        self._state, losses = self._chunk(self._state)
        self._wait(losses)


class TorchBigram:
    """ "lecture" is the code as taught; "best" gathers batches at once and fuses the optimizer."""

    units = STEPS

    def __init__(self, kind: Literal["lecture", "best", "compiled"]) -> None:
        import torch

        from torch_ref import BigramLanguageModel
        from torch_ref.training import get_batch, train_step

        torch.manual_seed(0)
        model = BigramLanguageModel(V)
        with torch.no_grad():
            model.token_embedding_table.weight.copy_(torch.from_numpy(table()))
        data = torch.from_numpy(corpus())
        if kind == "lecture":
            optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
            self._step = lambda: train_step(model, optimizer, *get_batch(data, T, B))
            return

        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        windows = data.unfold(0, T + 1, 1)
        embedding = model.token_embedding_table.weight
        cross_entropy = torch.nn.functional.cross_entropy

        def loss_of(window: Any) -> Any:
            return cross_entropy(embedding[window[:, :-1].flatten()], window[:, 1:].flatten())

        if kind == "compiled":
            loss_of = torch.compile(loss_of)

        def step() -> Any:
            loss = loss_of(windows[torch.randint(len(windows), (B,))])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss.detach()

        self._step = step

    def result(self) -> np.ndarray:
        losses = [self._step().item() for _ in range(3000)]
        return np.asarray(np.mean(losses[-1000:]))

    def run(self) -> None:
        for _ in range(STEPS):
            self._step()
