"""What other people's ports have met, X1 to X19: the harness answers each rightly.

Most are control ports too (`parity_tests/ports`), which `test_ports.py` runs with faults in them;
where one shows a case, the row here is the case in its fewest lines, or says where it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests import (
    CONV1D,
    LINEAR,
    Bridge,
    Location,
    Rule,
    Twin,
    chain,
    locate,
    trace,
    weight_norm,
)
from parity_tests.small_pairs import (
    AB,
    F64,
    KW,
    RULES,
    Port,
    Torch,
    X,
    guilty,
    linear,
    located,
    pair,
)

pytestmark = pytest.mark.usefixtures("in_float64")


@dataclass
class Out:
    h: Any


class Plain:
    def __init__(self, h: Any) -> None:
        self.h = h


def fc(model: Any, x: Any) -> Any:
    return model.fc(x)


def fc_and_part(model: Any, x: Any) -> Any:
    y = model.fc(x)
    return y, y[:, 0]


def deep_parts(model: Any, x: Any) -> Any:
    y = model.fc(x)
    return y * 1, (x, y, y * 1)


def boxed(box: Any, factor: float = 2) -> Callable[[Any, Any], Any]:
    def forward(model: Any, x: Any) -> Any:
        y = model.fc(x)
        return y, box(y * factor)

    return forward


def counting_pair() -> Location:
    """A buffer that every call changes and the output depends on."""

    def forward(model: Any, x: Any) -> Any:
        model.fc.mean = model.fc.mean * 0.5 + x.mean()
        return model.fc(x) - model.fc.mean

    def call(model: Any, x: Any) -> Any:
        model.mean[...] = model.mean[...] * 0.5 + x.mean()
        return model.fc(x) - model.mean[...]

    ref, port = pair(forward, call)
    ref.fc.register_buffer("mean", torch.zeros((), dtype=torch.float64))
    port.mean = nnx.BatchStat(jnp.zeros(()))
    bridge = Bridge([Rule("fc.mean", "mean"), *RULES])
    return locate(ref, port, X, {"fc": "fc"}, bridge=bridge)


def of_arguments(of_ref: Any, of_port: Any, names: Any = None) -> Location:
    """A layer without weights, `mix`, called by both models with the arguments that each makes."""

    def model(inner: Any, arguments: Any) -> Any:
        return lambda self, x: self.mix(*arguments(self.fc(x)))

    layers = (of_ref[0], of_port[0])
    ref, port = pair(model(*of_ref), model(*of_port))
    ref.mix, port.mix = Torch(layers[0]), Port(layers[1])
    return locate(ref, port, X, names or {"**": "**"}, bridge=AB)


CARRY = (lambda self, x, h: x.tanh() + h, lambda y: (y, y * 2))
CARRY_FIRST = (lambda self, h, x: jnp.tanh(x) + h, lambda y: (y * 2, y))
BIG = -1e9
ADDED = (lambda self, y, m: (y + m).softmax(-1), lambda y: (y, (y > y.mean()).double() * BIG))
SEEN = (lambda self, y, m: jax.nn.softmax(jnp.where(m, y, BIG)), lambda y: (y, y <= y.mean()))
HIDDEN = (lambda self, y, m: jax.nn.softmax(jnp.where(m, BIG, y)), lambda y: (y, y > y.mean()))


def old_weight_norm() -> Location:
    with pytest.warns(FutureWarning, match="weight_norm"):
        ref = Torch(fc, fc=torch.nn.utils.weight_norm(torch.nn.Linear(3, 4))).double()
    bridge = Bridge(
        [
            Rule(("fc.weight_g", "fc.weight_v"), "fc.kernel", chain(weight_norm(), LINEAR)),
            Rule("fc.bias", "fc.bias"),
        ]
    )
    port = bridge.to_port(ref, Port(fc, fc=linear(3, 4)))
    return locate(ref, port, X, {"fc": "fc"}, bridge=bridge)


def one_padding_for_another(width: int) -> Location:
    """SAME of JAX against torch's padding=1, stride 2: alike for odd widths only."""
    ref = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3, 2, 1)).double()
    conv = nnx.Conv(3, 4, (3,), 2, padding="SAME", rngs=nnx.Rngs(0), **KW)
    bridge = Bridge([Rule("0.weight", "layers.0.kernel", CONV1D), Rule("0.bias", "layers.0.bias")])
    port = bridge.to_port(ref, nnx.Sequential(conv))
    x = np.random.default_rng(0).normal(size=(2, 3, width))
    axes = {"0": Twin("layers.0", (0, 2, 1)), "": Twin("", (0, 2, 1))}
    return locate(ref, port, x, axes, bridge=bridge)


