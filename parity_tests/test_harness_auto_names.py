"""`names="auto"` and pairs of layers that hold other weights: by the rules, by number, by taps."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch

from parity_tests import LINEAR, Bridge, Location, Rule, locate, tap
from parity_tests.small_pairs import AB, Port, Torch, X, guilty, linear, pair

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
