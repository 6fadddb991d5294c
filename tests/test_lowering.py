"""The training step as it is compiled for a GPU and a TPU, read on a machine that has neither."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn  # tells whether cuDNN is there

import jax_attn as ja
from jax_attn import flash

BATCH, LENGTH = 8, 1024
CONFIG = ja.GPTConfig.gpt2(n_layer=2, block_size=LENGTH)
DEVICES = {
    "cpu": None,
    "cuda": flash.Accelerator("cuda", compute_capability=9.0),
    "tpu": flash.Accelerator("tpu"),
}
OPTIMIZER = ja.make_optimizer(ja.OptimizerConfig(), 1e-3, 10)


@pytest.fixture
def device(monkeypatch, request):
    """Makes the choice of attention that it would make on another device."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    with flash.compiling_for(DEVICES[request.param]):
        yield request.param


def program(device, dtype=jnp.bfloat16, **options):
    """The text of one training step for `device`; nothing is computed."""

    def state():
        model = ja.GPT(CONFIG, rngs=nnx.Rngs(0), dtype=dtype, **options)
        return ja.TrainState.create(model, OPTIMIZER)

    tokens = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    step = jax.jit(lambda s, x, y: ja.train_step(s, x, y, OPTIMIZER))
    traced = step.trace(jax.eval_shape(state), tokens, tokens)
    return traced.lower(lowering_platforms=(device,)).as_text()


FLASH = {"cuda": "__cudnn$fmhaSoftmax", "tpu": "tpu_custom_call"}


@pytest.mark.parametrize("device", ["cuda", "tpu"], indirect=True)
def test_flash_attention_is_in_the_step_and_the_whole_logits_are_not(device):
    text = program(device)
    assert text.count(FLASH[device]) >= 2
    for rows in (f"{BATCH}x{LENGTH}", str(BATCH * LENGTH)):
        for columns in (50257, 50304):
            assert f"tensor<{rows}x{columns}x" not in text
    assert "x50304xf32" in text  # of a part
    assert f"{LENGTH}x{LENGTH}xf32" not in text  # and no whole attention weights


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_float32_falls_back_to_blocks(device):
    assert FLASH[device] not in program(device, dtype=jnp.float32)


@pytest.mark.parametrize("device", ["cuda", "tpu", "cpu"], indirect=True)
def test_the_choice_has_a_reason(device):
    choices = {
        dtype: flash.choose_implementation(LENGTH, 64, dtype, flash.accelerator())
        for dtype in ("bfloat16", "float32")
    }
    chosen = {dtype: implementation for dtype, (implementation, _) in choices.items()}
    assert (
        chosen
        == {
            "cuda": {"bfloat16": "cudnn", "float32": "blocked"},
            "tpu": {"bfloat16": "tpu_flash", "float32": "tpu_flash"},
            "cpu": {"bfloat16": "blocked", "float32": "blocked"},
        }[device]
    )
    assert all(len(reason) > 10 for _, reason in choices.values())


@pytest.mark.parametrize("device", ["tpu"], indirect=True)
def test_matrix_products_take_bfloat16_and_add_in_float32(device):
    """The logits are not rounded before the loss."""
    text = program(device)
    assert any(
        "stablehlo.dot_general" in line and "bf16>, tensor" in line and "x50304xf32>" in line
        for line in text.splitlines()
    )
