"""float32 means float64 for a while: casts by hand, both frameworks, and nothing left behind."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax._src.dtypes as jax_dtypes
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from torch.overrides import _get_current_function_mode_stack

from parity_tests import Bridge, Rule, compare, lift_float32, locate
from parity_tests.hand_cast_decoders import llama, neox, weights_of

SAME = 1e-14  # relative rms
RANDOM = np.random.default_rng(0)
SIZES: dict[str, Any] = dict(
    vocab_size=23,
    hidden_size=24,
    intermediate_size=29,
    num_hidden_layers=1,
    num_attention_heads=3,
    max_position_embeddings=32,
)
SMALL = 0.02  # of activations at which an epsilon of 1e-5 is not one of 1e-6


def distance(ref: Any, port: Any) -> float:
    (tensor,) = compare(ref, port).tensors
    return tensor.ratio * 1e-12


def _add(total: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
    return total + row.astype(jnp.float32), None


@pytest.mark.parametrize(
    ("ask", "reaches"),
    [
        (lambda x: x.astype(jnp.float32), "the method"),
        (lambda x: x.astype("float32"), "a name"),
        (lambda x: x.astype(np.float32), "NumPy's type"),
        (lambda x: jax.lax.convert_element_type(x, jnp.float32), "convert_element_type"),
        (lambda x: jnp.asarray(x, dtype=jnp.float32), "asarray"),
        (lambda x: jnp.float32(0.1) * jnp.ones(3, "float32"), "constructors"),
        (lambda x: jnp.zeros(3, jnp.float32), "zeros"),
        (lambda x: jnp.arange(3, dtype=jnp.float32), "arange"),
        (lambda x: jnp.sum(x, dtype=jnp.float32), "sum"),
        (lambda x: jnp.dot(x, x.T, preferred_element_type=jnp.float32), "preferred type"),
        (lambda x: jnp.sqrt(jnp.arange(3, dtype=jnp.int32)), "of integers"),
        (lambda x: jnp.mean(jnp.arange(3, dtype=jnp.int32)), "a mean of integers"),
        (lambda x: jax.random.normal(jax.random.key(0), (3,), jnp.float32), "random"),
        (lambda x: jax.jit(lambda y: y.astype(jnp.float32))(x), "under jit"),
        (lambda x: jax.lax.scan(_add, jnp.zeros(3, "float32"), x)[0], "scan"),
        (lambda x: nnx.LayerNorm(3, rngs=nnx.Rngs(0), dtype=jnp.float32)(x), "NNX's dtype"),
        (lambda x: nnx.BatchNorm(3, rngs=nnx.Rngs(0)).mean[...], "NNX's statistics"),
        (
            lambda x: nn.LayerNorm(dtype=jnp.float32).init_with_output(jax.random.key(0), x)[0],
            "Linen's dtype",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_jax_gives_float64(ask: Callable[[jax.Array], jax.Array], reaches: str) -> None:
    with lift_float32():
        assert ask(jnp.asarray(RANDOM.normal(size=(2, 3)))).dtype == jnp.float64
    with jax.enable_x64(True):
        assert ask(jnp.asarray(RANDOM.normal(size=(2, 3)))).dtype == jnp.float32


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.to("cpu", torch.float32),
        lambda x: x.type(torch.float32),
        lambda x: x.type("torch.FloatTensor"),
        lambda x: torch.softmax(x, -1, torch.float32),
        lambda x: torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32),
        lambda x: torch.zeros(3, dtype=torch.float32),
        lambda x: torch.zeros(3),
        lambda x: torch.tensor(0.1),
        lambda x: torch.arange(3) / 7,
        lambda x: torch.zeros_like(x, dtype=torch.float32),
        lambda x: torch.nn.Linear(3, 2).weight,
        lambda x: torch.nn.Linear(3, 2, dtype=torch.float32).weight,
        lambda x: torch.nn.Linear(3, 2).double().to(torch.float32).weight,
        lambda x: torch.nn.Linear(3, 2).double().float().weight,
        lambda x: torch.nn.BatchNorm1d(3).running_mean,
        lambda x: torch.set_default_dtype(torch.float32) or torch.ones(1),
    ],
)
def test_torch_gives_float64(ask: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with lift_float32():
        assert ask(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert ask(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float32


def test_values_are_not_rounded_on_the_way() -> None:
    with lift_float32():
        assert torch.tensor(0.1).item() == torch.tensor([0.1], dtype=torch.float32).item() == 0.1
        assert float(jnp.float32(0.1)) == float(jnp.full((), 0.1, "float32")) == 0.1


def test_halves_bits_and_integers_are_left_alone() -> None:
    with lift_float32():
        assert jnp.ones(2).astype(jnp.bfloat16).dtype == jnp.bfloat16
        assert torch.ones(2).to(torch.bfloat16).dtype == torch.bfloat16
        assert torch.ones(2).half().dtype == torch.float16
        bits = np.float32(1.5).view(np.int32)
        assert jnp.asarray([bits]).astype(jnp.int32).view(jnp.float32).item() == 1.5
        assert torch.tensor([bits], dtype=torch.int32).view(torch.float32).item() == 1.5


def everything() -> list[Any]:
    """What the lift touches, as a program sees it."""
    return [
        jax_dtypes._maybe_canonicalize_explicit_dtype,
        jax_dtypes._dtype_to_inexact,
        torch.set_default_dtype,
        torch.get_default_dtype(),
        len(_get_current_function_mode_stack()),
        jax.config.read("jax_enable_x64"),
        str(jnp.ones(1, "float32").dtype),
        torch.ones(1, dtype=torch.float64).float().dtype,
    ]


def test_everything_is_restored_by_an_exception_and_when_nested() -> None:
    before = everything()
    with contextlib.suppress(KeyError), lift_float32(), lift_float32():
        raise KeyError
    assert everything() == before
    with lift_float32():
        with lift_float32():
            pass
        assert jnp.ones(1, "float32").dtype == jnp.float64
        assert torch.ones(1).float().dtype == torch.float64
    assert everything() == before
    torch.set_default_dtype(torch.float64)
    try:
        with lift_float32():
            torch.set_default_dtype(torch.bfloat16)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_traces_are_neither_read_nor_left_behind() -> None:
    made = []

    @jax.jit
    def narrow(x: jax.Array) -> jax.Array:
        made.append(str(x.astype(jnp.float32).dtype))
        return x.astype(jnp.float32)

    with jax.enable_x64(True):
        x = jnp.ones(2)
        assert narrow(x).dtype == jnp.float32
        with lift_float32():
            assert narrow(x).dtype == jnp.float64
        assert narrow(x).dtype == jnp.float32
    assert made == ["float32", "float64"]


def test_another_thread_is_not_lifted_and_the_last_one_out_restores() -> None:
    before = everything()
    entered, leave, found = threading.Event(), threading.Event(), []

    def hold() -> None:
        with lift_float32():
            entered.set()
            leave.wait(10)
            found.append(jnp.ones(1, "float32").dtype)

    thread = threading.Thread(target=hold)
    with lift_float32():
        thread.start()
        assert entered.wait(10)
    assert jnp.ones(1, "float32").dtype == jnp.float32  # while the other thread is inside
    assert torch.ones(1, dtype=torch.float64).float().dtype == torch.float32
    leave.set()
    thread.join()
    assert found == [jnp.float64]
    assert everything() == before


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.nn.softmax(x @ x.T),
        lambda x: jax.scipy.special.gammaln(jnp.abs(x)) + jax.scipy.special.erfinv(jnp.tanh(x)),
        lambda x: jnp.fft.fft(x).real,
        lambda x: jnp.linalg.qr(x)[0],
        lambda x: jax.random.normal(jax.random.key(3), x.shape, x.dtype) * jnp.std(x),
        lambda x: jax.nn.gelu(x).at[0].set(1),
    ],
)
def test_what_asks_for_no_float32_gives_the_same_bits(function: Callable[[Any], Any]) -> None:
    x = RANDOM.normal(size=(5, 5))
    with jax.enable_x64(True):
        plain = np.asarray(function(jnp.asarray(x)))
    with lift_float32():
        np.testing.assert_array_equal(np.asarray(function(jnp.asarray(x))), plain)


def test_attention_of_jax_itself() -> None:
    """Its softmax is in float32 whatever comes in."""
    q, k, v = RANDOM.normal(size=(3, 2, 7, 3, 5))
    tensors = [torch.from_numpy(a).transpose(1, 2) for a in (q, k, v)]
    attend: Any = torch.nn.functional.scaled_dot_product_attention
    ref = attend(*tensors, is_causal=True).transpose(1, 2)

    def port() -> jax.Array:
        return jax.nn.dot_product_attention(*map(jnp.asarray, (q, k, v)), is_causal=True)

    with lift_float32():
        assert distance(ref, port()) <= SAME
    with jax.enable_x64(True):
        assert distance(ref, port()) > 1e-9


@pytest.mark.parametrize("kind", ["llama", "qwen2", "neox"])
def test_decoders_with_casts_by_hand(kind: str) -> None:
    """transformers' models; a correct port is within 1e-14, a wrong epsilon is seen."""
    tokens = RANDOM.integers(0, 23, (2, 7))

    def distances() -> list[float]:
        """Of the correct port, and of one with an epsilon of 1e-5 for 1e-6."""
        torch.manual_seed(0)
        model, port = built(kind)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0, SMALL)
            ref = model(torch.from_numpy(tokens)).logits
        both = jax.jit(lambda *given: [port(*given, model.config, e) for e in (1e-6, 1e-5)])
        return [distance(ref, logits) for logits in both(weights_of(model), jnp.asarray(tokens))]

    with lift_float32():
        right, wrong = distances()
    assert right <= SAME
    assert wrong > 1e-4


