"""Every measure of the comparison can fail, and none fails on a correct port."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests.harness.budgets import BUDGETS, FORWARD, LOSS, SEMANTIC, Budget
from parity_tests.harness.compare import (
    Report,
    assert_parity,
    compare,
    merge,
    rms,
)

SHAPE = (2, 7, 5)


def _random(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _message(report: Report) -> str:
    """Of the only tensor, which must have failed."""
    (tensor,) = report.failures
    assert not report.ok
    assert tensor.ratio == report.ratio == float("inf")
    return tensor.message


def test_every_kind_of_array_and_tree() -> None:
    """torch with a gradient, jax, NumPy; mappings, sequences, nnx.State."""
    x = _random()
    with jax.enable_x64(True):
        port = nnx.Linear(3, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        weights = nnx.state(port)
        ref = {
            "a": [torch.tensor(x, requires_grad=True), (x,)],
            "w": {
                name: torch.tensor(np.asarray(weights[name][...])) for name in ("bias", "kernel")
            },
            "nothing": None,
        }
        report = assert_parity(ref, {"a": (jnp.asarray(x), [x]), "w": weights})
    assert [t.name for t in report.tensors] == ["a.0", "a.1.0", "w.bias", "w.kernel"]
    assert report.tensors[0].shape == SHAPE
    assert report.tensors[0].ref_dtype == report.tensors[0].port_dtype == "float64"
    assert [t.name for t in compare(x, x).tensors] == ["value"]


@pytest.mark.parametrize(("relative", "ok"), [(1e-15, True), (9e-13, True), (1e-11, False)])
def test_the_semantic_budget(relative: float, ok: bool) -> None:
    x = _random()
    report = compare(x, x * (1 + relative))
    assert report.ok == ok
    assert report.ratio == pytest.approx(relative / 1e-12, rel=0.3)


def test_one_element_off_is_seen_and_placed() -> None:
    """1e-11 of one element among 70: the rms still tells."""
    x, port = _random(), _random()
    port[1, 3, 2] += 1e-10
    report = compare({"x": x}, {"x": port})
    assert not report.ok
    assert report.worst.worst_index == (1, 3, 2)
    assert report.worst.worst_values == (x[1, 3, 2], port[1, 3, 2], x[1, 3, 2])
    assert report.worst.smallest_factor == float("inf")  # no multiple of no error
    with pytest.raises(AssertionError, match=r"x: ratio .*; at \[1, 3, 2\] reference"):
        assert_parity({"x": x}, {"x": port})


def test_one_element_off_by_1e_11() -> None:
    x = np.ones(SHAPE)
    port = x.copy()
    port[0, 0, 0] += 1e-11
    assert not compare(x, port).ok


def test_a_zero_port_and_a_swapped_axis() -> None:
    x = _random(shape=(5, 5))
    assert compare(x, np.zeros_like(x)).ratio == pytest.approx(1e12)
    assert not compare(x, x.T).ok
    assert _message(compare(_random(), _random().swapaxes(1, 2))) == (
        "shape (2, 7, 5) in the reference, (2, 5, 7) in the port"
    )
    assert (
        _message(compare(np.ones(1), np.ones(()))) == "shape (1,) in the reference, () in the port"
    )


def test_missing_and_extra_tensors() -> None:
    x = _random()
    assert _message(compare({"a": x, "b": x}, {"a": x})) == "missing in the port"
    assert _message(compare({"a": x}, {"a": x, "b": x})) == "missing in the reference"
    assert _message(compare({"a": x, "b": None}, {"a": x, "b": x})) == "missing in the reference"
    assert _message(compare({"a": x, "b": x}, {"a": x, "b": x}, {"a": x})) == (
        "missing in the oracle"
    )
    with pytest.raises(ValueError, match="nothing to compare"):
        compare({}, {"a": None})
    with pytest.raises(ValueError, match=r"two tensors are called 'a\.b'"):
        compare({"a": {"b": x}, "a.b": x}, {})


def test_dtype_leaks() -> None:
    x, x32 = _random(), _random().astype(np.float32)
    leak = "float32 where float64 is asked, in the "
    assert _message(compare(x, x32)) == f"{leak}port"
    assert _message(compare(x32, x)) == f"{leak}reference"
    assert _message(compare(x32, x32)) == f"{leak}reference"
    assert _message(compare(x32, x32, x32, budget=FORWARD)) == f"{leak}oracle"
    assert _message(compare(x32, x, x, budget=FORWARD)) == (
        "float32 in the reference against float64 in the port: not one precision"
    )
    assert "floats against integers" in _message(compare(x, np.ones(SHAPE, int)))
    with pytest.raises(TypeError, match="complex128: only real and integer"):
        compare(x, x + 1j)


def test_integers_must_be_equal() -> None:
    """Token ids, of whatever width."""
    tokens = torch.arange(7)
    assert compare(tokens, jnp.arange(7)).ok
    report = compare(tokens, jnp.arange(7).at[3].set(2))
    assert (report.worst.worst_index, _message(report)) == ((3,), "integers must be equal")
    assert compare(np.array([True, False]), np.array([True, False])).ok


def test_nans_and_infinities_must_be_at_the_same_places() -> None:
    ref = _random()
    ref[0, 0], ref[0, 1, 0], ref[1, 1, 1] = np.nan, np.inf, -np.inf
    assert compare(ref, ref.copy()).ok
    assert compare(np.full(3, np.nan), np.full(3, np.nan)).ok
    for index, value in [
        ((0, 0, 0), 0.0),
        ((0, 1, 0), -np.inf),
        ((1, 1, 1), np.nan),
        ((1, 1, 2), np.nan),
    ]:
        port = ref.copy()
        port[index] = value
        report = compare(ref, port)
        assert _message(report).startswith("1 of 70 entries: NaN or infinity on one side only")
        assert report.worst.worst_index == index
    moved = ref.copy()
    moved[0, 0], moved[1, 0] = ref[1, 0], np.nan
    assert _message(compare(ref, moved)).startswith("10 of 70")
    # The finite ones still count.
    port = ref.copy()
    port[1, 6, 4] *= 1 + 1e-9
    assert not compare(ref, port).ok
    finite = np.nan_to_num(ref, posinf=1.0, neginf=1.0)
    assert not compare(ref.astype("f"), ref.astype("f"), finite, budget=FORWARD).ok


def test_an_exact_zero_allows_nothing_unless_its_scale_is_given() -> None:
    """The gradient of a key bias is zero, and rounding noise on both sides."""
    noise = 1e-17 * _random(1)
    assert "the oracle is zero everywhere" in _message(compare(np.zeros(SHAPE), noise))
    assert compare(np.zeros(SHAPE), np.zeros(SHAPE)).ok
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))).ok
    ref = {"query.bias": _random(), "key.bias": noise}
    port = {"query.bias": _random(), "key.bias": -noise}
    assert [t.name for t in compare(ref, port).failures] == ["key.bias"]
    assert compare(ref, port, scale={"key.*": rms(_random())}).ok
    assert compare(ref, port, scale=1.0).ok
    # A port whose key bias has a gradient is still caught, and so is another tensor.
    assert not compare(ref, port | {"key.bias": noise + 1e-11}, scale={"key.*": 1.0}).ok
    assert not compare(ref, port | {"query.bias": _random() + 1e-11}, scale={"key.*": 1.0}).ok
    with pytest.raises(ValueError, match=r"scale names 'kye\.\*', which no tensor matches"):
        compare(ref, port, scale={"kye.*": 1.0})


def test_the_numeric_budget_measures_both_against_the_oracle() -> None:
    """A port with the reference's own error passes; a few times that error does not."""
    oracle = _random(shape=(31, 37))
    error = 1e-5 * _random(1, (31, 37))
    ref = (oracle + error).astype(np.float32)
    for times, ok in ((-1, True), (2.9, True), (3.2, False)):
        report = compare(ref, (oracle + times * error).astype("f"), oracle, budget=FORWARD)
        assert report.ok == ok
        assert report.worst.smallest_factor == pytest.approx(abs(times), rel=0.02)
    assert not compare(ref, ref * 1.001, oracle, budget=FORWARD).ok
    exact = oracle.astype(np.float32).astype(np.float64)
    for ulps, ok in ((0.9, True), (2.5, False)):  # the floor, where the reference is exact
        port = (exact * (1 + ulps * 2.0**-23)).astype(np.float32)
        assert compare(exact.astype("f"), port, exact, budget=FORWARD).ok == ok


