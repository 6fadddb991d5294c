"""Hugging Face's folders: the same model, or a refusal by name."""

import numpy as np
import pytest

import jax_attn as ja
from jax_attn.interop.huggingface_config import fields_of
from jax_attn.interop.weights_file import read_weights_file
from tests.huggingface_folders import huggingface, parts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, {"activation": "gelu_tanh", "tie_embeddings": True}),
        ({"tie_word_embeddings": False}, {"tie_embeddings": False}),
        ({"activation_function": "relu", "n_inner": 20}, {"activation": "relu", "n_inner": 20}),
        ({"activation_function": "gelu", "n_head": 2}, {"activation": "gelu", "n_head": 2}),
        ({"scale_attn_weights": False}, {"attention_scale": 1.0}),
        ({"layer_norm_epsilon": 1e-2}, {"layer_norm_epsilon": 1e-2}),
        ({"reorder_and_upcast_attn": True}, {"attention_scale": None}),
    ],
)
def test_a_folder_of_hugging_face(tmp_path, settings, said):
    module = huggingface(tmp_path / "hf", **settings)
    model = ja.load_model(tmp_path / "hf")
    assert {name: getattr(model.config, name) for name in said} == said
    require_same(model, module)


def require_same(model, module):
    """Every number is the module's; that they mean the same is parity_tests/test_layouts.py's."""
    theirs = module.state_dict()
    ours = ja.to_state_dict(model, "gpt2")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name].numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "llama"}, "model_type is 'llama': only models of GPT-2's architecture"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True: blocks attend to an encoder"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is {'0': [1]}: some heads are taken out"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"activation_function": "silu"}, "activation_function is 'silu'; known are relu, gelu"),
        ({"activation_function": ["silu"]}, "activation_function is ['silu']; known are"),
    ],
)
def test_what_is_no_gpt2_is_refused_by_name(settings, said):
    with pytest.raises(ja.InputError) as caught:
        fields_of({"model_type": "gpt2"} | settings)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_parts(tmp_path, in_process, kind):
    module, _ = parts(tmp_path, kind)
    require_same(ja.load_model(tmp_path), module)


def test_a_snapshot_of_hugging_faces_cache(tmp_path):
    """Its files are links into a store beside it."""
    snapshot = tmp_path / "models--x/snapshots/0123"
    parts(snapshot)
    store = tmp_path / "models--x/blobs"
    store.mkdir()
    for i, file in enumerate(sorted(snapshot.glob("*.safetensors"))):
        file.rename(store / str(i))
        file.symlink_to(f"../../blobs/{i}")
    assert isinstance(ja.load_model(snapshot), ja.GPT)
    assert read_weights_file(next(snapshot.glob("*.safetensors"))).tensors
