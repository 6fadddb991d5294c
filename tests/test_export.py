"""Models as other people's files: opened by their classes with strict=True, or refused in words."""

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

import jax_attn as ja
import torch_ref
from jax_attn.interop import __main__ as interop_cli
from jax_attn.runs.source import open_source
from tests.came_to import bits
from tests.in_process import one_line
from tests.weight_models import LETTERS, T, V, bigram, gpt, gpt2, single_head


def saved(folder, model, tokenizer=LETTERS):
    """A file of our own to export from."""
    path = folder / "source.safetensors"
    ja.save_safetensors(model, path, tokenizer=ja.CharTokenizer(tokenizer))
    return path


@pytest.fixture
def export(call, tmp_path, in_process):
    """What the command says, and the path that it has made."""

    def run(model, to, name, *more):
        out = tmp_path / name
        result = call(interop_cli.main, saved(tmp_path, model), "--to", to, "--out", out, *more)
        assert result[0] == 0, result
        assert result[2] == ""
        return result[1], out

    return run


@pytest.fixture
def refusal(call, tmp_path, in_process):
    def run(model, to):
        out = tmp_path / "out"
        line = one_line(call(interop_cli.main, saved(tmp_path, model), "--to", to, "--out", out))
        assert not out.exists()
        return line

    return run


LECTURE = {
    "gpt": (gpt, lambda: torch_ref.GPTLanguageModel(V, T, 1, 3, 12), False),
    "gpt without biases": (
        lambda: gpt(linear_bias=False, norm_bias=False, head_bias=False),
        lambda: torch_ref.GPTLanguageModel(V, T, 1, 3, 12),
        True,
    ),
    "tied gpt": (
        lambda: gpt(tie_embeddings=True),
        lambda: torch_ref.GPTLanguageModel(V, T, 1, 3, 12),
        False,
    ),
    "bigram": (bigram, lambda: torch_ref.BigramLanguageModel(V), False),
    "single head": (single_head, lambda: torch_ref.SingleHeadLanguageModel(V, T, 12, 5), False),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", LECTURE)
def test_the_lectures_classes_take_it(export, case, suffix):
    build, make, zeros = LECTURE[case]
    model, module = build(), make()
    said, path = export(model, "lecture", f"out{suffix}")
    load = torch.load if suffix == ".pt" else safetensors.torch.load_file
    module.load_state_dict(load(path), strict=True)
    expected = ja.to_state_dict(model)
    for name, value in module.state_dict().items():
        given = expected.get(name, np.zeros(value.shape))
        np.testing.assert_array_equal(value.numpy(), given, err_msg=name)
    assert ("are zeros there: " in said) == zeros
    assert f"load_file({str(path)!r})" in said or f"torch.load({str(path)!r})" in said
    again = open_source(path)
    assert type(again.model) is type(model)
    assert (again.tokenizer is None) == (suffix == ".pt")


def test_nanogpts_folder(export):
    """The names are those of nanoGPT's class, of which parity_tests/torch_nanogpt.py has a twin."""
    model = gpt2(activation="gelu", qkv_bias=False, linear_bias=False, norm_bias=False)
    said, folder = export(model, "nanogpt", "out")
    assert f"python sample.py --out_dir={folder}" in said
    checkpoint = torch.load(folder / "ckpt.pt", weights_only=True)
    assert checkpoint["model_args"] == {
        "n_layer": 1, "n_head": 3, "n_embd": 12, "block_size": T, "bias": False,
        "vocab_size": V, "dropout": 0.0,
    }  # fmt: skip
    assert checkpoint["iter_num"] == 0
    state_dict = checkpoint["model"]
    assert set(state_dict) == {
        "transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight",
        "transformer.h.0.ln_1.weight", "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.attn.c_proj.weight", "transformer.h.0.ln_2.weight",
        "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_proj.weight", "lm_head.weight",
    }  # fmt: skip
    tied = state_dict["lm_head.weight"].data_ptr(), state_dict["transformer.wte.weight"].data_ptr()
    assert tied[0] == tied[1]
    meta = pickle.loads((folder / "meta.pkl").read_bytes())  # as sample.py does
    assert meta["itos"] == dict(enumerate(LETTERS))
    assert meta["stoi"] == {letter: i for i, letter in enumerate(LETTERS)}
    # os.path.join("data", an absolute path) is that path.
    assert checkpoint["config"] == {"dataset": str(folder)}
    again = open_source(folder)
    assert bits(again.model) == bits(model)
    assert again.model.config == model.config
    assert again.tokenizer.characters == LETTERS


def test_nanogpt_has_all_biases_or_none(export):
    said, folder = export(gpt2(activation="gelu", norm_bias=False), "nanogpt", "out")
    assert "biases that the model has not are zeros there: of the norms" in said
    checkpoint = torch.load(folder / "ckpt.pt", weights_only=True)
    assert checkpoint["model_args"]["bias"]
    assert not checkpoint["model"]["transformer.h.0.ln_1.bias"].any()
    assert checkpoint["model"]["transformer.h.0.mlp.c_fc.bias"].any()


def test_mingpts_file(export):
    said, path = export(gpt2(tie_embeddings=False), "nanogpt", "out.pt")
    assert "its output matrix is not tied, as minGPT's" in said
    state_dict = torch.load(path, weights_only=True)
    assert state_dict["transformer.h.0.attn.bias"].shape == (1, 1, T, T)
    assert state_dict["lm_head.weight"].shape == (V, 12)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tie_embeddings": False, "activation": "relu", "n_inner": 20, "dropout_rate": 0.1},
        {"activation": "gelu", "attention_scale": 1.0, "layer_norm_epsilon": 1e-2},
        {"qkv_bias": False, "linear_bias": False, "norm_bias": False},
    ],
)
def test_hugging_face_takes_it(export, fields):
    model = gpt2(**fields)
    said, folder = export(model, "gpt2", "out")
    assert f"GPT2LMHeadModel.from_pretrained({str(folder)!r})" in said
    module, loading = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    expected = ja.to_state_dict(model, "gpt2")
    for name, value in module.state_dict().items():
        given = expected.get(name, np.zeros(value.shape))
        np.testing.assert_array_equal(value.numpy(), given, err_msg=name)
    config = json.loads((folder / "config.json").read_text())
    assert module.config.activation_function == config["activation_function"]
    assert module.config.scale_attn_weights == (model.config.attention_scale is None)
    again = ja.load_model(folder)
    if model.config.norm_bias:
        assert bits(again) == bits(model)
        assert again.config == ja.GPTConfig(**{**vars(model.config), "dropout_rate": 0.0})


