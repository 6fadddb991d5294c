"""Which layer of the GPT is to blame, once some rung has failed."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.harness.locate import locate
from parity_tests.suite import pairs
from parity_tests.suite.pairs import STYLES, B, T

NAMES = {
    "{which}_embedding_table": "{which}_embedding_table",
    "blocks.{i}": "blocks.{i}",
    "blocks.{i}.{part}": "blocks.{i}.{part}",
    "blocks.{i}.sa.proj": "blocks.{i}.sa.proj",
    "blocks.{i}.ffwd.net.0": "blocks.{i}.ffwd.expand",
    "blocks.{i}.ffwd.net.2": "blocks.{i}.ffwd.contract",
    "ln_f": "ln_f",
    "lm_head": "lm_head",
}


def first_guilty_layer() -> str:
    """The locator's finding on the first style of GPT in which a layer differs."""
    for style in STYLES:
        rng = np.random.default_rng(0)
        pair = pairs.gpt(style)
        weights = pair.weights(rng)
        reference = pair.reference({k: torch.from_numpy(w) for k, w in weights.items()})
        try:
            with jax.enable_x64(True):
                port = pair.port({k: jnp.asarray(w) for k, w in weights.items()})
            found = locate(reference, port, pairs.tokens(rng, B, T), NAMES)
        except Exception as error:
            return f"the {style} GPT does not run: {type(error).__name__}: {error}"
        if not found.ok:
            return f"in the {style} GPT, {found}"
    return "no layer of the GPT differs: the fault lies outside the model"
