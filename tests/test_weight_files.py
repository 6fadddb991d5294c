"""Files of weights: what goes in comes out, and what others write and read is the same."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers
from flax import nnx

import jax_attn as ja
import torch_ref
import torch_ref.files
from jax_attn.interop import torch_file
from jax_attn.interop.huggingface_config import fields_of
from jax_attn.interop.meta_pickle import read_meta, write_meta
from jax_attn.interop.safetensors_file import read_tensors
from jax_attn.interop.weights_file import read_weights_file
from jax_attn.runs.source import open_source
from tests.came_to import bits
from tests.small_models import filled

V, T = 11, 8
SHAPE = {"vocab_size": V, "block_size": T, "n_layer": 1, "n_head": 3, "n_embd": 12}
LETTERS = "kjihgfedcba"  # in no order of their own


def gpt(dtype=jnp.float32, **fields):
    return filled(
        lambda: ja.GPT(ja.GPTConfig(**(SHAPE | fields)), rngs=nnx.Rngs(0), param_dtype=dtype)
    )


def gpt2(dtype=jnp.float32, **fields):
    family = {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True}
    return gpt(dtype, **(family | {"head_bias": False} | fields))


def bigram():
    return filled(lambda: ja.BigramLanguageModel(V, rngs=nnx.Rngs(0)))


def single_head():
    return filled(lambda: ja.SingleHeadLanguageModel(V, T, 12, 5, rngs=nnx.Rngs(0)))


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


# torch's files


def torch_gpt():
    torch.manual_seed(0)
    return torch_ref.GPTLanguageModel(V, T, 1, 3, 12)


def test_torch_files_through_a_process_of_their_own(tmp_path):
    """As they are made: a bare state dict there and back, with a tied tensor and a half one."""
    module = torch_gpt()
    torch.save(module.state_dict(), tmp_path / "gpt.pt")
    model = ja.load_model(tmp_path / "gpt.pt")
    state_dict = ja.to_state_dict(model)
    theirs = {name: value.numpy() for name, value in module.state_dict().items()}
    assert state_dict.keys() == theirs.keys()
    assert all(np.array_equal(state_dict[name], theirs[name]) for name in theirs)
    half = np.ones(3, jnp.bfloat16)
    torch_file.write_torch(
        tmp_path / "back.pt", state_dict | {"half": half}, {"tied": "lm_head.weight"}
    )
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back["half"].dtype == torch.bfloat16
    assert back["tied"].data_ptr() == back["lm_head.weight"].data_ptr()
    assert all(np.array_equal(back[name].numpy(), theirs[name]) for name in theirs)
    again = torch_file.read_torch(tmp_path / "back.pt")
    assert again.tensors["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(again.tensors["tied"], state_dict["lm_head.weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state_dict: state_dict,
        lambda state_dict: {"model": state_dict, "best_val_loss": torch.tensor(1.5)},
        lambda state_dict: {"state_dict": state_dict, "epoch": 3, "optimizer": object},
        lambda state_dict: {"model_state_dict": state_dict},
        lambda state_dict: {"model": {f"_orig_mod.{k}": v for k, v in state_dict.items()}},
        lambda state_dict: {k: torch.nn.Parameter(v) for k, v in state_dict.items()},
        lambda state_dict: {k: v.bfloat16() for k, v in state_dict.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_of_a_state_dict(tmp_path, in_process, wrap, zipped):
    state_dict = ja.to_state_dict(gpt())
    tensors = {name: torch.from_numpy(value) for name, value in state_dict.items()}
    wrapped = wrap(tensors)
    wrapped.pop("optimizer", None)
    torch.save(wrapped, tmp_path / "a", _use_new_zipfile_serialization=zipped)
    found = ja.load_model(tmp_path / "a")
    for name, value in ja.to_state_dict(found).items():
        np.testing.assert_allclose(value.astype(np.float32), state_dict[name], rtol=8e-3)


def test_what_is_beside_a_state_dict(tmp_path):
    beside = {
        "model_args": {"n_layer": 2, "bias": False, "dropout": 0.0},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "plays", "betas": (0.9, 0.95), "odd": torch.ones(2)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }
    torch.save({"model": {"w": torch.ones(2)}, **beside}, tmp_path / "a")
    torch_ref.files.read(tmp_path / "a", tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record == {
        "under": "model",
        "aliases": {},
        "beside": {
            "model_args": {"n_layer": 2, "bias": False, "dropout": 0.0},
            "iter_num": 7,
            "best_val_loss": 1.5,
            "config": {"dataset": "plays", "betas": [0.9, 0.95]},
            "optimizer": {"state": {}},
        },
    }


@pytest.fixture
def no_torch(monkeypatch):
    found = torch_file.importlib.util.find_spec
    monkeypatch.setattr(
        torch_file.importlib.util,
        "find_spec",
        lambda name: None if name == "torch" else found(name),
    )


def test_without_torch(tmp_path, no_torch):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ja.InputError, match=r"^.*a.pt: .* not installed here: pip install torch"):
        ja.load_model(tmp_path / "a.pt")
    with pytest.raises(ja.InputError, match=r"b.pt: .* not installed here: pip install torch"):
        torch_file.write_torch(tmp_path / "b.pt", {})


# nanoGPT's


def nanogpt_checkpoint(path, model, **beside):
    config = model.config
    arguments = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    arguments |= {"block_size": T, "vocab_size": V, "bias": False, "dropout": 0.25}
    tensors = {
        name: torch.from_numpy(value) for name, value in ja.to_state_dict(model, "nanogpt").items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tensors, "model_args": arguments, **beside}, path)


@pytest.mark.parametrize("place", ["out/meta.pkl", "data/plays/meta.pkl"])
def test_nanogpts_folder(tmp_path, in_process, place):
    """All of the configuration is in model_args; the characters are where sample.py finds them."""
    model = gpt2(activation="gelu", qkv_bias=False, linear_bias=False, norm_bias=False)
    nanogpt_checkpoint(tmp_path / "out/ckpt.pt", model, config={"dataset": "plays"})
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    write_meta(tmp_path / place, ja.CharTokenizer(LETTERS))
    source = open_source(tmp_path / "out")
    assert bits(source.model) == bits(model)
    assert source.model.config.n_head == 3
    assert source.model.config.dropout_rate == 0.25
    assert source.tokenizer.characters == LETTERS
    assert open_source(tmp_path / "out/ckpt.pt").tokenizer.characters == LETTERS


def test_model_args_that_are_not_those_of_the_weights(tmp_path, in_process):
    path = tmp_path / "ckpt.pt"
    nanogpt_checkpoint(path, gpt2(activation="gelu"))
    with pytest.raises(
        ja.InputError, match=r"qkv_bias is given as False, but the arrays have True"
    ):
        ja.load_model(path)


def test_meta_pickles_keep_the_order_of_their_ids(tmp_path):
    write_meta(tmp_path / "meta.pkl", ja.CharTokenizer(LETTERS))
    tokenizer = read_meta(tmp_path / "meta.pkl")
    assert tokenizer.decode([0, 1, 10]) == "kja"
    assert tokenizer.encode("kja").tolist() == [0, 1, 10]


# Hugging Face's


def huggingface(folder, **settings):
    config = transformers.GPT2Config(
        **({"vocab_size": V, "n_positions": T, "n_embd": 12, "n_layer": 1, "n_head": 3} | settings)
    )
    torch.manual_seed(1)
    module = transformers.GPT2LMHeadModel(config).eval()
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.4)
    module.save_pretrained(folder)
    return module


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


def parts(folder, kind="safetensors"):
    """A folder of Hugging Face's whose weights are in two files; the index that says so."""
    module = huggingface(folder)
    (folder / "model.safetensors").unlink()
    tensors = {k: v.clone() for k, v in module.state_dict().items() if k != "lm_head.weight"}
    stem = "model" if kind == "safetensors" else "pytorch_model"
    index = {}
    for i in range(2):
        part = {name: tensors[name] for name in list(tensors)[i::2]}
        file = f"{stem}-0000{i + 1}-of-00002.{kind}"
        if kind == "bin":
            torch.save(part, folder / file)
        else:
            safetensors.torch.save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    path = folder / f"{stem}.{kind}.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return module, path


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
