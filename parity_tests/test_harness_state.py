"""Same function, other state: buffers against variables, call by call."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests import LINEAR, Bridge, Rule, StateReport, compare_state, to_float64

pytest_plugins = ["parity_tests.plugin"]
pytestmark = pytest.mark.usefixtures("parity")  # x64 is on

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(1, 2, size=(7, 3))
BRIDGE = Bridge(
    [
        Rule("fc.weight", "fc.kernel", LINEAR),
        Rule("bn.weight", "bn.scale"),
        Rule("bn.running_mean", "bn.mean"),
        Rule("bn.running_var", "bn.var"),
        Rule("**.bias", "**.bias"),
    ],
    ignore=["**.num_batches_tracked"],
)


class Reference(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.fc(x))


class BatchNorm(nnx.BatchNorm):
    """Flax's, but for what torch does otherwise: the running variance is the unbiased one."""

    unbiased = True

    def __call__(self, x: jax.Array) -> jax.Array:
        before = self.var[...]
        y = super().__call__(x)
        if self.unbiased and not self.use_running_average:
            n = x.shape[0]
            self.var[...] = before + (1 - self.momentum) * (x.var(0) * n / (n - 1) - before)
        return y


class Port(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, **options: Any) -> None:
        self.fc = nnx.Linear(3, 5, rngs=rngs)
        self.bn = BatchNorm(5, rngs=rngs, epsilon=1e-5, **{"momentum": 0.9, **options})

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.fc(x))


