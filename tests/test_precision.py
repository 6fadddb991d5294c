"""`--precision`: what reaches the programs of a run, what stays as it was, and what is said."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import jax_attn as ja
import jax_attn.training.step
import train
from jax_attn.compiling.precision import describe_products, products
from jax_attn.config import BigramShape
from jax_attn.generate import __main__ as generate_cli
from jax_attn.nn.flash import Accelerator

pytestmark = pytest.mark.usefixtures("no_pictures")

CONFIG = ja.TrainConfig(
    model=BigramShape(), steps=4, batch_size=4, block_size=24, learning_rate=1e-2, eval_every=2,
    checkpoint_every=2,
)  # fmt: skip
TORCH = replace(CONFIG, rng="torch")
AMPERE, TURING, TPU = Accelerator("cuda", 8.0), Accelerator("cuda", 7.5), Accelerator("tpu")


def traced_with(config):
    with products(config):
        text = str(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2))))
    return {name for name in ("DEFAULT", "HIGH", "HIGHEST") if f"Precision.{name})" in text}


def test_a_product_has_the_precision_that_is_asked_for():
    with jax.default_matmul_precision(None):
        assert traced_with(CONFIG) == set()
        assert traced_with(replace(CONFIG, precision="high")) == {"HIGH"}
        assert traced_with(replace(CONFIG, precision="highest")) == {"HIGHEST"}
        assert traced_with(TORCH) == {"HIGHEST"}
        assert traced_with(replace(TORCH, precision="high")) == {"HIGH"}


def test_who_asks_for_nothing_keeps_jaxs_own_setting():
    with jax.default_matmul_precision("high"):
        assert traced_with(CONFIG) == {"HIGH"}


@pytest.fixture
def seen(monkeypatch):
    """Under which precision each of a run's programs is traced."""
    seen = {}

    def note(owner, name):
        function = getattr(owner, name)

        def noting(*args, **kwargs):
            seen.setdefault(name, set()).add(jax.config.jax_default_matmul_precision)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, noting)

    note(jax_attn.training.step, "train_step")
    note(jax_attn.training.step, "loss_fn")
    note(ja.SingleHeadLanguageModel, "prefill")
    note(ja.SingleHeadLanguageModel, "step")
    return seen


def test_every_program_of_a_run_has_it_and_nobody_else(call, text, tmp_path, seen):
    arguments = ["head", "--model.n-embd", 10, "--block-size", 24, "--batch-size", 4, "--steps", 2]
    arguments += ["--sample-tokens", 5, "--data", text, "--precision", "high"]
    run = tmp_path / "run"
    assert call(train.main, *arguments, "--out", run)[0] == 0
    assert seen == {name: {"high"} for name in ("train_step", "loss_fn", "prefill", "step")}
    seen.clear()
    assert call(train.main, "--resume", run, "--steps", 3)[0] == 0
    assert seen["train_step"] == {"high"}
    seen.clear()
    assert call(generate_cli.main, run, "--tokens", 7, "--prompt", "the")[0] == 0
    assert seen["prefill"] == {"high"}
    assert jax.config.jax_default_matmul_precision == "highest"  # the tests' own


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        (None, "default", "products in full float32"),
        (AMPERE, "default", "products in TF32 (--precision highest for full float32)"),
        (AMPERE, "high", "products in TF32 (--precision highest for full float32)"),
        (AMPERE, "highest", "products in full float32"),
        (TURING, "default", "products in full float32"),
        (TPU, "default", "products rounded to bfloat16 (--precision highest for full float32)"),
        (TPU, "high", "products in three bfloat16 passes (--precision highest for full float32)"),
        (TPU, "highest", "products in six bfloat16 passes, which is full float32"),
        (Accelerator("rocm"), "high", "products of JAX's precision 'high'"),
    ],
)
def test_what_is_said(device, precision, said):
    with jax.default_matmul_precision(None):
        assert describe_products(replace(CONFIG, precision=precision), device) == said


def test_jaxs_own_setting_is_said_too():
    with jax.default_matmul_precision("float32"):
        assert describe_products(CONFIG, AMPERE) == "products in full float32"
    with jax.default_matmul_precision("BF16_BF16_F32"):
        assert describe_products(CONFIG, TPU) == "products of JAX's precision 'BF16_BF16_F32'"