def batch_norm(momentum: float) -> Location:
    """nnx keeps its statistics in float32 whatever `param_dtype` says."""
    ref = Torch(lambda m, x: m.bn(m.fc(x)), fc=torch.nn.Linear(3, 4), bn=torch.nn.BatchNorm1d(4))
    options: Any = {"momentum": momentum, "epsilon": 1e-5, "use_fast_variance": False, **KW}
    bn = nnx.BatchNorm(4, rngs=nnx.Rngs(0), **options)
    bridge = Bridge(
        [
            Rule("bn.running_mean", "bn.mean"),
            Rule("bn.running_var", "bn.var"),
            Rule("bn.weight", "bn.scale"),
            Rule("fc.weight", "fc.kernel", LINEAR),
            Rule("**.bias", "**.bias"),
        ],
        ignore=["**.num_batches_tracked"],
    )
    ref = ref.double()
    port = bridge.to_port(ref, Port(lambda m, x: m.bn(m.fc(x)), fc=linear(3, 4), bn=bn))
    return locate(ref, port, X, {"**": "**"}, bridge=bridge)


@dataclass(frozen=True)
class Case:
    ask: Callable[[], Location]
    outcome: str = "same"
    guilty: tuple[tuple[str, str], ...] = ()
    says: tuple[str, ...] = ()  # in what is printed


