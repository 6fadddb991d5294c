"""Numbers that are none, or absurd: each flag and each argument has its domain, and says so."""

import json
import math
import shutil

import jax
import pytest
from flax import nnx
from safetensors.numpy import save_file

import jax_attn as ja
import train
from jax_attn.evaluate import __main__ as evaluate_cli
from jax_attn.generate import __main__ as generate_cli
from jax_attn.interop import __main__ as interop_cli
from tests.in_process import SHORT, finished_run, one_line
from tests.small_models import filled

pytestmark = pytest.mark.usefixtures("no_pictures", "unchecked")

NAN, INF, HUGE = math.nan, math.inf, 10**30
KEY = jax.random.key(0)


FLAGS = [
    ("--steps", "1000000000000", "steps is 1000000000000; it must be at most 2147483647"),
    ("--batch-size", "1000000000000", "batch_size is 1000000000000; it must be at most"),
    ("--batch-size", "2000000000", "a batch of 2,000,000,000 sequences would take"),
    ("--block-size", "1000000000000", "block_size is 1000000000000; it must be at most"),
    ("--sample-tokens", "3000000000", "sample_tokens is 3000000000; it must be at most"),
    ("--eval-every", "1" + "0" * 22, "eval_every is 1" + "0" * 22 + "; it must be at most"),
    ("--eval-every", "0", "eval_every is 0; it must be greater than 0"),
    ("--checkpoint-every", "-5", "checkpoint_every is -5; it must be greater than 0"),
    ("--accumulate-steps", "-1", "accumulate_steps is -1; it must be at least 0"),
    ("--seed", "4294967296", "seed is 4294967296; it must be at most 4294967295"),
    ("--learning-rate", "nan", "learning_rate is nan; it must be a number"),
    ("--learning-rate", "inf", "learning_rate is inf; it must be at most 1e+06"),
    ("--learning-rate", "1e-300", "learning_rate is 1e-300; it must be at least 1.1754944e-38"),
    ("--optimizer.beta1", "nan", "beta1 is nan; it must be a number"),
    ("--optimizer.beta2", "0.99999999999", "beta2 is 0.99999999999; it must be at most 0.99999994"),
    ("--optimizer.epsilon", "inf", "epsilon is inf; it must be at most 3.4028235e+38"),
    ("--optimizer.epsilon", "0", "epsilon is 0.0; it must be greater than 0"),
    ("--optimizer.weight-decay", "nan", "weight_decay is nan; it must be a number"),
    ("--optimizer.clip-norm", "nan", "clip_norm is nan; it must be a number"),
    ("--optimizer.clip-norm", "inf", "clip_norm is inf; it must be at most 3.4028235e+38"),
    ("--optimizer.warmup-steps", "1000000000000", "warmup_steps is 1000000000000; it must be at"),
    ("--optimizer.final-fraction", "nan", "final_fraction is nan; it must be a number"),
    ("--optimizer.schedule-steps", "0", "schedule_steps is 0; it must be greater than 0"),
    ("--optimizer.schedule-steps", "1e3", "schedule_steps is '1e3'; it must be an integer from 1"),
    ("--steps", "1e3", "steps is '1e3'; it must be an integer from 1 to 2147483647"),
    ("--steps", "many\nmore", r"steps is 'many\nmore'; it must be an integer from 1 to 2147483647"),
    ("--batch-size", "", "batch_size is ''; it must be an integer from 1 to 2147483647"),
    ("--seed", "0x10", "seed is '0x10'; it must be an integer from 0 to 4294967295"),
    ("--eval-tokens", "all", "eval_tokens is 'all'; it must be an integer from 0 to 2147483647"),
    ("--learning-rate", "1/3", "learning_rate is '1/3'; it must be a number from 1.1754944e-38 to"),
    ("--optimizer.beta2", "0,99", "beta2 is '0,99'; it must be a number from 0 to 0.99999994"),
]


@pytest.mark.parametrize(
    ("flag", "value", "said"), [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in FLAGS]
)
def test_a_training_flag_outside_its_domain(call, text, tmp_path, flag, value, said):
    arguments = ["bigram", *SHORT, "--data", text, "--out", tmp_path / "run", flag, value]
    assert said in one_line(call(train.main, *arguments))
    assert not (tmp_path / "run").exists()


MODELS = [
    ("mini", "--model.dropout-rate", "nan", "dropout_rate is nan; it must be a number"),
    ("mini", "--model.layer-norm-epsilon", "inf", "layer_norm_epsilon is inf; it must be at most"),
    ("mini", "--model.vocab-size", "3", "model.vocab_size is 3, but the text's tokens are"),
    ("mini", "--model.vocab-size", "-1", "vocab_size is -1; it must be at least 0"),
    ("mini", "--model.dropout-rate", "half", "dropout_rate is 'half'; it must be a number fro"),
    ("mini", "--model.n-layer", "1000000000", "the model's parameters and their moments would ta"),
    ("head", "--model.n-embd", "1000000000", "the model's parameters and their moments would ta"),
    ("head", "--model.head-size", "1000000000000", "head_size is 1000000000000; it must be at mo"),
]


@pytest.mark.parametrize(
    ("preset", "flag", "value", "said"),
    [pytest.param(*row, id=f"{row[0]} {row[1]} {row[2]}") for row in MODELS],
)
def test_a_model_of_an_impossible_size(call, text, tmp_path, preset, flag, value, said):
    arguments = [preset, *SHORT, "--data", text, "--out", tmp_path / "run", flag, value]
    assert said in one_line(call(train.main, *arguments))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    """A finished run of a bigram table, and its text."""
    return finished_run(tmp_path_factory.mktemp("made"), *SHORT) / "run"


