"""Rules between a torch module and every kind of port, ignored names, what a rule refuses."""

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

from parity_tests.harness.bridge import Bridge, BridgeError, Rule
from parity_tests.harness.layouts import LINEAR
from parity_tests.harness.maps import Map, add, chain, constant, permute_rows, split
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.probe import probe

RULES = [Rule("**.weight", "**.kernel", LINEAR), Rule("**.bias", "**.bias")]
EQUINOX = Bridge([Rule("**", "**")])
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def reference() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 4)


def linen_port() -> Any:
    module = linen.Dense(4)
    return module.bind(module.init(jax.random.key(0), X))


def function_port() -> Any:
    weights = {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}
    return partial(lambda weights, x: x @ weights["kernel"] + weights["bias"], weights)


KINDS: dict[str, Any] = {
    "nnx": lambda: (Bridge(RULES), nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
    "linen": lambda: (Bridge(RULES), linen_port()),
    "equinox": lambda: (EQUINOX, eqx.nn.Linear(3, 4, key=jax.random.key(0))),
    "function": lambda: (Bridge(RULES), function_port()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_port_is_filled_and_read_back(kind: str) -> None:
    """NNX in place; of the others a new one comes, and the given one stays as it was."""
    ref, (bridge, empty) = reference(), KINDS[kind]()
    call = jax.vmap if kind == "equinox" else lambda f: f
    before = call(empty)(X)
    port = bridge.to_port(ref, empty)
    expected = ref(torch.from_numpy(X)).detach()
    np.testing.assert_allclose(call(port)(X), expected, atol=1e-6)
    assert (port is empty) == (kind == "nnx")
    if kind != "nnx":
        np.testing.assert_array_equal(call(empty)(X), before)
    back = bridge.to_reference(port)
    assert set(back) == {"weight", "bias"}
    for name, value in ref.state_dict().items():
        np.testing.assert_array_equal(back[name], value)
    assert probe(ref, port, 3).ok
    assert str(probe(ref, bridge.to_port(_other(), port), 3)).startswith("another matrix")


def _other() -> dict[str, Any]:
    weights = reference().state_dict()
    return weights | {"weight": 1.01 * weights["weight"]}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_kind_of_port(kind: str) -> None:
    """As each framework gives them: an nnx.State, Linen's params, a module, a function's tree."""
    bridge, port = KINDS[kind]()
    match kind:
        case "nnx":
            gradients = nnx.grad(lambda m: (m(X) ** 2).sum())(port)
        case "linen":
            module, variables = port.unbind()
            gradients = jax.grad(lambda v: (module.apply(v, X) ** 2).sum())(variables)
        case "equinox":
            gradients = eqx.filter_grad(lambda m: (jax.vmap(m)(X) ** 2).sum())(port)
        case _:
            gradients = jax.grad(lambda w: (port.func(w, X) ** 2).sum())(port.args[0])
    mapped = bridge.map_gradients(gradients)
    ref = reference()
    ref.load_state_dict({n: torch.from_numpy(x) for n, x in bridge.to_reference(port).items()})
    (ref(torch.from_numpy(X)) ** 2).sum().backward()
    assert set(mapped) == {"weight", "bias"}
    for name, p in ref.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(mapped[name], p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ignore", "name", "ignored"),
    [
        ("inv_freq", "inv_freq", True),
        ("**.inv_freq", "inv_freq", True),
        ("**.inv_freq", "blocks.0.attn.inv_freq", True),
        ("blocks.**.inv_freq", "blocks.inv_freq", True),
        ("inv_freq", "attn.inv_freq", False),
        ("**.freq", "inv_freq", False),
        ("blocks.{i}.inv_freq", "blocks.inv_freq", False),
    ],
)
def test_ignored_names(ignore: str, name: str, ignored: bool) -> None:
    """Of buffers and of parameters, whose gradients nobody may ask for."""
    bridge = Bridge(RULES, ignore=[ignore])
    state = reference().state_dict() | {name: torch.ones(2)}
    port = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    assert set(bridge.without_ignored(state)) == set(state) - ({name} if ignored else set())
    if ignored:
        back = bridge.to_reference(bridge.to_port(state, port))
        assert set(back) == set(bridge.map_gradients(nnx.state(port))) == {"weight", "bias"}
    else:
        with pytest.raises(BridgeError, match="inv_freq of the reference matches no rule, nor `"):
            bridge.to_port(state, port)


def test_places_at_the_top_are_filled_as_they_were_found() -> None:
    pattern = Pattern("**.weight")
    for name, filled in (("weight", "kernel"), ("a.b.weight", "a.b.kernel")):
        places = pattern.match(name)
        assert places is not None
        assert Pattern("**.kernel").fill(places) == filled
        assert Pattern("x.**").fill(places) == f"x.{places['__anything']}"
    assert pattern.match("myweight") is None
    assert Pattern("blocks.**").match("blocks") is None


class WithTables(nnx.Module):
    """Arrays that are no variables, as rotary tables often are, and a number."""

    def __init__(self) -> None:
        self.kernel = nnx.Param(jnp.zeros((3, 4)))
        self.table = nnx.data(jnp.zeros(2))
        self.plain = jnp.zeros(5)
        self.scale = nnx.data(0.5)


@pytest.mark.parametrize("assigned", [True, False])
def test_arrays_that_are_no_variables_are_assigned_or_ignored(assigned: bool) -> None:
    state = {"weight": np.ones((4, 3), np.float32)}
    rules, names = [Rule("weight", "kernel", LINEAR)], ("table", "plain", "scale")
    port = WithTables()
    with pytest.raises(BridgeError, match=r"table of the port is not filled .*, nor in `ignore_p"):
        Bridge(rules).to_port(state, port)
    if assigned:
        rules += [Rule(name, name) for name in names]
        state |= {"table": np.full(2, 3, "f"), "plain": np.full(5, 4, "f"), "scale": np.array(2.0)}
    bridge = Bridge(rules, ignore_port=() if assigned else names)
    bridge.to_port(state, port)
    assert (port.table[0], port.plain[0], port.scale) == ((3, 4, 2) if assigned else (0, 0, 0.5))
    assert type(port.scale) is float
    assert set(bridge.to_reference(port)) == set(state)
    assert set(bridge.map_gradients(nnx.state(port))) == set(state)


def test_bfloat16_goes_there_and_back() -> None:
    ref = reference().bfloat16()
    port = nnx.Linear(3, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    back = Bridge(RULES).to_reference(Bridge(RULES).to_port(ref, port))
    assert back["weight"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(back["weight"].astype("f"), ref.weight.detach().float())
    wider = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(
        Bridge(RULES).to_port(ref, wider).kernel[...], ref.weight.detach().float().T
    )
    with pytest.raises(BridgeError, match="weight float32 would be rounded to bfloat16"):
        Bridge(RULES).to_port(reference(), port)


def test_a_packed_tensor_goes_to_three_layers_and_their_gradients_back() -> None:
    """One layer's gradients alone are not the packed one's: it is left out, not made up."""
    ports = tuple(f"{name}.kernel" for name in "qkv")
    bridge = Bridge([Rule("qkv.weight", ports, chain(split(3), LINEAR))])
    packed = np.random.default_rng(0).normal(size=(6, 3)).astype("f")
    port = partial(lambda w: w, {name: {"kernel": jnp.zeros((3, 2))} for name in "qkv"})
    port = bridge.to_port({"qkv.weight": packed}, port)
    np.testing.assert_array_equal(port.args[0]["k"]["kernel"], packed[2:4].T)
    np.testing.assert_array_equal(bridge.to_reference(port)["qkv.weight"], packed)
    assert set(bridge.map_gradients(port.args[0])) == {"qkv.weight"}
    assert bridge.map_gradients({"k.kernel": np.ones((3, 2))}) == {}


def test_several_tensors_of_stacked_layers() -> None:
    """A scanned port: layer i is row i, and what is packed there is apart in the reference."""
    rule = Rule(
        ("layers.{i}.q", "layers.{i}.k"),
        "stack.qk",
        to_port=lambda q, k: jnp.concatenate([q, k]),
        to_reference=lambda x: (x[:2], x[2:]),
        over={"i": range(3)},
        at=lambda i: np.s_[i],
    )
    rng = np.random.default_rng(0)
    state = {f"layers.{i}.{n}": rng.normal(size=2) for i in range(3) for n in "qk"}
    with jax.enable_x64(True):
        port = partial(lambda w: w, {"stack": {"qk": jnp.zeros((3, 4))}})
        port = Bridge([rule]).to_port(state, port)
    np.testing.assert_array_equal(port.args[0]["stack"]["qk"][1, 2:], state["layers.1.k"])
    back = Bridge([rule]).to_reference(port)
    gradients = Bridge([rule]).map_gradients(port.args[0])
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
        np.testing.assert_array_equal(gradients[name], value)
    del state["layers.1.k"]
    with pytest.raises(BridgeError, match=r"layers\.1\.k, which goes with layers\.1\.q, is mi"):
        Bridge([rule]).to_port(state, port)


def test_what_only_the_port_has() -> None:
    """A bias of zeros, where the reference was built without one."""
    rules = [RULES[0], Rule((), "bias", constant(np.zeros(4)))]
    ref = nn.Linear(3, 4, bias=False)
    port = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    assert port.bias is not None
    port.bias[...] = jnp.ones(4)
    Bridge(rules).to_port(ref, port)
    assert not port.bias[...].any()
    assert set(Bridge(rules).to_reference(port)) == {"weight"}
    assert set(Bridge(rules).map_gradients(nnx.state(port))) == {"weight"}


ONE = {"weight": np.ones((4, 3), np.float32)}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (dict(axes=(0, 1, 2)), "raises ValueError on (4, 3): 3 axes to permute, and 2 given"),
        (dict(to_port=lambda w: w.T[::-1] * 2, to_reference=lambda k: k.T),
         "to_reference of weight -> kernel does not undo its to_port"),
        (dict(to_port=lambda w: w.T * 0, to_reference=lambda k: k.T), "does not undo its to_port"),
        (dict(to_port=lambda w: (w, w), to_reference=lambda k: k), "gives 2 arrays for 1 names"),
        (dict(to_port=lambda w: w.reshape(5), to_reference=lambda k: k), "raises ValueError on"),
        (dict(axes=permute_rows([0, 1])), "4 rows, and an order of 2"),
    ],
)  # fmt: skip
def test_a_rule_that_does_not_fit_is_named(rule: dict[str, Any], message: str) -> None:
    port = nnx.Linear(3, 4, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(BridgeError) as raised:
        Bridge([Rule("weight", "kernel", **rule)]).to_port(ONE, port)
    assert message in str(raised.value)


def test_a_rule_without_a_way_back_goes_one_way() -> None:
    bridge = Bridge([Rule("weight", "kernel", to_port=lambda w: w.T)])
    port = bridge.to_port(ONE, nnx.Linear(3, 4, use_bias=False, rngs=nnx.Rngs(0)))
    with pytest.raises(BridgeError, match="has no to_reference: this goes one way only"):
        bridge.to_reference(port)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Rule("a", "b", LINEAR, to_port=lambda x: x),
            "a map is either `axes` or `to_",
        ),
        (lambda: Rule("a", "b", to_reference=lambda x: x), "a map is either `axes` or `to_"),
        (lambda: Rule(("{i}.a", "b"), "{i}.c", add()), "the places of both names must be the same"),
        (lambda: Rule((), ()), "a rule has at least one name"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(BridgeError, match=message):
        make()


def test_a_map_that_loses_something_says_so_and_must_still_make_the_same_port() -> None:
    wrong = Map(lambda a, b: a + b, lambda s: (s, s), loses="which is which")
    state = {"a": np.ones(2, "f"), "b": np.ones(2, "f")}
    port = partial(lambda w: w, {"s": jnp.zeros(2)})
    with pytest.raises(BridgeError, match="to_reference of a, b -> s does not undo its to_port"):
        Bridge([Rule(("a", "b"), "s", wrong)]).to_port(state, port)
    bridge = Bridge([Rule(("a", "b"), "s", add())])
    back = bridge.to_reference(bridge.to_port(state, port))
    assert (back["a"].tolist(), back["b"].tolist()) == ([2, 2], [0, 0])
    gradients = bridge.map_gradients({"s": np.ones(2)})
    assert gradients["a"].tolist() == gradients["b"].tolist() == [1, 1]
