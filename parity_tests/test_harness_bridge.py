"""The weight bridge is a bijection, and says by name when the rules are not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import jax_attn
import torch_ref
from parity_tests.harness.bridge import CONV2D, LINEAR, Bridge, BridgeError, Rule
from parity_tests.harness.patterns import Pattern

C, H, K = 15, 3, 5


# The lecture's GPT with its separate heads, to the port's fused matrix.
LECTURE_RULES = [
    *(
        Rule(
            f"blocks.{{i}}.sa.heads.{{h}}.{name}.weight",
            "blocks.{i}.sa.qkv.kernel",
            LINEAR,
            over={"h": range(H)},
            at=lambda h, part=part: np.s_[:, part * C + h * K : part * C + (h + 1) * K],
        )
        for part, name in enumerate(("query", "key", "value"))
    ),
    Rule("blocks.{i}.ffwd.net.0.weight", "blocks.{i}.ffwd.expand.kernel", LINEAR),
    Rule("blocks.{i}.ffwd.net.0.bias", "blocks.{i}.ffwd.expand.bias"),
    Rule("blocks.{i}.ffwd.net.2.weight", "blocks.{i}.ffwd.contract.kernel", LINEAR),
    Rule("blocks.{i}.ffwd.net.2.bias", "blocks.{i}.ffwd.contract.bias"),
    Rule("blocks.{i}.ln{n}.weight", "blocks.{i}.ln{n}.scale"),
    Rule("ln_f.weight", "ln_f.scale"),
    Rule("{which}_embedding_table.weight", "{which}_embedding_table.embedding"),
    Rule("**.weight", "**.kernel", LINEAR),
    Rule("**.bias", "**.bias"),
]
LECTURE = Bridge(LECTURE_RULES, ignore=["**.tril"])


@pytest.fixture(scope="module")
def lecture() -> tuple[torch.nn.Module, nnx.Module]:
    torch.manual_seed(3)
    ref = torch_ref.GPTLanguageModel(11, 7, n_layer=2, n_head=H, n_embd=C, dropout=0.1)
    config = jax_attn.GPTConfig.lecture(
        vocab_size=11, block_size=7, n_layer=2, n_head=H, n_embd=C, dropout_rate=0.1
    )
    return ref, jax_attn.GPT(config, rngs=nnx.Rngs(5))


def test_patterns_match_and_fill() -> None:
    pattern = Pattern("blocks.{i}.**.weight")
    places = pattern.match("blocks.12.sa.proj.weight")
    assert places is not None
    assert Pattern("h.{i}/**").fill(places) == "h.12/sa.proj"
    assert pattern.match("blocks.weight") is None
    assert Pattern("{a}.{a}").match("x.y") is None
    assert Pattern("conv{i}").match("convx.y") is None  # a place never spans a dot
    assert Pattern("a.b").match("axb") is None  # a dot is a dot


def test_heads_into_the_fused_matrix_as_the_port_itself_loads_them(lecture: Any) -> None:
    ref, port = lecture
    LECTURE.to_port(ref, port)
    own = jax_attn.to_state_dict(port)
    for name, value in ref.state_dict().items():
        np.testing.assert_array_equal(own[name], value.numpy(), err_msg=name)


def test_round_trip_is_exact(lecture: Any) -> None:
    ref, port = lecture
    back = LECTURE.to_reference(LECTURE.to_port(ref, port))
    weights = {name: p for name, p in ref.state_dict().items() if not name.endswith("tril")}
    assert list(back) != []
    assert set(back) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value.numpy(), err_msg=name)
    assert len(set(map(str, nnx.to_flat_state(nnx.state(port, nnx.Param))))) < len(back)  # fused


def test_gradients_take_the_same_way(lecture: Any) -> None:
    """A gradient tree whose every number is different comes back under the right names."""
    ref, port = lecture
    LECTURE.to_port(ref, port)
    gradients = jax.tree.map(lambda p: 2 * p, nnx.state(port, nnx.Param))
    mapped = LECTURE.map_gradients(gradients)
    assert set(mapped) == {name for name, _ in ref.named_parameters()}
    for name, parameter in ref.named_parameters():
        np.testing.assert_array_equal(mapped[name], 2 * parameter.detach().numpy(), err_msg=name)


def test_some_of_the_gradients(lecture: Any) -> None:
    _, port = lecture
    some = {"ln_f": nnx.state(port.ln_f), "lm_head.bias": np.ones(11)}
    assert set(LECTURE.map_gradients(some)) == {
        "ln_f.weight",
        "ln_f.bias",
        "lm_head.bias",
    }


def _linear_pair(n_in: int = 3, n_out: int = 4) -> tuple[nn.Linear, nnx.Linear]:
    return nn.Linear(n_in, n_out), nnx.Linear(n_in, n_out, rngs=nnx.Rngs(0))


LINEAR_RULES = [Rule("weight", "kernel", LINEAR), Rule("bias", "bias")]


@pytest.mark.parametrize(
    ("rules", "state", "message"),
    [
        (LINEAR_RULES[:1], {}, "bias of the reference matches no rule"),
        (LINEAR_RULES, {"bias": None}, "bias of the port is not filled (4 of 4 numbers)"),
        (LINEAR_RULES, {"extra": np.ones(2)}, "extra of the reference matches no rule"),
        (
            [*LINEAR_RULES, Rule("extra", "scale")],
            {"extra": np.ones(2)},
            "extra -> scale, which the port does not have",
        ),
        (
            [*LINEAR_RULES, Rule("again", "bias")],
            {"again": np.ones(4, "f")},
            "again -> bias, which another tensor has filled",
        ),
        (LINEAR_RULES, {"bias": np.ones(5, "f")}, "bias gives (5,) where bias has (4,)"),
        ([Rule("weight", "kernel"), LINEAR_RULES[1]], {}, "weight gives (4, 3) where kernel has"),
        (LINEAR_RULES, {"bias": np.full(4, 0.1)}, "bias float64 would be rounded to float32"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(
    rules: list[Rule], state: dict[str, Any], message: str
) -> None:
    ref, port = _linear_pair()
    before = np.array(port.kernel[...])
    given = {**ref.state_dict(), **state}
    with pytest.raises(BridgeError) as raised:
        Bridge(rules).to_port({n: v for n, v in given.items() if v is not None}, port)
    assert message in str(raised.value)
    np.testing.assert_array_equal(port.kernel[...], before)


def test_part_of_a_tensor_left_over_is_named() -> None:
    """Two of three heads fill two thirds of the fused matrix."""
    rule = Rule(
        "h.{h}.weight",
        "kernel",
        LINEAR,
        over={"h": range(2)},
        at=lambda h: np.s_[:, 2 * h : 2 * h + 2],
    )
    port = nnx.Linear(3, 6, use_bias=False, rngs=nnx.Rngs(0))
    state = {f"h.{h}.weight": np.ones((2, 3), np.float32) for h in range(2)}
    with pytest.raises(BridgeError, match=r"kernel of the port is not filled \(6 of 18 numbers\)"):
        Bridge([rule]).to_port(state, port)
    with pytest.raises(BridgeError, match="of the 18 numbers of kernel in the port, 6 match no"):
        Bridge([rule]).to_reference(port)


def test_overlapping_parts_are_refused() -> None:
    rule = Rule(
        "h.{h}.weight",
        "kernel",
        LINEAR,
        over={"h": range(2)},
        at=lambda h: np.s_[:, h : h + 2],
    )
    port = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0))
    state = {f"h.{h}.weight": np.ones((2, 3), np.float32) for h in range(2)}
    with pytest.raises(BridgeError, match=r"h\.1\.weight -> kernel, which another tensor has fill"):
        Bridge([rule]).to_port(state, port)
    with pytest.raises(BridgeError, match="3 match several"):
        Bridge([rule]).to_reference(port)


def test_rules_that_cannot_be_read_backwards_are_refused() -> None:
    """Both names lead to the kernel; which one it came from would be a guess."""
    ambiguous = [Rule("old.{w}", "{w}"), Rule("{w}", "{w}")]
    port = nnx.Linear(2, 3, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(BridgeError, match="kernel of the reference would not come back"):
        Bridge(ambiguous).to_port({"kernel": np.ones((2, 3), np.float32)}, port)


def test_places_that_only_one_side_has_are_refused() -> None:
    with pytest.raises(BridgeError, match="places of both names"):
        Bridge([Rule("blocks.{i}.weight", "kernel")])


def test_tied_tensors() -> None:
    """The reference lists the table twice; the second must agree, and comes back."""
    rules = [
        Rule("table.weight", "embedding"),
        Rule("head.weight", "embedding", alias=True),
    ]
    port = nnx.Embed(5, 3, rngs=nnx.Rngs(0))
    table = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    state = {"head.weight": table, "table.weight": table}
    bridge = Bridge(rules)
    assert set(bridge.to_reference(bridge.to_port(state, port))) == set(state)
    assert set(bridge.map_gradients(nnx.state(port))) == {"table.weight"}
    bridge.to_port({"table.weight": table}, port)
    with pytest.raises(BridgeError, match="differs from embedding, to which it is tied"):
        bridge.to_port({"head.weight": table + 1, "table.weight": table}, port)


def test_float64_needs_x64() -> None:
    ref = nn.Linear(3, 4).double()
    with jax.enable_x64(True):
        port = nnx.Linear(3, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        Bridge(LINEAR_RULES).to_port(ref, port)
        assert port.kernel[...].dtype == jnp.float64
    with pytest.raises(BridgeError, match=r"kernel is float64: do this under jax\.enable_x64"):
        Bridge(LINEAR_RULES).to_port(ref, port)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_kernels(groups: int) -> None:
    """Same weights, same function; torch keeps channels first, flax last."""
    ref = nn.Conv2d(4, 6, (3, 5), padding=(1, 2), groups=groups)
    port = nnx.Conv(4, 6, (3, 5), padding="SAME", feature_group_count=groups, rngs=nnx.Rngs(0))
    bridge = Bridge([Rule("weight", "kernel", CONV2D), Rule("bias", "bias")])
    bridge.to_port(ref, port)
    x = np.random.default_rng(0).normal(size=(2, 4, 7, 9)).astype(np.float32)
    expected = ref(torch.from_numpy(x)).detach().numpy()
    got = np.asarray(port(jnp.asarray(x.transpose(0, 2, 3, 1)))).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_array_equal(bridge.to_reference(port)["weight"], ref.weight.detach())
