"""`python train.py PRESET --plan TARGET`, as a user calls it."""

import json
from dataclasses import replace

import jax
import pytest

import jax_attn as ja
import train
from jax_attn.compiling import compile
from jax_attn.compiling.hlo import Program
from jax_attn.compiling.roofline import Bound, Rates, kernels, step_of
from jax_attn.compiling.targets import TARGETS
from jax_attn.runs import plan as planning
from jax_attn.runs.plan_command import summary
from tests.weight_models import gpt

SMALL_GPT = ["--model.n-layer", "1", "--model.n-head", "1", "--model.n-embd", "64"]


def test_a_plan_says_what_a_run_costs_and_trains_nothing(call, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "plan"
    arguments = [*SMALL_GPT, "--block-size", "256", "--batch-size", "8", "--dtype", "bfloat16"]
    code, out, err = call(
        train.main, "mini", "--data", text, "--plan", "h100", "--out", folder, *arguments
    )
    assert (code, err) == (0, "")
    assert out.startswith("compiling for h100, a line after each program; a GPT's take minutes")
    for said in (
        "training: compiled in",
        "H100",
        "cudnn: ",
        "fits",
        "at least   512 rows",
        "at best",
    ):
        assert said in out
    names = {path.name for path in folder.iterdir()}
    assert names == {"plan.json", "training.hlo", "evaluation.hlo", "sampling.hlo"}
    assert not (tmp_path / "runs").exists()

    found = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    assert found["attention"].startswith("cudnn: ")
    assert found["optimizer_bytes"] == 2 * found["parameter_bytes"] + 8  # and two counters
    assert found["parameter_bytes"] == 4 * found["parameters"]
    training, *_ = found["programs"]
    for program in found["programs"]:
        assert program["needs"] > found["parameter_bytes"] + found["optimizer_bytes"]
        assert program["bound"]["flops"] > 0
    # Six operations for each weight of a matrix and token, those of the logits among them; and a
    # few for gradients that are products where so few ids are.
    matrices = 64 * (12 * 64 + 27)
    assert 1 < training["bound"]["flops"] / (6 * matrices * 8 * 256) < 1.1
    assert training["bound"]["attention_flops"] == 7 * 8 * 256 * 256 * 64
    parts = found["parameter_bytes"] + found["optimizer_bytes"] + found["text_bytes"]
    assert found["text_bytes"] == 44 * 40 * 9 // 10
    assert 0 <= training["needs"] - parts - training["temporaries"] < 0.1 * training["needs"]
    (header,) = (line for line in out.splitlines() if line.startswith("program "))
    for column in ("memory", "of one", "bytes moved", "at least"):
        assert column in header
    assert found["largest_batch"] % 8 == 0
    assert 8 < found["largest_batch"] <= 64 * 8

    program = Program.parse((folder / "training.hlo").read_text(encoding="utf-8"))
    bound = Bound.of(kernels(program, step_of(program)), Rates.of(TARGETS["h100"]))
    assert bound.bytes == training["bound"]["bytes"]
    assert found["least_step_seconds"] == bound.seconds + bound.attention_seconds


def test_a_plan_is_never_overwritten(call, text, tmp_path):
    (tmp_path / "plan.json").write_text("mine")
    code, out, err = call(train.main, "bigram", "--data", text, "--plan", "h100", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert err == f"train.py: error: {tmp_path} holds a plan already; give another --out\n"
    assert (tmp_path / "plan.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["a100", "tpu-v5p"])
def test_without_the_compiler(call, text, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    compile._devices.cache_clear()
    code, out, err = call(train.main, "bigram", "--data", text, "--plan", name)
    extra = "compile-cuda" if name == "a100" else "compile-tpu"
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f'pip install "jax-attn[{extra}]"' in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "somewhere", "--plan", "h100"], "--plan is of a new run"),
        (["bigram", "--plan", "h100", "--rng", "torch"], "--plan is of --rng jax"),
        (["bigram", "--plan", "h100", "--data", "nowhere.txt"], "there is no such file"),
    ],
)
def test_what_is_refused(call, text, arguments, said):
    arguments = [*arguments, "--data", text] if "torch" in arguments else arguments
    code, out, err = call(train.main, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_an_unknown_target_is_answered_with_the_known(call):
    code, _, err = call(train.main, "bigram", "--plan", "b300")
    assert code == 2
    assert "tpu-v6e" in err


def test_nothing_is_fetched(call, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ATTN_CACHE", str(tmp_path))
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: pytest.fail("fetched"))
    code, out, _ = call(train.main, "bigram", "--plan", "h100")
    assert code == 0
    assert "going on with --data python-docs" in out
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_is_said_with_what_would_fit(call, text, monkeypatch):
    small = replace(TARGETS["h100"], memory=4_000_000)
    monkeypatch.setitem(TARGETS, "h100", small)
    arguments = ["--data", text, "--plan", "h100", "--batch-size", "4096"]
    code, out, err = call(train.main, "bigram", *arguments)
    assert (code, err) == (0, "")
    (line,) = (line for line in out.splitlines() if line.startswith("at most"))
    assert 64 < int(line.split()[2].replace(",", "")) < 4096
    assert "too large  " in out


def test_a_compiler_that_gives_up_for_want_of_memory(call, text, monkeypatch):
    """As a TPU's does."""
    honest = planning.compile_training

    def compile_training(state, batches, *rest):
        if batches.batch_size > 1000:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 41.7G of 15.75G\nand so on")
        return honest(state, batches, *rest)

    monkeypatch.setattr(planning, "compile_training", compile_training)
    arguments = ["--data", text, "--plan", "h100", "--batch-size", "4096"]
    code, out, err = call(train.main, "bigram", *arguments)
    assert (code, err) == (1, "")
    assert "error      training: JaxRuntimeError: RESOURCE_EXHAUSTED: 41.7G of 15.75G\n" in out
    (line,) = (line for line in out.splitlines() if line.startswith("at most"))
    assert 256 <= int(line.split()[2].replace(",", "")) <= 1000


def test_a_bound_that_no_run_comes_near_says_so():
    """Of kernels that are shorter than what starts them; an MFU of it would be none."""
    programs = [
        planning.ProgramPlan("training", "step", 1.0, bound=Bound(800, 9, 9, 0, seconds, 0.0))
        for seconds in (24e-6, 24e-3)
    ]
    lines = []
    for program, seconds in zip(programs, (24e-6, 24e-3), strict=True):
        found = planning.Plan(
            "tpu-v5e", {}, "", "", "", None, 1, 4, 8, 0, 10**10, (program,), None, None, 768,
            seconds, 0.848,
        )  # fmt: skip
        said = summary(found, TARGETS["tpu-v5e"])
        lines += [line for line in said if line.startswith("at best")]
    assert lines == [
        "at best    24 µs a step, at most 32,000,000 tokens/s, which no run comes near: 800 "
        "kernels of 30 ns in the mean take longer to be started than to run",
        "at best    24 ms a step, at most 32,000 tokens/s, MFU 84.8% (every kernel at the data "
        "sheet's rates)",
    ]


def test_a_plan_has_the_shape_and_tokens_of_what_it_starts_from(call, text, tmp_path, monkeypatch):
    """Of a vocabulary that the text has not all of."""
    source = tmp_path / "source.safetensors"
    characters = "".join(sorted({*text.read_text(), *"ABC"}))
    model = gpt(vocab_size=len(characters))
    ja.save_safetensors(model, source, tokenizer=ja.CharTokenizer(characters))
    planned = []

    def plan(config, target, tokens, vocab_size, **_):
        planned.append((config.model.n_embd, config.block_size, vocab_size, len(tokens)))
        raise ja.InputError("enough")

    monkeypatch.setattr("jax_attn.runs.plan_command.plan", plan)
    arguments = ["--data", text, "--plan", "h100", "--init", source]
    assert call(train.main, *arguments)[2] == "train.py: error: enough\n"
    assert planned == [(model.config.n_embd, model.block_size, len(characters), 44 * 40 * 9 // 10)]
    code, _, err = call(train.main, *arguments, "--model.n-embd", "99")
    assert code == 2
    assert "99" in err
