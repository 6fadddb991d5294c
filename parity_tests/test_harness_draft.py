"""Drafted rules: code that runs, a bridge that fits where nothing is in doubt, and the doubts."""

from functools import partial
from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity_tests.gated_convnet import BRIDGE, Net, reference
from parity_tests.harness.bridge import BridgeError
from parity_tests.harness.draft import Draft, draft_rules


def ran(draft: Draft, ref: nn.Module) -> Any:
    """The bridge that the printed code makes."""
    names: dict[str, Any] = {"ref": ref}
    exec(compile(str(draft), "draft", "exec"), names)
    return names["bridge"]


def test_a_pair_of_models_whose_names_agree() -> None:
    ref = reference().float()
    draft = draft_rules(ref, Net(jnp.float32))
    assert (draft.doubts, draft.unpaired, draft.unpaired_of_port) == ({}, (), ())
    assert '"blocks.{i}.gate.conv.weight", "blocks.{i}.gate.conv.kernel", CONV1D)' in str(draft)
    by_hand = nnx.state(BRIDGE.to_port(ref, Net(jnp.float32)))
    for bridge in (draft.bridge, ran(draft, ref)):
        drafted = nnx.state(bridge.to_port(ref, Net(jnp.float32)))
        jax.tree.map(np.testing.assert_array_equal, drafted, by_hand)


class Classifier(nn.Module):
    """Every kind of layer whose rules are ready; the head is tied to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.bn = nn.BatchNorm1d(6)
        self.rnn = nn.LSTM(6, 4)
        self.square = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight


class Port(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(11, 6, rngs=rngs)
        self.self_attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(6, 4, rngs=rngs))
        self.proj = nnx.Linear(6, 6, rngs=rngs)


def test_layers_of_several_tensors_ties_and_what_is_square() -> None:
    ref = Classifier()
    draft = draft_rules(ref, Port())
    text = str(draft)
    assert '*rules_for(ref.attention, "nnx", "attention", "self_attention"),' in text
    assert '"rnn", "rnn.cell", cell="OptimizedLSTMCell"),' in text
    assert 'Rule("head.weight", "embed.embedding", alias=True),' in text
    assert 'ignore=["**.num_batches_tracked"]' in text
    assert draft.doubts == {"square.weight": "square: transposed or not? probe it"}
    assert "LINEAR),  # square: transposed or not? probe it" in text
    one, other = Port(), Port()
    draft.bridge.to_port(ref, one)
    ran(draft, ref).to_port(ref, other)
    jax.tree.map(
        np.testing.assert_array_equal, nnx.state(one, nnx.Param), nnx.state(other, nnx.Param)
    )


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (5, 5, 5, 3):
            x = linen.Dense(width)(x)
        return x


def test_layers_that_neither_name_nor_shape_tells_apart() -> None:
    """Linen numbers its layers, torch all of a Sequential: the order decides, and is said to."""
    ref = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 3)
    )
    module = Dense()
    port = module.bind(module.init(jax.random.key(0), jnp.ones((1, 4))))
    draft = draft_rules(ref, port)
    where = {rule.references[0]: rule.ports[0] for rule in draft.rules}
    assert [where[f"{i}.weight"] for i in (0, 2, 4, 5)] == [f"Dense_{i}.kernel" for i in range(4)]
    assert "paired by order: could be Dense_2 as well" in draft.doubts["2.weight"]
    assert "paired by order: could be Dense_1 as well" in draft.doubts["4.bias"]
    assert "0.weight" not in draft.doubts


def test_ports_of_the_other_kinds() -> None:
    ref = nn.Sequential(nn.Conv2d(3, 5, 2), nn.Linear(5, 7))
    layers = [
        eqx.nn.Conv2d(3, 5, 2, key=jax.random.key(0)),
        eqx.nn.Linear(5, 7, key=jax.random.key(1)),
    ]
    port = eqx.nn.Sequential(layers)
    draft = draft_rules(ref, port)
    assert 'Rule("0.bias", "layers.0.bias", trailing_ones(2))' in str(draft)
    filled = draft.bridge.to_port(ref, port)
    np.testing.assert_array_equal(filled[1].weight, ref.state_dict()["1.weight"])
    weights = {"dense": {"w": jnp.zeros((4, 2, 3)), "b": jnp.zeros((2, 3))}, "table": jnp.zeros(9)}
    draft = draft_rules(nn.Linear(4, 6), partial(lambda w: w, weights))
    assert 'Rule("weight", "dense.w", heads(2, 3)),' in str(draft)
    assert "# unpaired, of the port: table (9,)" in str(draft)
    assert draft.unpaired_of_port == ("table",)
    with pytest.raises(BridgeError, match="table of the port is not filled"):
        draft.bridge.to_port(nn.Linear(4, 6), partial(lambda w: w, weights))


class Conv1D(nn.Module):
    """[in, out], as GPT-2 of transformers has it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.randn(n_out))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList(
            nn.ModuleDict({"c_attn": Conv1D(4, 12), "c_proj": Conv1D(4, 4)}) for _ in range(3)
        )


class Attention(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dense(12)(x)
        return linen.Dense(4)(x[..., :4])


class GptPort(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = Attention()(x)
        return x


def test_the_layers_of_a_block_stay_together_and_conv1d_is_not_transposed() -> None:
    module = GptPort()
    port = module.bind(module.init(jax.random.key(0), jnp.ones((1, 4))))
    rules = draft_rules(Gpt(), port).rules
    where = {rule.references[0]: (rule.ports[0], rule.axes) for rule in rules}
    assert where["h.{i}.c_attn.weight"] == ("Attention_{i}.Dense_0.kernel", None)
    assert where["h.{i}.c_proj.weight"] == ("Attention_{i}.Dense_1.kernel", None)