def test_the_loss_budget_is_eight_ulps_at_most() -> None:
    oracle = np.array(2.5)
    ref = np.float32(2.5)
    for ulps, ok in ((4, True), (20, False)):
        port = np.float32(2.5 + ulps * 2.0**-22)
        report = compare(ref, port, oracle, budget=LOSS)
        assert report.ok == ok
        assert report.worst.ulp_max == ulps


def test_bfloat16_on_both_sides() -> None:
    oracle = _random()
    ref, port = torch.tensor(oracle).bfloat16(), jnp.asarray(oracle, jnp.bfloat16)
    report = compare(ref, port, oracle, budget=BUDGETS["bfloat16"])
    assert report.ok
    assert report.worst.ref_dtype == report.worst.port_dtype == "bfloat16"
    assert report.worst.ulp_max == 0
    assert not compare(ref, port * 1.1, oracle, budget=BUDGETS["bfloat16"]).ok


def test_figures_of_the_diagnosis() -> None:
    oracle = np.full(200, 2.0)
    port = oracle.copy()
    port[7], port[8] = 2.0 * (1 + 2.0**-40), 2.0 * (1 + 2.0**-41)
    worst = compare(oracle, port).worst
    assert worst.relative_p50 == 0.0
    assert worst.relative_p99 == 2.0**-41
    assert worst.relative_max == 2.0**-40
    assert worst.ulp_max == 2.0**12
    assert worst.port_error == pytest.approx(np.sqrt(np.mean((port - oracle) ** 2)), rel=1e-12)


