"""Paths that lead to nothing, with what is there instead; places that cannot be written to."""

import shutil
from pathlib import Path

import pytest

import jax_attn as ja
import train
from jax_attn.evaluate import __main__ as evaluate_cli
from jax_attn.generate import __main__ as generate_cli
from jax_attn.interop import __main__ as interop_cli
from jax_attn.nearest import nearest
from tests.in_process import FOX, SHORT, finished_run, one_line
from tests.weight_models import LETTERS, gpt, gpt2

pytestmark = pytest.mark.usefixtures("no_pictures", "in_process")

SMALL = ["--batch-size", "2", "--block-size", "8", "--steps", "2"]


@pytest.fixture
def folder(short, tmp_path):
    """A copy to be spoilt, with what people have beside a run."""
    shutil.copytree(short, tmp_path, dirs_exist_ok=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architecture": "mamba"}')
    (tmp_path / "halved").mkdir()
    (tmp_path / "halved" / "config.json").write_text('{"config":')
    shutil.copytree(tmp_path / "run", tmp_path / "begun")
    shutil.rmtree(tmp_path / "begun" / "checkpoints")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("run@bst", "run@bst: a run has no @bst, only @best: {}/run@best"),
        pytest.param("run@4", "a run has no @4, only @best: {}/run@best"),
        pytest.param("run@", "a run has no @, only @best"),
        pytest.param("rum@best", "rum: there is no such folder; a run is the folder that train.py "
            "made; perhaps {}/run is meant"),
        pytest.param("run/checkpoints/7", "7: there is no such checkpoint; kept are those of steps "
            "2, 4"),
        pytest.param("run/checkpoints/best", "there is no such checkpoint; kept are those of"),
        pytest.param("run/checkpoint/4", "perhaps {}/run/checkpoints is meant"),
        pytest.param("begun/checkpoints/2", "2: the run has no checkpoint yet"),
        pytest.param("runn", "with ckpt.pt; perhaps {}/run is meant"),
        pytest.param("empty", "empty: its config.json is no run's and none of Hugging Face's, and"),
        pytest.param("other", "other: its config.json is no run's and none of Hugging Face's, and"),
        pytest.param("halved", "halved: config.json is damaged (Expecting value: line 1"),
    ],
)  # fmt: skip
def test_a_source_that_is_not_there(call, folder, source, said):
    said = said.format(folder)
    assert said in one_line(call(generate_cli.main, folder / source))
    with pytest.raises(ja.InputError) as caught:
        ja.load_model(folder / source)
    assert said in str(caught.value)


def test_a_runs_record_that_lacks_a_part(call, folder):
    (folder / "run" / "config.json").write_text("{}")
    line = one_line(call(train.main, "--resume", folder / "run"))
    assert "config.json has no 'config', as that of a run has; every checkpoint has a copy" in line


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        pytest.param(train, "--resume {}/runs", "perhaps {}/run is meant"),
        pytest.param(train, "--data {}/txt.txt", "too); perhaps {}/text.txt is meant"),
        pytest.param(train, "--validation {}/text", "too); perhaps {}/text.txt is meant"),
        pytest.param(train, "--data {}/text.txt --tokens {}/begin", "perhaps {}/begun is meant"),
        pytest.param(train, "--data {}/text.txt --init {}/rn", "perhaps {}/run is meant"),
        pytest.param(evaluate_cli, "{}/run --data {}/tet.txt", "perhaps {}/text.txt is meant"),
        pytest.param(generate_cli, "{}/run --tokenizer {}/tex.txt", "perhaps {}/text.txt is meant"),
        pytest.param(generate_cli, "{}/run --prompt-file {}/t.txt", "{}/text.txt is meant"),
        pytest.param(interop_cli, "{}/rum --to run --out {}/new", "perhaps {}/run is meant"),
        pytest.param(train, "--data {}/nothing-like-it", "python-docs, too)"),
    ],
)  # fmt: skip
def test_a_misspelt_path(call, folder, program, given, said):
    line = one_line(call(program.main, *given.replace("{}", str(folder)).split()))
    assert line.endswith(said.format(folder))


