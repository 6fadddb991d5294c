"""Drafted rules of ports laid out in another way: in plain trees, untied, numbered."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from parity_tests.drafted import filled, same
from parity_tests.harness.bridge import Bridge, BridgeError
from parity_tests.harness.draft import draft_rules
from parity_tests.harness.float64 import to_float64
from parity_tests.harness.layouts import LINEAR
from parity_tests.harness.locate import locate
from parity_tests.harness.maps import constant
from parity_tests.harness.rules import Rule

KEY = jax.random.key(0)


# Plain trees


class Attention(NamedTuple):
    q_proj: Any
    k_proj: Any
    v_proj: Any
    out_proj: Any


class Layers(NamedTuple):
    input_norm: Any
    attention: Attention
    up_proj: Any


class Tree(NamedTuple):
    embedding: Any
    decoder: Layers
    lm_head: Any


C, R, G, K, N = 10, 2, 3, 4, 2  # width, queries a group, groups, head size, layers


def tree(repeats: int) -> Tree:
    attention = Attention(
        jnp.zeros((N, C, repeats, G, K)),
        jnp.zeros((N, C, G, K)),
        jnp.zeros((N, C, G, K)),
        jnp.zeros((N, repeats, G, K, C)),
    )
    decoder = Layers(jnp.zeros((N, C)), attention, jnp.zeros((N, C, 14)))
    return Tree(jnp.zeros((17, C)), decoder, jnp.zeros((C, 17)))


def bare(n_in: int, n_out: int) -> nn.Linear:
    return nn.Linear(n_in, n_out, bias=False)


class Grouped(nn.Module):
    """Named as Llama of transformers is."""

    def __init__(self, repeats: int) -> None:
        super().__init__()
        self.embed_tokens, self.lm_head = nn.Embedding(17, C), bare(C, 17)
        self.layers = nn.ModuleList(nn.Module() for _ in range(N))
        for layer in self.layers:
            layer.self_attn = nn.Module()
            layer.self_attn.q_proj = bare(C, repeats * G * K)
            layer.self_attn.k_proj, layer.self_attn.v_proj = bare(C, G * K), bare(C, G * K)
            layer.self_attn.o_proj = bare(repeats * G * K, C)
            layer.up_proj, layer.input_layernorm = bare(C, 14), nn.RMSNorm(C)


def test_a_tree_whose_leaves_are_the_layers() -> None:
    ref = nn.Module()
    ref.up_proj, ref.norm = bare(12, 20), nn.RMSNorm(12)
    ref.square = bare(12, 12)
    weights = {"up_proj": jnp.zeros((12, 20)), "norm": jnp.zeros(12), "square": jnp.zeros((12, 12))}
    port = partial(lambda tree: tree, weights)
    draft = draft_rules(ref, port)
    assert draft.doubts == {"square.weight": "square: transposed or not? probe it"}
    values = filled(ref, port, draft)
    same(values["up_proj"].T, ref.get_parameter("up_proj.weight"))
    same(values["square"].T, ref.get_parameter("square.weight"))  # as the other


def test_a_stacked_tree_whose_heads_are_axes() -> None:
    ref, port = Grouped(1), partial(lambda tree: tree, tree(1))
    draft = draft_rules(ref, port)
    assert (draft.doubts, draft.unpaired, draft.unpaired_of_port) == ({}, (), ())
    values = filled(ref, port, draft)
    same(
        values["decoder.attention.k_proj"][1].reshape(C, -1).T,
        ref.get_parameter("layers.1.self_attn.k_proj.weight"),
    )
    same(
        values["decoder.attention.q_proj"][1].reshape(C, -1).T,
        ref.get_parameter("layers.1.self_attn.q_proj.weight"),
    )
    same(
        values["decoder.attention.out_proj"][1].reshape(-1, C).T,
        ref.get_parameter("layers.1.self_attn.o_proj.weight"),
    )


def test_where_the_order_of_axes_is_open_both_are_said_and_none_is_drafted() -> None:
    ref, port = Grouped(R), partial(lambda tree: tree, tree(R))
    draft = draft_rules(ref, port)
    queries = [
        f"layers.{i}.self_attn.{name}.weight" for i in range(N) for name in ("q_proj", "o_proj")
    ]
    assert set(draft.unpaired) == set(queries)
    assert draft.unpaired_of_port == ("decoder.attention.q_proj", "decoder.attention.out_proj")
    open_ends = [line for line in str(draft).splitlines() if line.startswith("# open: ")]
    assert len(open_ends) == 4
    names = {"Rule": Rule, "np": np}
    rules = [eval(line.removeprefix("# open: ").split("  # ")[0], names) for line in open_ends]
    one = filled(ref, port, draft, rules[0], rules[2])
    other = filled(ref, port, draft, rules[1], rules[3])
    weight = ref.get_parameter("layers.1.self_attn.q_proj.weight").T
    same(one["decoder.attention.q_proj"][1], weight.reshape(C, R, G, K))
    same(other["decoder.attention.q_proj"][1], weight.reshape(C, G, R, K).transpose(1, 2))


# An array that one side has


class Norm(eqx.Module):
    """As Equinox's RMSNorm: a bias, which torch's is without."""

    weight: jax.Array
    bias: jax.Array


def test_a_bias_that_the_reference_is_without() -> None:
    ref = nn.Module()
    ref.norm, ref.fc = nn.RMSNorm(12), nn.Linear(12, 3)
    norm, fc = Norm(jnp.ones(12), jnp.ones(12)), eqx.nn.Linear(12, 3, key=KEY)
    port = partial(lambda tree: tree, {"norm": norm, "fc": fc})
    draft = draft_rules(ref, port)
    assert (draft.unpaired, draft.unpaired_of_port) == ((), ("norm.bias",))
    said = '# unpaired, of the port: norm.bias (12,): Rule((), "norm.bias", constant(np.zeros(12)))'
    assert said in str(draft)
    with pytest.raises(BridgeError, match=r"norm\.bias of the port is not filled"):
        draft.bridge.to_port(ref, port)
    zeros = Rule((), "norm.bias", constant(np.zeros(12)))
    same(
        Bridge([*draft.rules, zeros]).to_port(ref, port).args[0]["norm"].weight,
        ref.get_parameter("norm.weight"),
    )


class Head(nn.Module):
    """Its bias stands beside a layer without one, as in ESM of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.decoder = nn.Linear(6, 4), bare(4, 11)
        self.bias = nn.Parameter(torch.randn(11))


