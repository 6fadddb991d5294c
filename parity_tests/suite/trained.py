"""A small GPT trained for a moment, and the attention weights that both frameworks give it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

import jax_attn
from parity_tests.harness.compare import bit_identical_after_rounding, compare
from parity_tests.suite import pairs

STEPS = 300
TEXT = "the value of the expression "
SHAPE = {"n_layer": 2, "n_head": 3, "n_embd": 48, "block_size": 32}


@dataclass(frozen=True)
class TrainedAttention:
    """Weights [L H T T] in float64, for a text of T characters."""

    text: str
    loss_before: float  # nats per character
    loss_after: float
    reference: NDArray[np.float64]
    port: NDArray[np.float64]

    @property
    def largest_difference(self) -> float:
        return float(np.abs(self.port - self.reference).max())

    @property
    def same(self) -> bool:
        """Whether the weights pass as the same function's."""
        return compare(self.reference, self.port).ok

    @property
    def bits(self) -> str:
        """The literal claim, in words."""
        return str(bit_identical_after_rounding(self.reference, self.port))


def trained_attention() -> TrainedAttention:
    """Trains the port in float32 on the standard library's help texts, then compares in float64."""
    corpus = jax_attn.load_corpus("python-docs", warn=lambda _: None)
    pair = pairs.gpt("lecture", vocab_size=corpus.tokenizer.vocab_size, **SHAPE)
    rng = np.random.default_rng(0)
    template = pair.make_reference()
    weights = {
        name: _initial(name, tuple(parameter.shape), rng)
        for name, parameter in template.named_parameters()
    }
    optimizer = jax_attn.make_optimizer(jax_attn.OptimizerConfig(), 5e-3, STEPS)
    model = pair.port({name: jnp.asarray(w, jnp.float32) for name, w in weights.items()})
    batches = jax_attn.RandomBatches(
        jnp.asarray(corpus.train), jax.random.key(0), 16, SHAPE["block_size"]
    )
    state, losses = jax_attn.train_chunk(
        jax_attn.TrainState.create(model, optimizer), batches, optimizer, STEPS
    )
    trained = jax_attn.to_state_dict(state.model())
    trained = {name: trained[name].astype(np.float64) for name in weights}

    shown = np.asarray(corpus.tokenizer.encode(TEXT), np.int64)
    reference = pair.reference({name: torch.from_numpy(w) for name, w in trained.items()})
    with torch.no_grad():
        expected = reference.attention_weights(torch.from_numpy(shown)[None])[:, 0].numpy()
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        port = pair.port({name: jnp.asarray(w) for name, w in trained.items()})
        got = np.asarray(port.attention_weights(jnp.asarray(shown)[None])[:, 0])
    losses = np.asarray(losses)
    return TrainedAttention(
        text=TEXT,
        loss_before=float(losses[0]),
        loss_after=float(losses[-20:].mean()),
        reference=expected,
        port=got,
    )


def _initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """As models begin: small matrices, biases 0, scales 1."""
    if len(shape) == 2:
        return rng.normal(size=shape) * SHAPE["n_embd"] ** -0.5
    return np.zeros(shape) if name.endswith("bias") else np.ones(shape)