def test_nothing_is_near_what_is_there(tmp_path):
    (tmp_path / "a").touch()
    assert nearest(tmp_path / "a") is None
    assert nearest(tmp_path / "a" / "b") is None
    assert nearest(Path("\0")) is None


# A path that is empty is not the working folder.


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        pytest.param(train, ["--data"], "data names no text; give the path of one, or several"),
        pytest.param(train, ["--validation"], "validation names no text; give the path of one"),
        pytest.param(train, ["--data="], "data has an empty path; give that of a text"),
        pytest.param(train, ["--data", "text.txt", ""], "data has an empty path; give that of a"),
        pytest.param(train, ["--validation", ""], "validation has an empty path"),
        pytest.param(train, ["--resume", "run", "--data"], "data names no text"),
        pytest.param(train, ["--resume", "run", "--data", ""], "data has an empty path"),
        pytest.param(train, ["--resume", "run", "--validation"], "validation names no text"),
        pytest.param(train, ["--init", ""], "source is an empty path; give a run that"),
        pytest.param(evaluate_cli, ["run", "--data"], "data names no text"),
        pytest.param(evaluate_cli, ["run", "--data", ""], "data has an empty path"),
        pytest.param(generate_cli, [""], "source is an empty path; give a run that"),
    ],
)
def test_an_empty_path(call, folder, monkeypatch, program, given, said):
    monkeypatch.chdir(folder)
    assert said in one_line(call(program.main, *given))


@pytest.mark.parametrize("data", [(), [], "", ["text.txt", ""]])
def test_an_empty_path_in_python(folder, monkeypatch, data):
    monkeypatch.chdir(folder)
    config = ja.PRESETS["bigram"][1]
    for function in (
        lambda: ja.load_corpus(data),
        lambda: ja.train(config, data=data),
        lambda: ja.resume("run", data=data),
    ):
        with pytest.raises(ja.InputError, match=r"data (names no text|has an empty path)"):
            function()


# What is evaluated is named as it is.


def test_an_own_text_to_validate_with_is_named(call, tmp_path):
    (tmp_path / "own.txt").write_text(FOX[:200])
    own = ["--validation", tmp_path / "own.txt"]
    run = finished_run(tmp_path, *SHORT, *own) / "run"
    of = {}
    for split in ("validation", "train", "all"):
        code, of[split], err = call(evaluate_cli.main, run, "--split", split)
        assert (code, err) == (0, "")
    assert f"of {tmp_path}/own.txt, validation split" in of["validation"]
    assert f"of {tmp_path}/text.txt, train split" in of["train"]
    assert f"of {tmp_path}/text.txt, in windows" in of["all"]
    (tmp_path / "own.txt").write_text(FOX[:300])
    code, _, err = call(evaluate_cli.main, run, "--split", "validation")
    assert (code, err) == (
        0,
        f"jax_attn.evaluate: {tmp_path}/own.txt is not what it was when {run} was trained on it\n",
    )


# Places where nothing can be written.


@pytest.mark.parametrize("place", ["/proc/x", "{}/text.txt/x", "/dev/null/x", "{}/text.txt"])
@pytest.mark.parametrize(
    ("to", "ending"),
    [("lecture", ".pt"), ("lecture", ".safetensors"), ("nanogpt", ""), ("gpt2", ""), ("run", "")],
)
def test_a_place_where_nothing_can_be(call, folder, to, ending, place):
    source = folder / "source.safetensors"
    model = gpt() if to == "lecture" else gpt2(activation="gelu")
    ja.save_safetensors(model, source, tokenizer=ja.CharTokenizer(LETTERS))
    place = place.format(folder)
    place = place if place.endswith(".txt") else place + ending
    before = sorted(folder.iterdir())
    line = one_line(call(interop_cli.main, source, "--to", to, "--out", place))
    assert f"error: {place} " in line
    assert "Error" not in line
    assert "cannot be " in line or "exists already" in line
    assert sorted(folder.iterdir()) == before


def test_ours_where_nothing_can_be(folder):
    for place in ("/proc/x.safetensors", folder / "text.txt" / "x"):
        with pytest.raises(ja.InputError, match=r"cannot be written \(.*(No such|File exists)"):
            ja.save_safetensors(gpt(), place)
