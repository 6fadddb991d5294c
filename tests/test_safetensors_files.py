"""safetensors files: what goes in comes out, and the library reads and writes the same."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import jax_attn as ja
from jax_attn.interop.safetensors_file import read_tensors
from jax_attn.runs.source import open_source
from tests.came_to import bits
from tests.weight_models import LETTERS, bigram, gpt, gpt2, single_head

MODELS = {
    "lecture": (gpt, "lecture"),
    "lecture, all fields": (
        lambda: gpt(
            activation="gelu", qkv_bias=True, norm_bias=False, linear_bias=False,
            attention_scale=0.3, n_inner=20, layer_norm_epsilon=1e-3, dropout_rate=0.5,
        ),
        "lecture",
    ),
    "nanogpt": (lambda: gpt2(activation="gelu", qkv_bias=False), "nanogpt"),
    "gpt2": (gpt2, "gpt2"),
    "gpt2, untied": (lambda: gpt2(tie_embeddings=False), "gpt2"),
    "gpt2 in bfloat16": (lambda: gpt2(jnp.bfloat16), "gpt2"),
    "gpt2 in float16": (lambda: gpt2(jnp.float16), "gpt2"),
    "bigram": (bigram, "lecture"),
    "single head": (single_head, "lecture"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_safetensors_keep_every_bit_and_all_that_is_said(tmp_path, case):
    build, layout = MODELS[case]
    model = build()
    ja.save_safetensors(model, tmp_path / "a.safetensors", layout, ja.CharTokenizer(LETTERS))
    again = ja.load_safetensors(tmp_path / "a.safetensors")
    assert type(again) is type(model)
    assert bits(again) == bits(model)
    assert getattr(again, "config", None) == getattr(model, "config", None)
    source = open_source(tmp_path / "a.safetensors")
    assert bits(source.model) == bits(model)
    assert source.tokenizer.characters == LETTERS
    of_library = safetensors.torch.load_file(tmp_path / "a.safetensors")
    ours = ja.to_state_dict(model, layout)
    assert of_library.keys() == ours.keys()
    for name, tensor in of_library.items():
        assert tensor.view(torch.uint8).numpy().tobytes() == ours[name].tobytes()


def test_tensors_of_every_type_that_the_library_writes(tmp_path):
    tensors = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                      torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn)
    }  # fmt: skip
    tensors |= {"none": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    safetensors.torch.save_file(tensors, tmp_path / "a", {"format": "pt"})
    found, metadata = read_tensors(tmp_path / "a")
    assert metadata == {"format": "pt"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape), name
        np.testing.assert_array_equal(
            found[name].astype(np.float64), tensor.to(torch.float64).numpy(), err_msg=name
        )


def test_a_file_without_metadata_is_told_by_its_arrays(tmp_path):
    model = gpt()
    state_dict = ja.to_state_dict(model, "lecture")
    safetensors.numpy.save_file(state_dict, tmp_path / "a.safetensors")
    assert bits(ja.load_model(tmp_path / "a.safetensors")) == bits(model)
    model = gpt2(activation="gelu")
    safetensors.numpy.save_file(ja.to_state_dict(model, "nanogpt"), tmp_path / "b.safetensors")
    with pytest.raises(ja.InputError, match=r"b.safetensors: n_head, .* give it, as n_head="):
        ja.load_model(tmp_path / "b.safetensors")
    assert bits(ja.load_model(tmp_path / "b.safetensors", n_head=3)) == bits(model)


def test_what_contradicts_a_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    ja.save_safetensors(gpt2(), path, "gpt2")
    for given, said in (
        ({"n_head": 2}, "n_head is given as 2, but the file says 3"),
        ({"activation": "relu"}, "activation is given as relu, but the file says gelu_tanh"),
        ({"layout": "nanogpt"}, "layout is given as nanogpt, but the file says gpt2"),
        ({"n_heads": 3}, "there is no field 'n_heads' of a model"),
        ({"param_dtype": 3}, "there is no field 'param_dtype' of a model"),
    ):
        with pytest.raises(ja.InputError) as caught:
            ja.load_model(path, **given)
        assert str(caught.value) == f"{path}: {said}"


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(ja.InputError, match="exists already"):
        ja.save_safetensors(gpt(), path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]
