"""A training that goes wrong without meeting a value that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

from jax_attn.config import TrainConfig

# Nats. An untrained model's logits, of deviation 1 at most, cost half of one above a uniform guess.
MARGIN = 1.0


class Divergence:
    """Watches the losses of a run; `remark` is None while all is well.

    It is not when both losses, of training and of validation, are far above what a uniform guess
    over the vocabulary has, or far above the best there was. A model that knows its text by heart
    has a small training loss, and is not what is meant.
    """

    def __init__(self, config: TrainConfig, vocab_size: int, earlier: Iterable[float] = ()) -> None:
        """`earlier` are the validation losses so far."""
        self._uniform = math.log(vocab_size)
        self._best = min(earlier, default=math.inf)
        self._remedy = "try a smaller --learning-rate"
        if not 0 < config.optimizer.clip_norm <= 1:
            self._remedy += " or --optimizer.clip-norm 1"
        self.remark: str | None = None

    def look(self, training_loss: float, validation_loss: float) -> bool:
        """Whether these, in nats, are the first to be remarked on."""
        was_well = self.remark is None
        both = validation_loss
        if not math.isnan(validation_loss):
            both = min(training_loss, validation_loss)
        self.remark = None
        if not both <= self._uniform + MARGIN:
            self._say(validation_loss, f"a uniform guess has {self._uniform:.2f}")
        elif both > self._best + MARGIN:
            self._say(validation_loss, f"it was {self._best:.2f}")
        if validation_loss < self._best:
            self._best = validation_loss
        return was_well and self.remark is not None

    def _say(self, loss: float, other: str) -> None:
        self.remark = f"the training has diverged: validation loss {loss:.2f}, where {other}; "
        self.remark += self._remedy
