"""`names="auto"` and pairs of layers that hold other weights: by the rules, by number, by taps."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests import CONV1D, LINEAR, Bridge, Location, Rule, Twin, locate, tap
from parity_tests.small_pairs import AB, KW, Port, Torch, X, guilty, linear, pair

pytestmark = pytest.mark.usefixtures("in_float64")


# The port's head has the bias that the reference has beside its own


def head(names: Any, bridge: Bridge | None, name: str = "decoder") -> Location:
    torch.manual_seed(0)
    decoder = torch.nn.Linear(3, 5, bias=False)
    ref = Torch(lambda m, x: m.decoder(torch.nn.functional.gelu(x)) + m.bias, decoder=decoder)
    ref.bias = torch.nn.Parameter(torch.randn(5))
    rules = [Rule("decoder.weight", f"{name}.kernel", LINEAR), Rule("bias", f"{name}.bias")]
    empty = Port(lambda m, x: getattr(m, name)(jax.nn.gelu(x)), **{name: linear(3, 5)})  # tanh
    port = Bridge(rules).to_port(ref.double(), empty)
    return locate(ref, port, X, names, bridge=bridge and Bridge(rules))


@pytest.mark.parametrize("name", ["decoder", "decode"])
def test_layers_that_the_rules_part_are_no_pair(name: str) -> None:
    found = head("auto", AB, name)
    assert guilty(found) == [("model", "forward")]
    assert "    # without a twin: decoder\n" in found.pairing
    assert found.not_compared == (
        "without a twin in the reference's names: decoder",
        f"in the port, without a twin: {name}",
    )


@pytest.mark.parametrize("names", ["auto", {"decoder": "decoder"}])
def test_layers_of_another_number_of_weights_are_not_held_against_one_another(names: Any) -> None:
    found = head(names, None)
    assert guilty(found) == [("model", "forward")]
    assert found.not_compared == (
        "decoder alone: it holds 20 weights in the port, 15 in the reference; see Bridge for which "
        "is which",
    )


def test_statistics_are_no_weights_that_one_side_lacks() -> None:
    """Of torch a buffer is none; of Equinox, and of functions, every array is one."""
    ref, port = pair(lambda m, x: m.fc(x), lambda m, x: m.fc(x) * 2)
    ref.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
    inner = Torch(lambda m, x: m.inner(x), inner=ref), Port(lambda m, x: m.inner(x), inner=port)
    assert guilty(locate(*inner, X, {"inner": "inner"})) == [("inner", "forward")]


# A layer of the port that has more in it than the one that looks like it


@pytest.mark.parametrize("with_rules", [True, False])
def test_the_rules_say_which_layers_contain_the_same(with_rules: bool) -> None:
    sizes = {"q": (3, 3), "k": (3, 3), "out": (3, 3)}
    ref, port = pair(None, None, sizes)
    core = Torch(lambda m, x: m.q(x) * m.k(x), q=ref.q, k=ref.k)
    outer = Torch(lambda m, x: m.out(m.core(x)) ** 2, core=core, out=ref.out)
    port.function = lambda m, x: m.out(m.q(x) * m.k(x))
    rules = [
        rule
        for ref_name, name in (("core.q", "q"), ("core.k", "k"), ("out", "out"))
        for rule in (
            Rule(f"{ref_name}.weight", f"mix.{name}.kernel", LINEAR),
            Rule(f"{ref_name}.bias", f"mix.{name}.bias"),
        )
    ]
    bridge = Bridge(rules) if with_rules else None
    found = locate(outer, Port(lambda m, x: m.mix(x), mix=port), X, "auto", bridge=bridge)
    assert guilty(found) == [("model", "forward")]  # the square
    assert '"core.q": "mix.q",' in found.pairing
    assert '"out": "mix.out",' in found.pairing
    assert ('"core": "mix",' in found.pairing) != with_rules
    assert any("core alone: it holds 36 weights" in s for s in found.not_compared) != with_rules


# A function's taps


def tapped(params: Any, x: Any, act: Any = jnp.tanh) -> Any:
    x = tap("layer_1", x @ params["fc1"]["kernel"] + params["fc1"]["bias"])
    return tap("layer_2", act(x) @ params["fc2"]["kernel"] + params["fc2"]["bias"])


def test_taps_of_a_function_stand_for_layers_with_weights() -> None:
    """Their name is what is known of them; a fault is between them."""
    sizes = {"fc1": (3, 4), "fc2": (4, 4)}
    params = {name: {"kernel": jnp.zeros(s), "bias": jnp.zeros(s[1])} for name, s in sizes.items()}
    torch.manual_seed(0)
    layers = {f"layer{i}": torch.nn.Linear(*sizes[f"fc{i}"]) for i in (1, 2)}
    ref = Torch(lambda m, x: m.layer2(m.layer1(x).tanh()), **layers).double()
    bridge = Bridge(
        [Rule("layer{i}.weight", "fc{i}.kernel", LINEAR), Rule("layer{i}.bias", "fc{i}.bias")]
    )
    for act, named in ((jnp.tanh, []), (jnp.sin, [("layer2", "forward")])):
        port = bridge.to_port(ref, partial(partial(tapped, act=act), params))
        found = locate(ref, port, X, "auto", bridge=bridge)
        assert guilty(found) == named, found
        assert '    "layer{i}": "layer_{i}",\n' in found.pairing
        assert not found.not_compared


# Layers of other names


class Reference(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = torch.nn.Conv1d(3, 4, 3, padding=1), torch.nn.ReLU()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        self.head = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.conv(x)).mT
        for block in self.blocks:
            y = block(y).tanh()
        return self.head(y)


class Renamed(nnx.Module):
    """Other names, channels last, no layer for the activation."""

    f: Any = staticmethod(jnp.tanh)

    def __init__(self) -> None:
        self.stem = nnx.Conv(3, 4, (3,), padding=1, rngs=nnx.Rngs(0), **KW)
        self.layers = nnx.List([linear(4, 4), linear(4, 4)])
        norm = nnx.LayerNorm(4, epsilon=1e-5, rngs=nnx.Rngs(0), **KW)
        self.out = nnx.Sequential(norm, linear(4, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.stem(x))
        for layer in self.layers:
            y = self.f(layer(y))
        return self.out(y)


class Sine(Renamed):
    f = staticmethod(jnp.sin)


RENAMED = Bridge(
    [
        Rule("conv.weight", "stem.kernel", CONV1D),
        Rule("conv.bias", "stem.bias"),
        Rule("head.0.weight", "out.layers.0.scale"),
        Rule("blocks.{i}.weight", "layers.{i}.kernel", LINEAR),
        Rule("blocks.{i}.bias", "layers.{i}.bias"),
        Rule("head.{i}.weight", "out.layers.{i}.kernel", LINEAR),
        Rule("head.{i}.bias", "out.layers.{i}.bias"),
    ]
)
IMAGES = np.random.default_rng(0).normal(size=(2, 3, 5))


def renamed(names: Any, port_class: type[Renamed] = Renamed) -> Location:
    torch.manual_seed(0)
    ref = Reference().double()
    port = RENAMED.to_port(ref, Renamed())
    port.__class__ = port_class
    inputs = IMAGES.transpose(0, 2, 1)
    return locate(ref, port, IMAGES, names, bridge=RENAMED, port_inputs=inputs)


def test_layers_pair_by_themselves_and_the_pairing_can_be_pasted() -> None:
    found = renamed("auto")
    assert found.outcome == "same", found
    assert (
        found.pairing
        == """\
