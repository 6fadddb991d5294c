"""torch's files and nanoGPT's: what goes in comes out, and what is said beside it is heard."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attn as ja
import torch_ref
import torch_ref.files
from jax_attn.interop import torch_file
from jax_attn.interop.meta_pickle import read_meta, write_meta
from jax_attn.runs.source import open_source
from tests.came_to import bits
from tests.weight_models import LETTERS, T, V, gpt, gpt2


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