def test_rms_is_robust() -> None:
    assert rms(np.array([])) == 0.0
    assert rms(np.zeros(3)) == 0.0
    assert rms(np.array([3e200, 4e200])) == pytest.approx(np.sqrt(12.5) * 1e200)
    assert rms(np.array([3e-200, 4e-200])) == pytest.approx(np.sqrt(12.5) * 1e-200)
    huge = np.array([1.5e308, 1.0])
    assert compare(huge, -huge).ratio == float("inf")


def test_report_text_and_merging() -> None:
    x = _random()
    good, bad = compare({"good": x}, {"good": x}), compare({"bad": x}, {"bad": x + 1})
    both = merge([good, bad])
    assert [t.name for t in both.tensors] == ["good", "bad"]
    assert (both.ok, both.worst.name, both.budget) == (False, "bad", SEMANTIC)
    text = str(both)
    assert text.startswith("1 of 2 tensors differ (2 compared, budget semantic: ")
    assert "\n  bad" in text
    assert "\n  good" not in text
    assert str(good).startswith("parity (1 compared, budget semantic")
    mixed = merge([good, compare(x.astype("f"), x.astype("f"), x, budget=FORWARD)])
    assert (mixed.ok, mixed.budget) == (True, None)
    many = compare({f"t{i}": x for i in range(30)}, {f"t{i}": x + 1 for i in range(30)})
    assert "and 10 more" in str(many)
    with pytest.raises(ValueError, match="nothing to compare"):
        merge([])


def test_every_budget_has_a_name_and_a_reason() -> None:
    assert set(BUDGETS) >= {
        "semantic",
        "forward",
        "gradient",
        "loss",
        "update",
        "trajectory",
        "bfloat16",
    }
    for name, budget in BUDGETS.items():
        assert budget.name == name
        assert any(c.isdigit() for c in budget.reason)
        assert budget.allowed(0.0, 0.0) == 0.0
    assert Budget("b", 3.0, 0.5, "").allowed(2.0, 10.0) == 11.0
