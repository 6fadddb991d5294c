import jax
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.models import flops


def test_gpt2_takes_855_megaflop_a_token():
    """The figure of nanoGPT's convention for 124 M parameters at T 1024."""
    model = nnx.eval_shape(lambda: ja.GPT(ja.GPTConfig.gpt2(), rngs=nnx.Rngs(0)))
    assert flops.flops_per_token(model) == pytest.approx(855e6, rel=2e-3)


def test_a_table_takes_six_flop_a_parameter():
    model = ja.BigramLanguageModel(7, rngs=nnx.Rngs(0))
    assert flops.flops_per_token(model) == 6 * 49


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_figure_for_a_device_whose_peak_is_not_known(dtype):
    assert flops.utilisation(ja.BigramLanguageModel(7, rngs=nnx.Rngs(0)), 1e6, dtype) is None


def test_half_the_peak_is_one_half(monkeypatch):
    model = ja.BigramLanguageModel(7, rngs=nnx.Rngs(0))
    monkeypatch.setitem(flops.BFLOAT16_PEAK, jax.devices()[0].device_kind, 100.0)
    tokens_per_second = 50e12 / flops.flops_per_token(model)
    assert flops.utilisation(model, tokens_per_second, "bfloat16") == pytest.approx(0.5)
    assert flops.utilisation(model, tokens_per_second, "float32") is None
