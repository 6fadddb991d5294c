"""A whole run of the lecture's scripts, every draw from one replayed torch stream.

The order of the draws is the scripts': weights; then, step by step, the losses' estimate where one
is due, the batch, the dropout masks; at the end the sample.
"""

from typing import TypeVar

import numpy as np
from jaxtyping import Integer

from jax_attn.config import TrainConfig
from jax_attn.data import Corpus
from jax_attn.generate.known_ids import known_ids
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel
from jax_attn.torch_replay.dropout_tape import DropoutTape
from jax_attn.torch_replay.random import Generator
from jax_attn.torch_replay.replay import generate, initialise, lecture_batches
from jax_attn.training.batches import GivenBatches
from jax_attn.training.evaluation import estimate_loss
from jax_attn.training.step import TrainState

ModelT = TypeVar("ModelT", bound=LanguageModel)

ESTIMATE_BATCHES = 200  # the lecture's eval_iters


class TorchScript:
    """The draws of one run; call its methods in the order in which a script would draw."""

    def __init__(self, config: TrainConfig, corpus: Corpus) -> None:
        self._config = config
        self._corpus = corpus
        self._generator = Generator(config.seed)
        self._tape: DropoutTape | None = None
        self._estimates_last_step = False

    def initialise(self, model: ModelT) -> ModelT:
        """Fills `model` with the script's initial weights; dropout masks will come from a tape."""
        initialise(model, self._generator)
        if isinstance(model, GPT):
            self._estimates_last_step = True  # gpt.py estimates before its last step, bigram.py not
            if model.config.dropout_rate > 0:
                self._tape = DropoutTape(model)
        return model

    def estimate_is_due(self, step: int) -> bool:
        """Whether the script estimates its losses before training on `step`."""
        last = self._estimates_last_step and step == self._config.steps - 1
        return last or step % self._config.eval_every == 0

    def estimate(self, model: LanguageModel) -> tuple[float, float]:
        """The lecture's `estimate_loss`: mean loss in nats over 200 batches of each split."""
        training, validation = (
            estimate_loss(model, batches, ESTIMATE_BATCHES) for batches in self._estimate_batches()
        )
        return training, validation

    def next_steps(
        self, state: TrainState, step: int, n_steps: int
    ) -> tuple[TrainState, GivenBatches]:
        """`state` with the dropout masks of the next steps, from `step` on, and their batches."""
        batches = lecture_batches(
            self._generator,
            self._corpus.train,
            self._config.block_size,
            self._config.batch_size,
            n_steps,
            first_step=step,
            tape=self._tape,
        )
        return (state if self._tape is None else self._tape.load(state)), batches

    def without_masks(self, state: TrainState) -> TrainState:
        """`state` as it is saved: the masks are drawn again when a run goes on."""
        return state if self._tape is None else self._tape.unload(state)

    def skip(self, state: TrainState) -> None:
        """Draws what a run that has come to `state.step` has drawn since its initialisation."""
        for step in range(int(state.step)):
            if self.estimate_is_due(step):
                self._estimate_batches()
            self.next_steps(state, step, 1)

    def sample(self, model: LanguageModel, length: int) -> Integer[np.ndarray, " N"]:
        """The id that a text begins with, symbol 0 of characters, and `length` more, as torch's
        multinomial chooses them; dropout off."""
        tokenizer = self._corpus.tokenizer
        begin = np.full((1, 1), tokenizer.start, np.int32)
        return generate(model, begin, length, self._generator, known_ids(tokenizer, model))[0]

    def _estimate_batches(self) -> list[GivenBatches]:
        return [
            lecture_batches(
                self._generator,
                split,
                self._config.block_size,
                self._config.batch_size,
                ESTIMATE_BATCHES,
            )
            for split in (self._corpus.train, self._corpus.validation)
        ]
