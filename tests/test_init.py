"""Sources of weights: what names one, runs that start from one, and runs that are made of one."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
import train
from jax_attn.generate import __main__ as generate_cli
from jax_attn.interop import __main__ as interop_cli
from jax_attn.runs.run import Run
from jax_attn.runs.source import open_source
from jax_attn.runs.start import Init, fill, given_in, start_from, weights_sha256
from tests.came_to import bits
from tests.in_process import FOX, SHORT, finished_run, one_line, train_here
from tests.small_models import filled
from tests.weight_models import LETTERS, SHAPE, T, V, gpt, gpt2, single_head

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    """A finished run of four steps with checkpoints 2 and 4, and its text."""
    return finished_run(tmp_path_factory.mktemp("made"), *SHORT)


def step_of(source):
    """The checkpoint that a source is, by its bits."""
    run = Path(str(source).removesuffix("@best"))
    same = [
        int(path.name)
        for path in (run / "checkpoints").iterdir()
        if bits(ja.load_model(path)) == bits(ja.load_model(source))
    ]
    assert len(same) == 1
    return same[0]


# What names a source


def with_losses(made, tmp_path, **losses):
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    for step, loss in losses.items():
        folder = run / "checkpoints" / step[1:]
        (folder / "progress.json").write_text(json.dumps({"validation_loss": loss}))
        sums = json.loads((folder / "checksums.json").read_text())
        import hashlib

        content = (folder / "progress.json").read_bytes()
        sums["progress.json"] = hashlib.sha256(content).hexdigest()
        (folder / "checksums.json").write_text(json.dumps(sums))
    return run


def test_the_best_checkpoint(made, tmp_path, capsys):
    run = with_losses(made, tmp_path, _2=1.5, _4=2.5)
    assert step_of(run) == 4
    assert step_of(f"{run}@best") == 2
    file = next((run / "checkpoints/2/arrays").rglob("d/*"))
    file.write_bytes(file.read_bytes()[:5])
    assert bits(ja.load_model(f"{run}@best")) == bits(ja.load_model(run / "checkpoints/4"))
    assert "checkpoint 2 is damaged and passed over" in capsys.readouterr().err


def test_no_checkpoint_is_the_best(call, made, tmp_path):
    run = with_losses(made, tmp_path, _2=None, _4=None)
    line = one_line(call(generate_cli.main, f"{run}@best"))
    assert "run has no checkpoint with a validation loss" in line
    assert "@best is of a run" in one_line(call(generate_cli.main, f"{run}/checkpoints/2@best"))
    assert "no such folder" in one_line(call(generate_cli.main, tmp_path / "none@best"))


def test_what_a_run_says_is_not_to_be_told_otherwise(made):
    assert ja.load_model(made / "run", vocab_size=28).token_embedding_table.num_embeddings == 28
    for given, said in (
        ({"vocab_size": 5}, "vocab_size is given as 5, but"),
        ({"n_head": 5}, "n_head is given as 5, but"),
        ({"layout": "gpt2"}, "is a run: its weights have no layout to be told"),
    ):
        with pytest.raises(ja.InputError, match=said):
            ja.load_model(made / "run", **given)


def test_tokenizers_that_are_given(tmp_path):
    path = tmp_path / "a.safetensors"
    ja.save_safetensors(gpt(), path)
    assert open_source(path).tokenizer is None
    with pytest.raises(ja.InputError, match="does not say what its ids stand for; give --token"):
        open_source(path).require_tokenizer()
    (tmp_path / "text.txt").write_text("abacus, bolder")
    with pytest.raises(ja.InputError, match="has 12 different characters, the model 11 ids"):
        open_source(path, tokenizer=tmp_path / "text.txt")
    (tmp_path / "text.txt").write_text("abacus, bolde")
    assert open_source(path, tokenizer=tmp_path / "text.txt").tokenizer.characters == " ,abcdelosu"
    (tmp_path / "text.txt").write_text("abacus, bold")  # ids would stand for other characters
    with pytest.raises(ja.InputError, match="has 10 different characters, the model 11 ids"):
        open_source(path, tokenizer=tmp_path / "text.txt")
    ja.CharTokenizer(LETTERS + "xyz").save(tmp_path / "more.json")
    with pytest.raises(ja.InputError, match="has 11 ids, but a tokenizer of 14"):
        open_source(path, tokenizer=tmp_path / "more.json")
    with pytest.raises(ja.InputError, match="there is no such tokenizer or text"):
        open_source(path, tokenizer=tmp_path / "none.txt")
    ja.CharTokenizer(LETTERS).save(tmp_path / "tokenizer.json")
    assert open_source(path, tokenizer=tmp_path / "tokenizer.json").tokenizer.vocab_size == V
    ja.save_safetensors(gpt(), tmp_path / "b.safetensors", tokenizer=ja.CharTokenizer("ab"))
    with pytest.raises(ja.InputError, match="has another tokenizer than"):
        open_source(tmp_path / "b.safetensors", tokenizer=tmp_path / "tokenizer.json")


# Runs that start from one


def init(folder, source, *more, text="text.txt", out="new"):
    train_here("bigram", *SHORT, "--data", folder / text, "--out", folder / out,
               "--init", source, *more)  # fmt: skip
    return folder / out


@pytest.fixture(scope="module")
def started(made, no_pictures):
    return init(made, made / "run")


def test_a_run_starts_from_another(made, started):
    source = ja.load_model(made / "run")
    assert bits(ja.load_model(started / "checkpoints/0")) == bits(source)
    assert bits(ja.load_model(started)) != bits(source)
    record = json.loads((started / "config.json").read_text())
    assert record["started_from"] == {
        "source": str(made / "run"),
        "sha256": weights_sha256(source),
    }
    ja.save_safetensors(source, made / "other.safetensors", tokenizer=Run.open(started).tokenizer)
    result = ja.train(
        Run.open(started).config, init=made / "other.safetensors", out=made / "by function"
    )
    assert bits(result.model) == bits(ja.load_model(started))
    other = json.loads((made / "by function/config.json").read_text())
    assert other["started_from"]["sha256"] == record["started_from"]["sha256"]


def test_killed_before_its_first_checkpoint_it_goes_on_to_the_same_bits(started, tmp_path):
    shutil.copytree(started, tmp_path / "run")
    for step in (2, 4):
        shutil.rmtree(tmp_path / "run/checkpoints" / str(step))
    train_here("--resume", tmp_path / "run")
    assert bits(ja.load_model(tmp_path / "run")) == bits(ja.load_model(started))


def test_killed_before_its_weights_were_there_it_is_begun_again(call, started, tmp_path):
    shutil.copytree(started, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    line = one_line(call(train.main, "--resume", tmp_path / "run"))
    assert "was stopped before the weights were in it" in line
    assert f"begin it again: --init {started.parent / 'run'}" in line


def test_characters_that_a_source_does_not_know(call, made):
    (made / "more.txt").write_text(FOX + "ÄÖ" * 20, encoding="utf-8")
    command = ["bigram", *SHORT, "--data", made / "more.txt", "--init", made / "run"]
    line = one_line(call(train.main, *command, "--out", made / "refused"))
    assert "characters outside the vocabulary: 'Ä', 'Ö'" in line
    assert "--init-vocabulary extend grows its tables" in line
    assert not (made / "refused").exists()
    run = init(made, made / "run", "--init-vocabulary", "extend", text="more.txt", out="grown")
    before, after = ja.load_model(made / "run"), ja.load_model(run / "checkpoints/0")
    table, old = after.token_embedding_table.embedding[...], before.token_embedding_table
    assert table.shape == (30, 30)
    np.testing.assert_array_equal(table[:28, :28], old.embedding[...])
    tokenizer = Run.open(run).tokenizer
    assert tokenizer.encode("ÄÖ").tolist() == [28, 29]
    assert tokenizer.characters[:28] == Run.open(made / "run").tokenizer.characters
    train_here("--resume", run, "--steps", 6)


def test_a_source_that_does_not_say_its_tokens(call, made, tmp_path, capsys):
    ja.save_safetensors(ja.load_model(made / "run"), tmp_path / "a.safetensors")
    run = init(made, tmp_path / "a.safetensors", out="untold")
    assert "does not say what its ids stand for: taken for --tokens char" in capsys.readouterr().out
    assert Run.open(run).tokenizer.record() == Run.open(made / "run").tokenizer.record()
    (made / "few.txt").write_text("abc" * 99)
    command = ["bigram", *SHORT, "--data", made / "few.txt", "--init", tmp_path / "a.safetensors"]
    line = one_line(call(train.main, *command))
    assert "what its 28 ids stand for; --tokens char makes 3 of this text" in line
    assert f"jax_attn.interop {tmp_path / 'a.safetensors'} --tokenizer PATH --to run" in line


FLAGS = {
    "another number of heads": (["--model.n-head", 2], "n_head is given as 2, but"),
    "more positions": (["--block-size", 9], "block_size is 9, but {} has 8 positions"),
    "another tying": (["--model.tie-embeddings"], "tie_embeddings is given as True, but"),
    "a tying that is none": (["--model.no-head-bias"], "head_bias is given as False, but"),
    "other tokens": (["--tokens", "bytes"], "tokens is 'bytes', but {} has 11 symbols"),
    "the lecture's draws": (["--rng", "torch"], "rng torch draws the lecture's initial weights"),
}


@pytest.mark.parametrize("what", FLAGS)
def test_flags_that_contradict(call, tmp_path, what):
    flags, said = FLAGS[what]
    path = tmp_path / "a.safetensors"
    ja.save_safetensors(gpt(), path, tokenizer=ja.CharTokenizer(LETTERS))
    out = tmp_path / "out"
    line = one_line(call(train.main, "mini", "--init", path, "--out", out, *flags))
    assert said.format(path) in line
    assert not out.exists()


def test_an_extended_vocabulary_is_of_a_source(call):
    line = one_line(call(train.main, "--init-vocabulary", "extend"))
    assert "--init-vocabulary is of a SOURCE that is given with --init" in line


def test_what_to_do_with_characters_is_one_of_two(unchecked):
    with pytest.raises(ja.InputError, match="init_vocabulary is 'grow'; it is refuse or extend"):
        ja.train(ja.PRESETS["mini"][1], init="x", init_vocabulary="grow")


def test_the_settings_of_a_source(tmp_path):
    """Its shape is the run's; dropout, steps and the rest are the preset's."""
    path = tmp_path / "a.safetensors"
    model = gpt2(dropout_rate=0.4)
    ja.save_safetensors(model, path, "gpt2", ja.CharTokenizer(LETTERS))
    config = ja.PRESETS["lecture"][1]
    found = start_from(Init(path), config).config
    same = {f.name for f in dataclasses.fields(config)} - {"model", "block_size"}
    assert all(getattr(found, name) == getattr(config, name) for name in same)
    assert found.block_size == T
    shape = dataclasses.asdict(found.model) | {"block_size": T, "vocab_size": V}
    assert ja.GPTConfig(**shape) == dataclasses.replace(model.config, dropout_rate=0.2)
    smaller = dataclasses.replace(config, block_size=5)
    assert start_from(Init(path), smaller).config.block_size == 5
    assert (
        start_from(
            Init(path),
            config,
        ).config.model.vocab_size
        == 0
    )
    ja.save_safetensors(model, tmp_path / "b.safetensors", tokenizer=ja.CharTokenizer("abc"))
    assert start_from(Init(tmp_path / "b.safetensors"), config).config.model.vocab_size == V
    ja.save_safetensors(
        single_head(), tmp_path / "c.safetensors", tokenizer=ja.CharTokenizer("abc")
    )
    with pytest.raises(ja.InputError, match="has 11 ids for 3 symbols, which only a GPT"):
        start_from(Init(tmp_path / "c.safetensors"), config)


def test_what_was_given_is_what_differs_from_the_nearest_preset():
    mini = ja.PRESETS["mini"][1]
    assert given_in(mini) == set()
    assert given_in(dataclasses.replace(mini, steps=3, block_size=8)) == {"steps", "block_size"}
    model = dataclasses.replace(mini.model, n_head=2)
    assert given_in(dataclasses.replace(mini, model=model)) == {"model.n_head"}


def test_weights_that_are_filled_in():
    """Fewer positions, more ids, another dtype; no number of the model's own is left."""
    source = gpt()
    shape = SHAPE | {"block_size": 5, "vocab_size": V + 2}
    model = filled(lambda: ja.GPT(ja.GPTConfig(**shape), rngs=nnx.Rngs(0), param_dtype=jnp.float32))
    fill(model, source)
    ours, theirs = ja.to_state_dict(model), ja.to_state_dict(source)
    for name, value in ours.items():
        common = tuple(slice(n) for n in theirs[name].shape)
        if name.endswith("position_embedding_table.weight") or name.endswith("tril"):
            common = tuple(slice(n) for n in value.shape)
        np.testing.assert_array_equal(value[common], theirs[name][common], err_msg=name)
    assert ours["token_embedding_table.weight"].shape == (V + 2, 12)
    np.testing.assert_allclose(ours["lm_head.bias"][V:], theirs["lm_head.bias"].mean(), rtol=1e-6)
    half = gpt(jnp.bfloat16)
    fill(model, half)
    assert model.ln_f.scale[...].dtype == jnp.float32


