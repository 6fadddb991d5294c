"""Drafted rules of ports that hold their layers stacked, by vmap or by scan."""

from functools import partial

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
from torch import nn

from parity_tests.drafted import filled, same
from parity_tests.harness.draft import draft_rules

KEY = jax.random.key(0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.fc, self.norm2 = nn.LayerNorm(5), nn.Linear(5, 7), nn.LayerNorm(7)


class Blocks(nn.Module):
    """The final norm is like those of the blocks."""

    def __init__(self, n: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(n))
        self.norm = nn.LayerNorm(5)


class EqxBlock(eqx.Module):
    norm1: eqx.nn.LayerNorm
    fc: eqx.nn.Linear
    norm2: eqx.nn.LayerNorm

    def __init__(self, key: jax.Array) -> None:
        self.norm1, self.norm2 = eqx.nn.LayerNorm(5), eqx.nn.LayerNorm(7)
        self.fc = eqx.nn.Linear(5, 7, key=key)


class EqxBlocks(eqx.Module):
    layers: EqxBlock
    norm: eqx.nn.LayerNorm

    def __init__(self, n: int) -> None:
        self.layers = eqx.filter_vmap(EqxBlock)(jax.random.split(KEY, n))
        self.norm = eqx.nn.LayerNorm(5)


@pytest.mark.parametrize("n", [1, 2, 11])
def test_layers_stacked_by_vmap(n: int) -> None:
    ref, port = Blocks(n), EqxBlocks(n)
    draft = draft_rules(ref, port)
    assert (draft.doubts, draft.unpaired, draft.unpaired_of_port) == ({}, (), ())
    line = f'over={{"i": range({n})}}, at=lambda i: np.s_[i]),'
    assert f'Rule("layers.{{i}}.fc.weight", "layers.fc.weight", {line}' in str(draft)
    assert len(draft.rules) == 6  # of weight and bias: norm1 and norm2, fc, norm
    values = filled(ref, port, draft)
    for i in range(n):
        same(values["layers.fc.weight"][i], ref.get_parameter(f"layers.{i}.fc.weight"))
        same(values["layers.norm2.bias"][i], ref.get_parameter(f"layers.{i}.norm2.bias"))
    same(values["norm.weight"], ref.get_parameter("norm.weight"))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        x = linen.Dense(7)(linen.LayerNorm()(x))
        return linen.LayerNorm()(x)[..., :5], None


class Scanned(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scan = linen.scan(
            LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return linen.LayerNorm()(scan()(x, None)[0])


def test_layers_scanned_in_linen() -> None:
    module = Scanned()
    port = module.bind(module.init(KEY, jnp.ones((1, 5))))
    ref = Blocks(3)
    draft = draft_rules(ref, port)
    assert (draft.unpaired, draft.unpaired_of_port) == ((), ())
    values = filled(ref, port, draft)
    same(values["ScanLinenBlock_0.Dense_0.kernel"][2].T, ref.get_parameter("layers.2.fc.weight"))
    same(values["LayerNorm_0.scale"], ref.get_parameter("norm.weight"))


def test_a_block_that_is_one_layer() -> None:
    arrays = (jnp.zeros((3, 5, 3)), jnp.zeros((3, 3)))
    ref = nn.Sequential(*(nn.ModuleDict({"fc": nn.Linear(5, 3)}) for _ in range(3)))
    for tree in ({"blocks": {"fc": {"w": 0, "b": 1}}}, {"fc": {"w": 0, "b": 1}}, {"w": 0, "b": 1}):
        port = partial(lambda tree: tree, jax.tree.map(lambda i: arrays[i], tree))
        draft = draft_rules(ref, port)
        assert (draft.doubts, draft.unpaired, draft.unpaired_of_port) == ({}, (), ())
        (kernel, *_) = (x for x in filled(ref, port, draft).values() if x.ndim == 3)
        same(kernel[2].T, ref.get_parameter("2.fc.weight"))


def test_what_has_as_many_rows_as_there_are_layers_is_not_stacked() -> None:
    """Two classes, and two layers that are numbered on both sides."""
    ref = nn.Module()
    ref.layers, ref.head = nn.ModuleList(nn.LayerNorm(5) for _ in range(2)), nn.Linear(5, 2)
    norms, head = [eqx.nn.LayerNorm(5) for _ in range(2)], eqx.nn.Linear(5, 2, key=KEY)
    port = partial(lambda tree: tree, {"layers": norms, "head": head})
    draft = draft_rules(ref, port)
    assert "over" not in str(draft)
    same(filled(ref, port, draft)["head.weight"], ref.get_parameter("head.weight"))