CASES = {
    # Also ports/states.py (running mean, spectral norm) and ports/caches.py.
    "X1 a state that the output depends on": Case(counting_pair),
    # Also ports/calls.py, TWICE.
    "X2 an output and a part of it": Case(lambda: located(fc_and_part, fc_and_part)),
    "X2 an output several times, deeply": Case(lambda: located(deep_parts, deep_parts)),
    # Also ports/calls.py (keywords, the carry) and ports/masks.py, with faults.
    "X3 (x, h) against (h, x)": Case(lambda: of_arguments(CARRY, CARRY_FIRST)),
    "X3 (x, h) against (h, x), with an adapter": Case(
        lambda: of_arguments(
            CARRY,
            CARRY_FIRST,
            {"mix": Twin("mix", inputs=lambda x, h: (h, x)), "fc": "fc"},
        )
    ),
    "X3 (x, h) against (h, x), and another function": Case(
        lambda: of_arguments(CARRY, (lambda self, h, x: jnp.sin(x) + h, CARRY_FIRST[1])),
        "differs",
        (("mix", "forward"),),
    ),
    "X3 a mask to add against one of what is seen": Case(lambda: of_arguments(ADDED, SEEN)),
    "X3 the other polarity": Case(lambda: of_arguments(ADDED, HIDDEN)),
    # Also ports/masks.py, whose port gives no weights.
    "X4 only the reference gives a second array": Case(
        lambda: located(lambda m, x: (m.fc(x), m.fc.weight * 1), fc),
        says=("model: of its results [4×3] float64, which only the reference has",),
    ),
    "X4 only the port gives a second array": Case(
        lambda: located(fc, lambda m, x: (m.fc(x), m.fc.kernel.sum())),
        says=("model: of its results [scalar] float64, which only the port has",),
    ),
    # Also ports/boxes.py.
    "X5 an array in a dataclass": Case(lambda: located(boxed(Out), boxed(Out))),
    "X5 a wrong one": Case(
        lambda: located(boxed(Out), boxed(Out, 3)), "differs", (("model", "forward"),)
    ),
    "X5 a wrong one in any object": Case(
        lambda: located(boxed(Plain), boxed(Plain, 3)), "differs", (("model", "forward"),)
    ),
    # X6 is test_harness_state.py: momentum, biased variance, frozen, polluted, modes. `locate` too:
    "X6 momentum .99 for .1": Case(
        lambda: batch_norm(0.99), "state differs", says=("same function, state differs: bn.",)
    ),
    # X7 is ports/layouts.py, ports/rotary.py and test_harness_other_layouts.py.
    # X8, X9 are test_harness_rules.py, test_ignored_names.
    # X10 is test_harness_lift.py and ports/islands.py; X11 test_harness_power.py.
    # X13 is ports/boxes.py and ports/gpt2.py: outputs of transformers, read by attribute.
    # X14 is ports/transforms.py, ports/linen_transforms.py and test_harness_taps.py.
    # X15 is ports/transforms.py, PLAIN, and test_harness_rules.py.
    "X16 bfloat16 inputs": Case(
        lambda: located(
            lambda m, x: m.fc(x.double()),
            lambda m, x: m.fc(x.astype(F64)),
            inputs=X.astype(jnp.bfloat16),
        )
    ),
    "X16 the old weight_norm": Case(old_weight_norm),
    "X16 an object on one side": Case(
        lambda: located(boxed(Out), lambda m, x: (y := m.fc(x), y * 2))
    ),
    "X16 words in each": Case(
        lambda: located(lambda m, x: (m.fc(x), "torch"), lambda m, x: (m.fc(x), "jax"))
    ),
    # Also test_harness_state.py, test_statistics_in_float32_are_said_by_dtype_and_value.
    "X18 statistics in float32, with another value": Case(
        lambda: batch_norm(0.99),
        "state differs",
        says=("bn.running_mean: the port keeps it in float32\n", "at [0] reference -0.0"),
    ),
    "X18 statistics in float32, right to that": Case(
        lambda: batch_norm(0.9),
        "state differs",  # the variance, which nnx does not divide by n - 1
        says=("bn.running_mean: the port keeps it in float32; to that, it agrees",),
    ),
    # What an input cannot show is said; the next width shows it.
    "X19 SAME for torch's padding, an odd width": Case(
        lambda: one_padding_for_another(5),
        says=("0: at size 5 torch's padding and JAX's SAME are one; at size 6 they are not",),
    ),
    "X19 SAME for torch's padding, an even width": Case(
        lambda: one_padding_for_another(6), "differs", (("0", "forward"),)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    location = case.ask()
    assert location.outcome == case.outcome, location
    assert tuple(guilty(location)) == case.guilty, location
    for words in case.says:
        assert words in str(location), location


class Unheard(eqx.Module):
    """Computes with its layer's weight, and does not call it."""

    fc: eqx.nn.Linear

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc.weight @ x


def test_x17_trace_of_an_equinox_model() -> None:
    layer = eqx.nn.Linear(3, 4, key=jax.random.key(0), dtype=F64)
    taps = trace(eqx.nn.Sequential([layer, eqx.nn.Lambda(jnp.tanh)]), X[0])
    assert set(taps) == {
        name for layer in ("layers.0", "layers.1", "model") for name in (layer, f"{layer}:input")
    }
    np.testing.assert_allclose(taps["layers.1"], np.tanh(taps["layers.0"]), rtol=1e-14)
    with pytest.raises(ValueError, match=r"no layer of this Unheard \(equinox\)"):
        trace(Unheard(layer), X[0])


def test_x16_a_model_in_bfloat16() -> None:
    layer = torch.nn.Linear(3, 4).bfloat16()
    taps = trace(layer, X.astype(jnp.bfloat16))
    assert taps["model"].dtype == taps["model:input"].dtype == jnp.bfloat16
    expected = layer(torch.from_numpy(X).bfloat16()).detach().float()
    np.testing.assert_array_equal(taps["model"].astype(np.float32), expected)