def test_a_layer_whose_arrays_are_two_layers_of_the_reference() -> None:
    ref = Head()
    layers = {"linear1": eqx.nn.Linear(6, 4, key=KEY), "linear2": eqx.nn.Linear(4, 11, key=KEY)}
    port = partial(lambda tree: tree, layers)
    draft = draft_rules(ref, port)
    assert (draft.unpaired, draft.unpaired_of_port) == ((), ())
    values = filled(ref, port, draft)
    same(values["linear2.weight"], ref.get_parameter("decoder.weight"))
    same(values["linear2.bias"], ref.get_parameter("bias"))


# Tied there, two arrays here


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), bare(4, 7)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc(self.table(tokens)))


class Untied(linen.Module):
    @linen.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = linen.Dense(4, name="fc")(linen.Embed(7, 4)(tokens))
        return linen.Dense(7, use_bias=False)(x)


TOKENS = np.array([[1, 4, 6], [2, 2, 0]])


def untied() -> Any:
    return Untied().bind(Untied().init(KEY, TOKENS))


def test_tied_weights_that_are_two_arrays_of_the_port() -> None:
    ref, port = Tied(), untied()
    draft = draft_rules(ref, port)
    assert (draft.unpaired, draft.unpaired_of_port) == ((), ())
    said = "tied in the reference, two arrays here: training parts them"
    assert draft.doubts["table.weight"] == said
    values = filled(ref, port, draft)
    same(values["Embed_0.embedding"], ref.get_parameter("table.weight"))
    same(values["Dense_0.kernel"].T, ref.get_parameter("table.weight"))


