"""Arrays of models and of what calls pass, by name; copies that share nothing."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.utils.generic import ModelOutput

from parity_tests import parameters, variables, with_variables
from parity_tests.harness.copies import copy_of, snapshot
from parity_tests.harness.trees import arrays, floats, map_arrays, named_arrays, with_arrays
from parity_tests.small_pairs import F64, KW, Port, X

pytestmark = pytest.mark.usefixtures("in_float64")


# Models


class Normed(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = flax.linen.Dense(4, param_dtype=F64, name="fc")
        return flax.linen.BatchNorm(True, param_dtype=F64, name="bn")(dense(x))


class Twice(flax.linen.Module):
    """Two collections that hold the same name."""

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", lambda key: jnp.ones(3))
        return x * scale + self.variable("state", "scale", lambda: jnp.zeros(3)).value


class Boxed(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = flax.linen.with_partitioning(flax.linen.initializers.ones, ("a",))
        scale: Any = self.param("scale", init, (3,))
        return x * scale


def bound(module: flax.linen.Module) -> Any:
    return module.bind(module.init(jax.random.key(0), X))


def nnx_model() -> Any:
    model: Any = Port(
        lambda m, x: m.fc(x) * m.mean[...] * m.table * m.plain + m.count[...],
        fc=nnx.Linear(3, 4, rngs=nnx.Rngs(0), **KW),
        drop=nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0)),
    )
    model.mean, model.table = nnx.BatchStat(jnp.ones(4)), nnx.data(jnp.ones(4))
    model.count, model.plain = nnx.Variable(jnp.array(2)), jnp.ones(4)
    return model


def equinox_model() -> Any:
    layer = eqx.nn.Linear(3, 4, key=jax.random.key(0), dtype=F64)
    return eqx.nn.Sequential([layer, eqx.nn.Lambda(jnp.tanh)])


def affine(params: Any, x: Any, shift: Any = 0) -> Any:
    return x @ params["layers"][0]["w"] + shift


PARAMS = {"layers": [{"w": jnp.ones((3, 4))}], "n": jnp.array(1), "name": "affine"}

SCALE = {"s": jnp.ones(3)}

# The model; names with a gradient; those without; one of them.
KINDS: dict[str, tuple[Callable[[], Any], set[str], set[str], str]] = {
    "NNX": (nnx_model, {"fc.kernel", "fc.bias"}, {"mean", "table", "count", "plain"}, "table"),
    "Linen": (
        lambda: bound(Normed()),
        {"fc.kernel", "fc.bias", "bn.scale", "bn.bias"},
        {"bn.mean", "bn.var"},
        "bn.mean",
    ),
    "Linen, a name twice": (
        lambda: bound(Twice()),
        {"params.scale"},
        {"state.scale"},
        "state.scale",
    ),
    "Linen, boxed": (lambda: bound(Boxed()), {"scale"}, set(), "scale"),
    "Equinox": (equinox_model, {"layers.0.weight", "layers.0.bias"}, set(), "layers.0.bias"),
    "one tree": (lambda: partial(affine, PARAMS), {"layers.0.w"}, {"n"}, "layers.0.w"),
    "jax's Partial": (
        lambda: jax.tree_util.Partial(affine, PARAMS | {"name": 0}),
        {"layers.0.w"},
        {"n"},
        "layers.0.w",
    ),
    "a tree and a keyword": (
        lambda: partial(affine, PARAMS, shift=jnp.ones(4)),
        {"0.layers.0.w", "shift"},
        {"0.n"},
        "shift",
    ),
    "two trees": (
        lambda: partial(lambda a, b, x: x * a["s"] + b["s"], SCALE, SCALE),
        {"0.s", "1.s"},
        set(),
        "1.s",
    ),
    "a bare array": (lambda: partial(lambda w, x: x * w, jnp.ones(3)), {"value"}, set(), "value"),
    "a bare function": (lambda: jnp.sin, set(), set(), ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_variables_of_every_kind(kind: str) -> None:
    make, trained, others, one = KINDS[kind]
    model = make()
    before = {name: np.array(value) for name, value in variables(model).items()}
    assert before.keys() == trained | others
    assert parameters(model) == trained
    if not one:
        return
    new = with_variables(model, {one: variables(model)[one] + 1})
    assert type(new) is type(model)
    for name, value in variables(new).items():
        np.testing.assert_array_equal(value, before[name] + (name == one))
    for name, value in variables(model).items():  # the given one is as it was
        np.testing.assert_array_equal(value, before[name])
    assert np.any(np.asarray(new(X[0])) != np.asarray(model(X[0])))
    with pytest.raises(KeyError, match="the model has no nobody"):
        with_variables(model, {"nobody": jnp.ones(3)})


def test_a_torch_module_has_a_state_dict() -> None:
    with pytest.raises(TypeError, match=r"are in its state_dict\(\)"):
        variables(torch.nn.Linear(1, 1))


# Trees


@dataclass
class Open:
    y: Any
    more: Any = None


@dataclass(frozen=True)
class Frozen:
    y: Any
    more: Any = None


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    y: Any
    more: Any = None


class Slots:
    __slots__ = ("hidden", "more")

    def __init__(self, hidden: Any, more: Any = None) -> None:
        self.hidden, self.more = hidden, more


class Derived(Slots):
    """Slots of its base, and a __dict__."""


@dataclass
class HuggingOut(ModelOutput):
    y: Any = None
    more: Any = None


class EqxPair(eqx.Module):
    y: Any
    more: Any


Pair = namedtuple("Pair", ["y", "more"])
KINDS_OF_TREE: dict[str, Callable[..., Any]] = {
    "tuple": lambda y, more: (y, more),
    "list": lambda y, more: [y, more],
    "dict": lambda y, more: {"y": y, "more": more},
    "OrderedDict": lambda y, more: OrderedDict(y=y, more=more),
    "a mapping that cannot be changed": lambda y, more: MappingProxyType({"y": y, "more": more}),
    "namedtuple": Pair,
    "dataclass": Open,
    "frozen": Frozen,
    "frozen, slots": FrozenSlots,
    "slots": Slots,
    "slots of a base": Derived,
    "namespace": lambda y, more: SimpleNamespace(y=y, more=more),
    "an output of transformers": HuggingOut,
    "Equinox": EqxPair,
}


@pytest.mark.parametrize("kind", KINDS_OF_TREE)
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, torch.from_numpy])
def test_arrays_are_found_and_replaced_whatever_holds_them(kind: str, make: Any) -> None:
    """Nested in itself, beside words, flags and integers; the tree given stays as it was."""
    of = KINDS_OF_TREE[kind]
    whole, real = make(np.array([1, 2])), make(X.copy())
    tree = of(of(real, "words"), {"n": whole, "flag": True, "none": None})
    found = arrays(tree)
    assert [x is y for x, y in zip(found, [real, whole], strict=True)] == [True, True]
    assert [x is real for x in floats(tree)] == [True]
    new = map_arrays(lambda x: x + 1, tree)
    assert type(new) is type(tree)
    np.testing.assert_array_equal(np.asarray(arrays(new)[0]), X + 1)
    np.testing.assert_array_equal(np.asarray(arrays(tree)[0]), X)
    again = with_arrays(new, [real, whole])
    assert [name for name, _ in named_arrays(again)] == [name for name, _ in named_arrays(tree)]
    assert arrays(again)[0] is real
    assert with_arrays(of("no", ["array", 1]), []) is not None


def test_names_say_the_way() -> None:
    tree = {"a": Open(1.0, (X, [X])), "b": X}
    assert [name for name, _ in named_arrays(tree)] == ["a.more.0", "a.more.1.0", "b"]
    assert [name for name, _ in named_arrays(X)] == [""]


def test_an_attribute_of_an_output_of_transformers_is_its_item() -> None:
    new = map_arrays(lambda x: x + 1, HuggingOut(y=X))
    np.testing.assert_array_equal(new.y, X + 1)
    np.testing.assert_array_equal(new["y"], X + 1)
    assert list(new) == ["y"]


def test_what_holds_no_array_is_the_same_object() -> None:
    for tree in (Slots(1), [1, 2], {"a": "b"}, torch.nn.Linear(1, 1), np.sin, jax.random.key(0)):
        assert map_arrays(lambda x: x + 1, tree) is tree
        assert not arrays(tree)


def test_an_object_that_refers_to_itself_ends() -> None:
    node = Open(X)
    node.more = node
    found = arrays(node)
    assert 1 <= len(found) <= 20
    assert all(x is X for x in found)
    assert isinstance(map_arrays(lambda x: x + 1, node), Open)


# Copies


def test_a_copy_of_a_torch_module_shares_nothing_and_a_snapshot_its_parameters() -> None:
    model: Any = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    model.remembered = {"x": torch.ones(2)}
    both: Any = ((copy_of(model), False), (snapshot(model), True))
    for copied, shared in both:
        for (name, own), other in zip(model.named_parameters(), copied.parameters(), strict=True):
            assert (own is other) == shared, name
        for own, other in zip(model.buffers(), copied.buffers(), strict=True):
            assert own is not other
        assert copied.remembered["x"] is not model.remembered["x"]
        copied(torch.ones(4, 3))
    assert model[0].get_buffer("num_batches_tracked") == 0


def test_the_old_weight_norm_can_be_copied() -> None:
    """Its weight is computed: torch itself refuses to copy it."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = torch.nn.utils.weight_norm(torch.nn.Linear(3, 4)).double()
    x = torch.from_numpy(X)
    before = model(x)
    copied, shared = copy_of(model), snapshot(model)
    for other in (copied, shared):
        assert torch.equal(other(x), before)
    with torch.no_grad():
        copied.get_parameter("weight_g").mul_(2)
        assert torch.equal(model(x), before)
        model.get_parameter("weight_g").mul_(2)
    assert torch.equal(shared(x), model(x))
    assert not torch.equal(model(x), before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a bare function"])
def test_a_copy_of_a_port_is_another_one(kind: str) -> None:
    model = KINDS[kind][0]()
    copied = copy_of(model)
    assert copied is not model
    np.testing.assert_array_equal(np.asarray(copied(X[0])), np.asarray(model(X[0])))


def test_what_a_copy_of_an_nnx_module_changes_is_its_own() -> None:
    model = nnx_model()
    copied = copy_of(model)
    copied.mean[...] *= 2
    copied.fc.kernel[...] += 1
    copied.extra = 1
    assert model.mean[...].sum() == 4
    assert not np.any(np.asarray(model.fc.kernel[...] == copied.fc.kernel[...]))
    assert not hasattr(model, "extra")