SAMPLING = [
    ("--temperature", "nan", "temperature is nan; it must be a number"),
    ("--temperature", "inf", "temperature is inf; it must be at most 1e+30"),
    ("--temperature", "-0.1", "temperature is -0.1; it must be at least 0"),
    ("--top-k", "-3", "top_k is -3; it must be greater than 0"),
    ("--top-k", str(HUGE), f"top_k is {HUGE}; it must be at most 2147483647"),
    ("--top-p", "0", "top_p is 0.0; it must be greater than 0"),
    ("--top-p", "nan", "top_p is nan; it must be a number"),
    ("--top-p", "-0.5", "top_p is -0.5; it must be greater than 0"),
    ("--top-p", "1.01", "top_p is 1.01; it must be at most 1"),
    ("--num-samples", "0", "--num-samples is 0; it must be greater than 0"),
    ("--num-samples", str(HUGE), f"--num-samples is {HUGE}; it must be at most 2147483647"),
    ("--tokens", "-1", "--tokens is -1; it must be greater than 0"),
    ("--tokens", "3000000000", "--tokens is 3000000000; it must be at most 2147483647"),
    ("--tokens", "2147483647", "tokens are more than places can be counted in int32"),
    ("--seed", "-1", "--seed is -1; it must be at least 0"),
    ("--seed", "mine", "--seed is 'mine'; it must be an integer from 0 to 4294967295"),
    ("--tokens", "1e3", "--tokens is '1e3'; it must be an integer from 1 to 2147483647"),
    ("--temperature", "hot", "temperature is 'hot'; it must be a number from 0 to 1e+30"),
    ("--top-k", "5.0", "top_k is '5.0'; it must be an integer from 1 to 2147483647"),
    ("--seed", str(HUGE), f"--seed is {HUGE}; it must be at most 4294967295"),
]


@pytest.mark.parametrize(
    ("flag", "value", "said"), [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in SAMPLING]
)
def test_a_sampling_flag_outside_its_domain(call, made, flag, value, said):
    assert said in one_line(call(generate_cli.main, made, flag, value))


EVALUATION = [
    ("--block-size", "0", "--block-size is 0; it must be greater than 0"),
    ("--block-size", str(HUGE), f"--block-size is {HUGE}; it must be at most 2147483647"),
    ("--batch-size", "-1", "--batch-size is -1; it must be greater than 0"),
    ("--eval-tokens", "-1", "--eval-tokens is -1; it must be at least 0"),
    ("--block-size", "nan", "--block-size is 'nan'; it must be an integer from 1 to 2147483647"),
    (
        "--batch-size",
        "1e999",
        "--batch-size is '1e999'; it must be an integer from 1 to 2147483647",
    ),
    ("--eval-tokens", "all", "--eval-tokens is 'all'; it must be an integer from 0 to 2147483647"),
]


@pytest.mark.parametrize(
    ("flag", "value", "said"), [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in EVALUATION]
)
def test_an_evaluation_flag_outside_its_domain(call, made, flag, value, said):
    assert said in one_line(call(evaluate_cli.main, made, flag, value))


@pytest.fixture(scope="module")
def weights(made):
    """A GPT's, in a file that does not say how many heads it has."""
    config = ja.GPTConfig.gpt2(vocab_size=28, block_size=8, n_layer=1, n_head=3, n_embd=12)
    model = filled(lambda: ja.GPT(config, rngs=nnx.Rngs(0)))
    path = made.parent / "gpt.safetensors"
    save_file(ja.to_state_dict(model, "nanogpt"), path)
    return path


UNTOLD = [
    ("--n-head", "nan", "n_head is 'nan'; it must be an integer from 1 to 2147483647"),
    ("--n-head", "-1", "n_head is -1; it must be greater than 0"),
    ("--attention-scale", "inf", "attention_scale is inf; it must be at most 3.4028235e+38"),
    (
        "--attention-scale",
        "1/8",
        "attention_scale is '1/8'; it must be a number from 1.1754944e-38",
    ),
    (
        "--layer-norm-epsilon",
        "1e999",
        "layer_norm_epsilon is inf; it must be at most 3.4028235e+38",
    ),
    (
        "--layer-norm-epsilon",
        "",
        "layer_norm_epsilon is ''; it must be a number from 1.1754944e-38",
    ),
]


@pytest.mark.parametrize(
    "program",
    [pytest.param(m, id=m.__package__) for m in (generate_cli, evaluate_cli, interop_cli)],
)
@pytest.mark.parametrize(
    ("flag", "value", "said"), [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in UNTOLD]
)
def test_what_a_file_does_not_say_has_its_domain(
    call, weights, tmp_path, program, flag, value, said
):
    arguments = ["--n-head", "3"] * (flag != "--n-head") + [flag, value]
    if program is interop_cli:
        arguments += ["--to", "gpt2", "--out", tmp_path / "out"]
    line = one_line(call(program.main, weights, *arguments))
    assert line.startswith(f"{program.__package__}: error: {weights}: {said}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_configuration_with_what_is_no_number(call, made, tmp_path, value):
    """Python's JSON has both."""
    shutil.copytree(made, tmp_path / "run")
    record = json.loads((made / "config.json").read_text())
    record["config"]["optimizer"]["clip_norm"] = value
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    assert f"clip_norm is {value}; it must be" in one_line(
        call(generate_cli.main, tmp_path / "run")
    )


def test_what_accumulating_changes_is_said(call):
    out = " ".join(call(train.main, "mini", "--help")[1].replace("│", " ").split())
    assert "same mean gradient, but each draws its dropout by itself" in out