def test_a_tied_weight_that_is_two_arrays_of_the_port_is_compared(in_float64: None) -> None:
    """As drafted, and by a rule for each name: the gradients are added, and that is said."""
    ref, port = Tied().double(), to_float64(untied())
    rules = [
        Rule("table.weight", "Embed_0.embedding"),
        Rule("head.weight", "Dense_0.kernel", LINEAR),
        Rule("fc.weight", "fc.kernel", LINEAR),
        Rule("fc.bias", "fc.bias"),
    ]
    for bridge in (Bridge(rules), draft_rules(ref, port).bridge):
        found = locate(ref, bridge.to_port(ref, port), TOKENS, {}, bridge=bridge)
        assert found.ok, found
        assert (
            "table.weight and head.weight, tied in the reference, are Embed_0.embedding and "
            "Dense_0.kernel of the port: their gradients are added, and training parts them"
        ) in found.not_compared


# Numbered blocks


class GptBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(4, 12), "c_proj": nn.Linear(4, 4)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(4, 9), "c_proj": nn.Linear(9, 4)})


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h, self.ln_f = nn.ModuleList(GptBlock() for _ in range(3)), nn.LayerNorm(4)


class GptAttention(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dense(12)(x)
        return linen.Dense(4)(x[..., :4])


class GptMlp(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dense(9)(x)
        return linen.Dense(4)(x)


class GPT2Block(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = GptAttention()(linen.LayerNorm()(x))
        return GptMlp()(linen.LayerNorm()(x))


class GPT2Model(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = GPT2Block()(x)
        return linen.LayerNorm()(x)


class GptPort(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return GPT2Model()(x)


def test_numbered_blocks_are_one_rule_and_doubts_stay_inside_a_block() -> None:
    port = GptPort().bind(GptPort().init(KEY, jnp.ones((1, 4))))
    ref = Gpt()
    draft = draft_rules(ref, port)
    text = str(draft)
    blocks = "GPT2Model_0.GPT2Block_{i}"
    assert len(draft.rules) == 14
    assert f'Rule("h.{{i}}.ln_1.weight", "{blocks}.LayerNorm_0.scale"),' in text
    assert f'Rule("h.{{i}}.mlp.c_fc.bias", "{blocks}.GptMlp_0.Dense_0.bias"),' in text
    assert draft.doubts == {
        "h.{i}.ln_1.weight": f"paired by order: could be {blocks}.LayerNorm_1 as well",
        "h.{i}.ln_1.bias": f"paired by order: could be {blocks}.LayerNorm_1 as well",
        "h.{i}.ln_2.weight": f"paired by order: could be {blocks}.LayerNorm_0 as well",
        "h.{i}.ln_2.bias": f"paired by order: could be {blocks}.LayerNorm_0 as well",
        "h.{i}.attn.c_proj.weight": "square: transposed or not? probe it",
    }
    values = filled(ref, port, draft)
    same(values["GPT2Model_0.GPT2Block_2.LayerNorm_1.scale"], ref.get_parameter("h.2.ln_2.weight"))
    same(values["GPT2Model_0.LayerNorm_0.scale"], ref.get_parameter("ln_f.weight"))


def test_a_number_inside_a_word_is_no_place() -> None:
    ref = nn.Module()
    ref.layers = nn.ModuleList(nn.ModuleDict({"conv1d": nn.Linear(3, 4)}) for _ in range(2))
    weights = [{"conv1d": {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)}} for _ in range(2)]
    draft = draft_rules(ref, partial(lambda tree: tree, {"layers": weights}))
    assert 'Rule("layers.{i}.conv1d.weight", "layers.{i}.conv1d.w", LINEAR),' in str(draft)