names = {
    "conv": Twin("stem", axes=(0, 2, 1)),
    "blocks.{i}": "layers.{i}",
    "head.{i}": "out.layers.{i}",
    "head": "out",
    "": "",
    # without a twin: act
}"""
    )
    assert str(found).endswith(found.pairing)
    assert found.not_compared == ("without a twin in the reference's names: act",)
    pasted: dict[str, Any] = {"Twin": Twin}
    exec(found.pairing, pasted)
    again = renamed(pasted["names"])
    assert [str(check) for check in again.checks] == [str(check) for check in found.checks]
    assert again.pairing == ""


def test_a_fault_between_layers_that_paired_by_themselves() -> None:
    found = renamed("auto", Sine)
    assert guilty(found) == [("model", "forward")]
    assert found.where == "inside it, between blocks.0 and blocks.1: blocks.1:input differs"


def test_of_two_layers_alike_the_one_of_the_likelier_name_is_the_twin() -> None:
    """The port has written one of two square layers out."""
    ref, _ = pair(lambda m, x: m.dec(m.enc(x)), None, {"enc": (3, 3), "dec": (3, 3)})
    kernel, bias = (jnp.asarray(p.detach().numpy()) for p in ref.enc.parameters())
    port = Port(lambda m, x: m.decoder(x @ kernel.T + bias), decoder=linear(3, 3))
    bridge = Bridge(
        [Rule("dec.weight", "decoder.kernel", LINEAR), Rule("dec.bias", "decoder.bias")],
        ignore=["enc.**"],
    )
    found = locate(ref, bridge.to_port(ref, port), X, "auto", bridge=bridge)
    assert found.outcome == "same", found
    assert '    "dec": "decoder",\n' in found.pairing
    assert found.not_compared == ("without a twin in the reference's names: enc",)