class LinenPort(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(5, name="fc", param_dtype=jnp.float64)(x)
        return nn.BatchNorm(
            use_running_average=False,
            momentum=self.momentum,
            epsilon=1e-5,
            param_dtype=jnp.float64,
            name="bn",
        )(x)


class Wanting(nn.Module):
    """Drops, and needs the random numbers for it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.BatchNorm(False, param_dtype=jnp.float64, name="bn")(nn.Dense(5, name="fc")(x))
        return nn.Dropout(0.5, deterministic=False)(x)


def wanting(ref: Any) -> Any:
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return Wanting().bind(Wanting().init(keys, X))


def reference() -> Reference:
    torch.manual_seed(0)
    ref = Reference().double()
    with torch.no_grad():
        for value in (*ref.parameters(), ref.get_buffer("bn.running_mean")):
            value.normal_()
        ref.get_buffer("bn.running_var").uniform_(1, 2)
    return ref


def port_of(ref: Reference, **options: Any) -> Port:
    return BRIDGE.to_port(ref, to_float64(Port(nnx.Rngs(0), **options)))


def state_of(
    change: Callable[[Reference, Port], Any] = lambda *_: None, **options: Any
) -> StateReport:
    ref = reference()
    port = port_of(ref, **options)
    change(ref, port)
    return compare_state(ref, port, X, bridge=BRIDGE)


def test_the_same_state() -> None:
    report = state_of()
    assert report.outcome == "same"
    assert report.verdict == "same function, same state: 2 buffers, 3 calls"
    assert report.not_compared == ("bn.num_batches_tracked (the bridge has no rule for it)",)
    assert "modes of the reference: fc training, bn training" in str(report)
    assert "modes of the port: bn use_running_average=False" in str(report)
    assert max(max(series) for series in report.differences.values()) < 1e-14


def test_neither_model_is_changed() -> None:
    ref = reference()
    port = port_of(ref)
    before = ref.get_buffer("bn.running_mean").clone(), np.asarray(port.bn.mean[...])
    compare_state(ref, port, X, bridge=BRIDGE)
    assert torch.equal(ref.get_buffer("bn.running_mean"), before[0])
    np.testing.assert_array_equal(np.asarray(port.bn.mean[...]), before[1])


def test_another_momentum() -> None:
    report = state_of(momentum=0.99)
    assert report.outcome == "state differs"
    assert report.verdict.startswith("same function, state differs: bn.running_mean by ")
    assert report.verdict.endswith("after 3 calls")
    assert "bn.running_var moves 0.1 times as far in the port's first call: its momentum?" in (
        report.remarks
    )


def test_a_biased_variance() -> None:
    report = state_of(lambda ref, port: setattr(port.bn, "unbiased", False))
    assert report.outcome == "state differs"
    assert report.verdict.startswith("same function, state differs: bn.running_var by ")
    assert report.differences["bn.running_mean"][-1] < 1e-14
    assert report.differences["bn.running_var"][0] == 0


def test_frozen_statistics() -> None:
    class Frozen(BatchNorm):
        def __call__(self, x: jax.Array) -> jax.Array:
            before = self.mean[...], self.var[...]
            y = super().__call__(x)
            self.mean[...], self.var[...] = before
            return y

    report = state_of(lambda ref, port: setattr(port.bn, "__class__", Frozen))
    assert report.outcome == "state differs"
    assert "bn.running_mean never changes in the port" in report.remarks


def test_a_polluted_buffer() -> None:
    report = state_of(lambda ref, port: ref.get_buffer("bn.running_mean").add_(1))
    assert report.outcome == "state differs"
    assert "bn.running_mean by" in report.verdict
    assert report.verdict.endswith("before the first call")


@pytest.mark.parametrize("side", ["reference", "port"])
def test_a_layer_in_eval_mode_on_one_side(side: str) -> None:
    def change(ref: Reference, port: Port) -> None:
        ref.bn.eval() if side == "reference" else port.eval()

    report = state_of(change)
    assert report.outcome == "differs"
    assert report.verdict.startswith("differs: the output by ")
    modes = ("eval", "False") if side == "reference" else ("training", "True")
    assert f"bn: {modes[0]} in the reference, use_running_average={modes[1]} in the port" in (
        report.remarks
    )


def test_a_weight_that_differs_at_the_start() -> None:
    report = state_of(lambda ref, port: port.fc.kernel.set_value(port.fc.kernel[...] * 2))
    assert report.outcome == "differs"
    assert report.verdict.startswith("differs: the weight fc.weight by 1.0e+00 before the first")


def narrow(ref: Reference, port: Port) -> None:
    """As nnx.BatchNorm has them of itself, whatever its param_dtype."""
    for statistic, name in ((port.bn.mean, "running_mean"), (port.bn.var, "running_var")):
        buffer = ref.get_buffer(f"bn.{name}")
        buffer.copy_(buffer.float())
        statistic.set_value(statistic[...].astype(jnp.float32))


def test_statistics_in_float32_are_said_by_dtype_and_value() -> None:
    report = state_of(narrow)
    assert report.outcome == "state differs"
    assert "bn.running_var is float32 in the port, float64 in the reference" in report.verdict
    assert "its value right (by " in report.verdict
    assert 0 < report.differences["bn.running_var"][-1] < 1e-6
    report = state_of(narrow, momentum=0.99)
    assert "bn.running_var by" in report.verdict
    assert "bn.running_var is float32 in the port, float64 in the reference" in report.remarks


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_linen_without_a_bridge(momentum: float) -> None:
    """Linen's running variance is the biased one: that is all that differs."""
    ref = reference()
    values = {name: jnp.asarray(value.numpy()) for name, value in ref.state_dict().items()}
    variables = {
        "params": {
            "fc": {"kernel": values["fc.weight"].T, "bias": values["fc.bias"]},
            "bn": {"scale": values["bn.weight"], "bias": values["bn.bias"]},
        },
        "batch_stats": {"bn": {"mean": values["bn.running_mean"], "var": values["bn.running_var"]}},
    }
    report = compare_state(ref, LinenPort(momentum).bind(variables), X)
    assert report.outcome == "state differs"
    assert f"state differs: bn.running_{'var' if momentum == 0.9 else 'mean'} by" in report.verdict
    assert (report.differences["bn.running_mean"][-1] < 1e-14) == (momentum == 0.9)
    assert "modes of the port: bn use_running_average=False" in str(report)
    assert "not compared: the weights (no bridge)" in str(report)


def test_keywords_layouts_and_outputs() -> None:
    class Wrapped(Port):
        def __call__(self, *, rows: jax.Array) -> Any:
            return {"y": super().__call__(rows.T).T}

    ref = reference()
    port = BRIDGE.to_port(ref, to_float64(Wrapped(nnx.Rngs(0))))
    report = compare_state(
        ref, port, {"x": X}, bridge=BRIDGE, port_inputs={"rows": X.T}, output=lambda r: r["y"].T
    )
    assert report.ok, report


@pytest.mark.parametrize(
    ("ref", "port", "error", "words"),
    [
        (lambda: reference().eval(), port_of, ValueError, r"call ref\.train\(\) first"),
        (lambda: reference().float(), port_of, ValueError, r"call ref\.double\(\) first"),
        (
            reference,
            lambda ref: eqx.nn.Linear(3, 5, key=jax.random.key(0)),
            TypeError,
            "keeps no state that a call could change: compare what it returns",
        ),
        (reference, lambda ref: jnp.sin, TypeError, "keeps no state"),
        (reference, wanting, ValueError, "^the port asks for random numbers that it was not given"),
        (
            lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0)).double(),
            lambda ref: to_float64(nnx.Sequential(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))),
            ValueError,
            "no buffer is compared: 0.running_mean",
        ),
        (
            lambda: torch.nn.Sequential(torch.nn.Linear(3, 3)).double(),
            lambda ref: to_float64(nnx.BatchNorm(3, rngs=nnx.Rngs(0))),
            ValueError,
            "no buffer is compared: mean of the port",
        ),
    ],
)
def test_refusals(ref: Any, port: Any, error: type[Exception], words: str) -> None:
    model = ref()
    with pytest.raises(error, match=words):
        compare_state(model, port(reference() if port is port_of else model), X)


def with_dropout(deterministic: bool | None) -> Any:
    class Dropping(Port):
        drop: nnx.Dropout

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.drop(super().__call__(x), deterministic=deterministic)

    port: Any = port_of(reference())
    port.__class__ = Dropping
    port.drop = nnx.Dropout(0.1, rngs=nnx.Rngs(0))
    return port


def test_a_layer_that_is_told_not_to_drop_is_not_refused() -> None:
    """By an argument of its call, whatever its attribute says."""
    ref = reference()
    ref.drop = torch.nn.Dropout(0.1).eval()
    report = compare_state(ref, with_dropout(deterministic=True), X, bridge=BRIDGE)
    assert report.ok, report
    assert "drop drops nothing" in str(report)
    assert not report.remarks


def test_layers_that_drop_are_named() -> None:
    ref = reference()
    ref.drop = torch.nn.Dropout(0.1)
    with pytest.raises(ValueError, match="dropout is active in drop of the reference"):
        compare_state(ref, port_of(reference()), X, bridge=BRIDGE)
    port: Any = with_dropout(deterministic=None)
    with pytest.raises(ValueError, match="dropout is active in drop of the port"):
        compare_state(reference(), port, X, bridge=BRIDGE)