@pytest.mark.parametrize("characters", [LETTERS, '\n !éабв語𝄞a\\"'[:V]])
def test_hugging_faces_tokenizer_makes_the_same_ids(tmp_path, call, characters):
    vocab_size = len(characters)
    path = saved(tmp_path, gpt2(vocab_size=vocab_size), characters)
    assert call(interop_cli.main, path, "--to", "gpt2", "--out", tmp_path / "out")[0] == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = open_source(tmp_path / "out").tokenizer
    text = characters[::-1] + characters[3] * 3
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    assert theirs.decode(ours.encode(text)) == text


NOT_HELD = {
    ("lecture", "gelu"): (lambda: gpt(activation="gelu", head_bias=False),
        "the lecture's GPTLanguageModel cannot hold activation gelu; --to gpt2 can"),
    ("lecture", "biases"): (lambda: gpt(qkv_bias=True),
        "cannot hold biases on query, key and value; --to run can"),
    ("lecture", "width"): (lambda: gpt(n_inner=20), "cannot hold a feed-forward of 20 channels"),
    ("lecture", "scale"): (lambda: gpt(attention_scale=0.3), "cannot hold attention_scale 0.3"),
    ("nanogpt", "relu"): (lambda: gpt2(activation="relu"),
        "cannot hold activation relu beside a tied output matrix; --to gpt2 can"),
    ("nanogpt", "head bias"): (lambda: gpt2(activation="gelu", head_bias=True),
        "cannot hold a bias on the logits; --to run can; one trained here as the preset gpt2 is"),
    ("nanogpt", "bigram"): (bigram, "cannot hold a BigramLanguageModel; --to lecture can"),
    ("nanogpt", "epsilon"): (lambda: gpt2(activation="gelu", layer_norm_epsilon=1e-3),
        "cannot hold layer_norm_epsilon 0.001; --to gpt2 can"),
    ("gpt2", "head bias"): (gpt, "GPT2LMHeadModel cannot hold a bias on the logits; --to lecture"),
    ("gpt2", "scale"): (lambda: gpt2(attention_scale=0.3), "cannot hold attention_scale 0.3"),
    ("gpt2", "single head"): (single_head, "cannot hold a SingleHeadLanguageModel; --to lecture"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_HELD, ids=" ".join)
def test_what_a_class_cannot_hold(refusal, case):
    build, said = NOT_HELD[case]
    assert said in refusal(build(), case[0])


@pytest.mark.parametrize("to", ["lecture", "gpt2", "run"])
def test_nothing_is_overwritten(call, tmp_path, in_process, to):
    path = saved(tmp_path, gpt2() if to == "gpt2" else gpt())
    (tmp_path / "out").write_text("mine")
    line = one_line(call(interop_cli.main, path, "--to", to, "--out", tmp_path / "out"))
    assert "out exists already; choose another" in line
    assert (tmp_path / "out").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_half_a_file_is_none(monkeypatch, tmp_path):
    from jax_attn.interop import safetensors_file

    def stop(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", stop)
    with pytest.raises(ja.InputError, match=r"cannot be written \(No space left on device\)"):
        safetensors_file.write_tensors(tmp_path / "a", {"w": np.ones(2)}, {})
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_stays_what_it_is(export):
    _, folder = export(gpt2(jnp.bfloat16), "gpt2", "out")
    module = transformers.GPT2LMHeadModel.from_pretrained(folder)
    assert module.lm_head.weight.dtype == torch.bfloat16
