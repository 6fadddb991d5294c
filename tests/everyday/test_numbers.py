"""Numbers that are none, or absurd: each flag and each argument has its domain, and says so."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import jax_attn as ja
import train
from jax_attn.config import HeadShape
from jax_attn.evaluate import __main__ as evaluate_cli
from jax_attn.generate import __main__ as generate_cli
from jax_attn.generate import stream
from jax_attn.interop import __main__ as interop_cli
from jax_attn.nn.dropout import dropout
from jax_attn.runs.chunks import chunk_end, longest_chunk
from jax_attn.runs.divergence import Divergence
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


@pytest.fixture(scope="module")
def model(made):
    return ja.load_model(made)


PROMPT = np.zeros((1, 1), np.int32)
REQUESTS = [
    ("temperature nan", {"temperature": NAN}, "temperature is nan; it must be a number"),
    ("temperature inf", {"temperature": INF}, "temperature is inf"),
    ("temperature True", {"temperature": True}, "temperature is True; it must be a number, not bo"),
    ("top_k 0", {"top_k": 0}, "top_k is 0; it must be greater than 0"),
    ("top_k True", {"top_k": True}, "top_k is True; it must be an integer, not bool"),
    ("top_k 2.5", {"top_k": 2.5}, "top_k is 2.5; it must be an integer, not float"),
    ("top_p 0", {"top_p": 0}, "top_p is 0; it must be greater than 0"),
    ("top_p 1.5", {"top_p": 1.5}, "top_p is 1.5; it must be at most 1"),
    ("top_p True", {"top_p": True}, "top_p is True; it must be a number, not bool"),
    ("lengths of nothing", {"lengths": np.array([0])}, "lengths must be from 1 to 1, the p"),
    ("lengths past the prompt", {"lengths": np.array([2])}, "the prompts' width; got 2"),
    ("lengths of two rows", {"lengths": np.array([1, 1])}, "one for each of 1 rows, got the shape"),
    ("lengths that are floats", {"lengths": np.array([1.0])}, "lengths are numbers of tokens, so"),
    ("a list of lengths", {"lengths": [1]}, "lengths must be an array, got list; give jnp.asarray"),
    ("nothing allowed", {"allowed": np.zeros(28, bool)}, "allowed has no id that may be drawn"),
    ("ids for allowed", {"allowed": np.arange(28)}, "it must be booleans, True where an id may be"),
    (
        "too few allowed",
        {"allowed": np.ones(27, bool)},
        "allowed has the shape (27,); the",
    ),
    (
        "a row of allowed",
        {"allowed": np.ones((1, 28), bool)},
        "allowed must be [vocab], got",
    ),
    (
        "two keys for a row",
        {"key": jax.random.split(KEY)},
        "key must be one key, jax.random.key(0)",
    ),
    ("-1 new tokens", {"n": -1}, "max_new_tokens is -1; it must be at least 0"),
    ("2.5 new tokens", {"n": 2.5}, "max_new_tokens is 2.5; it must be an integer"),
    ("3e9 new tokens", {"n": 3 * 10**9}, "max_new_tokens is 3000000000; it must be at most"),
    ("many rows of many tokens", {"n": 10**9, "rows": 100}, "tokens would take"),
    ("an id outside", {"ids": [0, 28, -5]}, "ids outside the vocabulary, [0, 28): -5, 28"),
    (
        "an id past int32",
        {"ids": np.array([2**40])},
        "tokens holds 1099511627776, which",
    ),
    (
        "ids that are floats",
        {"ids": [1.5]},
        "token ids must be integers",
    ),
]


@pytest.mark.parametrize(
    ("request_", "said"), [pytest.param(*row[1:], id=row[0]) for row in REQUESTS]
)
def test_what_generation_refuses(model, request_, said):
    options = {"key": KEY} | request_
    n, ids, rows = options.pop("n", 3), options.pop("ids", [0]), options.pop("rows", 1)
    prompt = np.tile(np.asarray([ids]), (rows, 1))
    for generated in (
        lambda: ja.generate(model, prompt, n, **options),
        lambda: list(stream(model, prompt, n, 4, **options)),
    ):
        with pytest.raises(ja.InputError) as caught:
            generated()
        assert said in str(caught.value)


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-45, 1e-300])
def test_a_tiny_temperature_is_the_greedy_text(model, temperature):
    greedy = ja.generate(model, PROMPT, 12, key=KEY, temperature=0.0)
    assert len(set(np.asarray(greedy)[0])) > 1
    tiny = ja.generate(model, PROMPT, 12, key=KEY, temperature=temperature)
    np.testing.assert_array_equal(tiny, greedy)


def test_the_largest_temperature_still_draws(model):
    hot = ja.generate(model, PROMPT, 100, key=KEY, temperature=1e30)
    assert len(set(np.asarray(hot)[0])) > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_choose_nothing(temperature):
    model = ja.BigramLanguageModel(28, rngs=nnx.Rngs(0))
    table = model.token_embedding_table.embedding
    table.set_value(table[...].at[:, 3].set(NAN))
    with pytest.raises(ja.InputError, match="logits for token 1 of the text are NaN"):
        ja.generate(model, PROMPT, 12, key=KEY, temperature=temperature)
    with pytest.raises(ja.InputError, match="logits for token 1 of the text are NaN"):
        list(stream(model, PROMPT, 12, 4, key=KEY, temperature=temperature))


def vectors(*shape):
    return jnp.ones(shape)


TOKENIZER = ja.CharTokenizer("abc")
RNGS = nnx.Rngs(0)
GPT = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4}
FUNCTIONS = [
    ("a scale of nan", lambda: ja.attention_weights(vectors(2, 3), vectors(2, 3), scale=NAN),
     "scale is nan; it must be a number"),
    ("a fused scale of inf",
     lambda: ja.dot_product_attention(*[vectors(2, 3)] * 3, scale=-INF), "scale is -inf"),
    ("a mask of length -1", lambda: ja.causal_mask(-1), "length is -1; it must be at least 0"),
    ("a mask of length 2.0", lambda: ja.causal_mask(2.0), "length is 2.0; it must be an integer"),
    ("a mask without end", lambda: ja.causal_mask(10**7), "a mask of length 10,000,000 would tak"),
    ("averages without end", lambda: ja.averaging_weights(10**7), "a matrix of length 10,000,000"),
    ("averages of length -1", lambda: ja.averaging_weights(-1), "length is -1"),
    ("softmax averages without end", lambda: ja.softmax_averaging_weights(10**7), "would take"),
    ("a dropout rate of nan", lambda: dropout(NAN, RNGS), "dropout_rate is nan"),
    ("a head that drops all", lambda: ja.Head(4, 4, dropout_rate=1.0, rngs=RNGS),
     "dropout_rate is 1.0; it must be less than 1"),
    ("a head of size 0", lambda: ja.Head(4, 0, rngs=RNGS), "head_size is 0"),
    ("no heads", lambda: ja.MultiHeadAttention(4, 0, rngs=RNGS), "n_head is 0"),
    ("no vocabulary", lambda: ja.BigramLanguageModel(0, rngs=RNGS), "vocab_size is 0"),
    ("a negative block", lambda: ja.SingleHeadLanguageModel(5, -1, 4, 4, rngs=RNGS),
     "block_size is -1"),
    ("half a layer", lambda: ja.GPTConfig(**(GPT | {"n_layer": 0.5})), "n_layer is 0.5; it must b"),
    ("an epsilon that vanishes", lambda: ja.GPTConfig(**GPT, layer_norm_epsilon=1e-300),
     "layer_norm_epsilon is 1e-300; it must be at least"),
    ("a head's shape", lambda: HeadShape(n_embd=True), "n_embd is True; it must be an integer"),
    ("steps that are no integer", lambda: config(steps=2.5), "steps is 2.5; it must be an integer"),
    ("a seed that is an array", lambda: config(seed=np.array([1])), "it must be an integer, not"),
    ("evaluation in no batches", lambda: evaluated(batch_size=0), "batch_size is 0"),
    ("evaluation of no block", lambda: evaluated(block_size=-2), "block_size is -2"),
    ("an estimate of nothing", lambda: ja.estimate_loss(None, None, 0), "n_batches is 0"),
    ("a learning rate of nan", lambda: ja.make_optimizer(ja.OptimizerConfig(), NAN, 9),
     "learning_rate is nan"),
    ("a schedule of no steps", lambda: ja.learning_rate_schedule(ja.OptimizerConfig(), 0.1, 0),
     "steps is 0"),
    ("batches longer than the text", lambda: batch(block_size=9), "9 tokens are too few for block"),
    ("batches of nothing", lambda: batch(batch_size=0), "batch_size is 0"),
    ("decoding a huge id", lambda: TOKENIZER.decode([0, HUGE]), "ids outside [0, 3)"),
    ("decoding half an id", lambda: TOKENIZER.decode([0, 1.5]), "ids are integers; these are floa"),
    ("a seed of nan", lambda: ja.Generator(NAN), "seed must lie in"),
    ("half a permutation", lambda: ja.Generator(1).randperm(2.5), "integer"),
    ("normals of nan", lambda: ja.Generator(1).normal(NAN, 1.0, 3), "finite mean"),
    ("a probability of nan", lambda: ja.Generator(1).bernoulli(NAN, 3), "a probability lies in"),
]  # fmt: skip


def config(**changes):
    return ja.TrainConfig(**(vars(ja.PRESETS["bigram"][1]) | changes))


def batch(**changes):
    sizes = {"batch_size": 2, "block_size": 8} | changes
    return ja.RandomBatches(jnp.zeros(9, jnp.uint8), KEY, **sizes).batch(jnp.int32(0))


def evaluated(**changes):
    return ja.evaluate(None, np.zeros(9, int), **({"block_size": 8, "batch_size": 1} | changes))


@pytest.mark.parametrize(
    ("function", "said"), [pytest.param(*row[1:], id=row[0]) for row in FUNCTIONS]
)
def test_an_argument_outside_its_domain(function, said):
    with pytest.raises((ValueError, TypeError)) as caught:
        function()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_of_numpy_are_numbers():
    settings = config(steps=np.int64(7), learning_rate=np.float32(0.5))
    assert json.loads(json.dumps(settings.to_dict()))["steps"] == 7
    assert TOKENIZER.decode([0, HUGE], errors="replace") == "a\ufffd"


# Cadences (evaluation, checkpoint), steps, most of a chunk, and where the chunks end.
CHUNKS = [
    ("a divisor", (1000, 1000), 1000, 200, [200, 400, 600, 800, 1000]),
    ("a prime number of steps", (100, 100), 211, 50, [50, 100, 150, 200, 211]),
    ("steps that divide nothing", (1000, 10_000), 7, 200, [7]),
    ("a cadence that none divides", (7, 11), 22, 50, [7, 11, 14, 21, 22]),
    ("parts as equal as can be", (10, 100), 10, 4, [3, 6, 10]),
    ("a cadence past the end", (10**9, 10**9), 450, 200, [200, 400, 450]),
]


@pytest.mark.parametrize(
    ("cadences", "steps", "most", "ends"), [pytest.param(*row[1:], id=row[0]) for row in CHUNKS]
)
def test_chunks_depend_on_no_common_divisor(cadences, steps, most, ends):
    settings = config(steps=steps, eval_every=cadences[0], checkpoint_every=cadences[1])
    found = [0]
    while found[-1] < steps:
        found.append(chunk_end(settings, most, found[-1]))
    assert found[1:] == ends
    assert max(np.diff(found)) <= longest_chunk(settings, most)


# Training and validation loss of one evaluation after another, of 28 symbols: log 28 is 3.33.
LOSSES = [
    ("an untrained table", [(3.9, 3.85)], None),
    ("learning", [(3.4, 3.3), (2.5, 2.6), (2.4, 2.5)], None),
    ("a text known by heart", [(1.5, 1.9), (0.2, 4.9), (0.01, 7.0)], None),
    ("noise of a small batch", [(1.5, 1.9), (4.9, 1.8)], None),
    ("worse than guessing", [(21.0, 21.9)], "loss 21.90, where a uniform guess has 3.33; try"),
    ("worse than it was", [(1.9, 1.8), (2.9, 3.0)], "loss 3.00, where it was 1.80; try a smaller"),
    ("no number", [(2.0, NAN)], "loss nan, where a uniform guess has 3.33"),
    ("well again", [(21.0, 21.9), (2.0, 2.1)], None),
]


@pytest.mark.parametrize(
    ("losses", "remark"), [pytest.param(*row[1:], id=row[0]) for row in LOSSES]
)
def test_divergence_that_stays_finite(losses, remark):
    watch = Divergence(config(), 28)
    for pair in losses:
        watch.look(*pair)
    assert watch.remark is None if remark is None else remark in str(watch.remark)


def test_a_run_that_diverges_is_remarked_on_when_it_shows_and_at_the_end(call, text, tmp_path):
    wild = ["--learning-rate", "1000", "--optimizer.weight-decay", "0"]
    arguments = ["bigram", *SHORT, "--data", text, "--out", tmp_path / "run", *wild]
    code, out, _ = call(train.main, *arguments)
    assert code == 0
    assert out.count("the training has diverged: validation loss") == 2
    assert out.count("try a smaller --learning-rate or --optimizer.clip-norm 1") == 2
    assert "diverged" not in call(train.main, "--resume", tmp_path / "run")[1]


def test_a_run_that_learns_is_not_remarked_on(call, text, tmp_path):
    code, out, _ = call(train.main, "bigram", *SHORT, "--data", text, "--out", tmp_path / "run")
    assert code == 0
    assert "diverged" not in out


def test_what_accumulating_changes_is_said(call):
    out = " ".join(call(train.main, "mini", "--help")[1].replace("│", " ").split())
    assert "same mean gradient, but each draws its dropout by itself" in out