# Runs that are made of one


def test_a_run_made_of_weights_alone(call, made, tmp_path):
    source = ja.load_model(made / "run")
    tokenizer = Run.open(made / "run").tokenizer
    ja.save_safetensors(source, tmp_path / "a.safetensors", tokenizer=tokenizer)
    run = tmp_path / "run"
    code, said, _ = call(interop_cli.main, tmp_path / "a.safetensors", "--to", "run", "--out", run)
    assert code == 0
    assert f"--resume {run} --data PATH" in said
    assert bits(ja.load_model(run)) == bits(source)
    code, text, _ = call(generate_cli.main, run, "--tokens", 7, "--prompt", "the")
    assert (code, len(text)) == (0, 11)
    line = one_line(call(train.main, "--resume", run))
    assert f"has had no text yet; give one with: python train.py --resume {run} --data PATH" in line
    train_here("--resume", run, "--data", made / "text.txt", "--steps", 2)
    assert len(ja.resume(run).records) > 0
    (tmp_path / "other.txt").write_text(FOX + "the")
    line = one_line(call(train.main, "--resume", run, "--data", tmp_path / "other.txt"))
    assert "was trained on a text of sha256" in line


def test_a_run_made_of_a_run_has_its_settings_and_text(call, made, tmp_path):
    code, said, _ = call(
        interop_cli.main, made / "run/checkpoints/2", "--to", "run", "--out", tmp_path / "run"
    )
    assert code == 0
    assert said.endswith(f"--resume {tmp_path / 'run'}\n")
    assert Run.open(tmp_path / "run").config == Run.open(made / "run").config
    train_here("--resume", tmp_path / "run")
    assert Run.open(tmp_path / "run").corpus == Run.open(made / "run").corpus


def test_a_run_takes_tokens(call, tmp_path):
    ja.save_safetensors(gpt(), tmp_path / "a.safetensors")
    line = one_line(
        call(interop_cli.main, tmp_path / "a.safetensors", "--to", "run", "--out", tmp_path / "b")
    )
    assert "does not say what its ids stand for; give --tokenizer PATH" in line