def built(kind: str) -> tuple[torch.nn.Module, Callable[..., jax.Array]]:
    if kind == "neox":
        sizes: dict[str, Any] = SIZES | dict(rotary_pct=1 / 4, layer_norm_eps=1e-6)
        config = transformers.GPTNeoXConfig(**sizes)
        return transformers.GPTNeoXForCausalLM(config).eval(), neox
    sizes = SIZES | dict[str, Any](
        num_key_value_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=False
    )
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval(), llama
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes)).eval(), llama


class RMSNorm(torch.nn.Module):
    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = torch.nn.Parameter(torch.rand(5)), epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * h.to(x.dtype)


class CastNorm(nnx.Module):
    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        self.weight, self.epsilon = nnx.Param(jnp.asarray(weight.detach().numpy())), epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x.astype(jnp.float32)
        h = h * jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + self.epsilon)
        return self.weight[...] * h.astype(x.dtype)


def located(epsilon: float) -> Any:
    bridge = Bridge([Rule("{i}.weight", "layers.{i}.weight")])
    ref = torch.nn.Sequential(RMSNorm(1e-6), RMSNorm(1e-6)).double()
    norms = [CastNorm(norm.get_parameter("weight"), 1e-6) for norm in ref]
    norms[1].epsilon = epsilon
    x = RANDOM.normal(size=(2, 7, 5))
    return locate(ref, nnx.Sequential(*norms), x, {"{i}": "layers.{i}"}, bridge=bridge)


def test_locate_forward_and_backward_inside() -> None:
    with lift_float32():
        assert located(1e-6).ok
        (guilty,) = located(1e-5).guilty
    assert guilty.name == "1"
    with jax.enable_x64(True):  # without the lift both norms look wrong
        assert not located(1e-6).ok
