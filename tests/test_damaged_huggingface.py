"""Damaged and lying folders of Hugging Face's: a model, or one line."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.damaged_weights import MANY, ODD, outcome
from tests.huggingface_folders import parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    parts(folder / "hf")
    return folder / "hf"


def renamed(to):
    def change(folder, index):
        for name in index["weight_map"]:
            index["weight_map"][name] = to
            return

    return change


def link_out(folder, index):
    file = folder / "model-00001-of-00002.safetensors"
    shutil.move(file, folder.parent / "elsewhere.safetensors")
    file.symlink_to("../elsewhere.safetensors")


def lose(folder, index):
    (folder / "model-00001-of-00002.safetensors").unlink()


def swap(folder, index):
    names = list(index["weight_map"])
    first, second = names[0], names[-1]
    parts = index["weight_map"]
    parts[first], parts[second] = parts[second], parts[first]


def leave_out(folder, index):
    del index["weight_map"]["transformer.ln_f.bias"]


OUT = "which is no file of its folder"
TRICKS = {
    "a folder above": (renamed("../hf/model-00001-of-00002.safetensors"), OUT),
    "a folder": (renamed("a/b.safetensors"), OUT),
    "a folder of Windows": (renamed("a\\b.safetensors"), OUT),
    "a drive": (renamed("C:b.safetensors"), OUT),
    "an absolute path": (renamed("/etc/passwd"), OUT),
    "another kind of file": (renamed("config.json"), OUT),
    "nothing": (renamed(""), OUT),
    "the folder itself": (renamed("."), OUT),
    "a name with NUL": (renamed("a\0.safetensors"), OUT),
    "no name": (renamed(3), OUT),
    "a link out": (link_out, "is a link out of its folder; put the file itself there"),
    "a part that is missing": (lose, "-00001-of-00002.safetensors is missing, which model.safe"),
    "parts exchanged": (swap, "it is not there"),
    "a name left out": (leave_out, "'transformer.ln_f.bias': the index does not say so"),
    "no index": (lambda folder, index: index.clear(), "has no weight_map"),
    "a list": (lambda folder, index: index.update(weight_map=[]), "has no weight_map"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_of_an_index(tmp_path, folder, trick):
    shutil.copytree(folder, tmp_path / "hf")
    change, said = TRICKS[trick]
    path = tmp_path / "hf/model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(tmp_path / "hf", index)
    path.write_text(json.dumps(index))
    assert said in outcome(tmp_path / "hf")


@settings(MANY, max_examples=20)
@given(
    config=st.dictionaries(
        st.sampled_from(
            ["n_head", "n_layer", "n_embd", "n_positions", "vocab_size", "n_inner", "model_type",
             "activation_function", "layer_norm_epsilon", "tie_word_embeddings", "pruned_heads",
             "scale_attn_weights", "hidden_size", "architectures", "add_cross_attention"]
        ),
        ODD | st.sampled_from([1, 3, 12, 10**9, "gelu", {}, []]),
        max_size=3,
    )
)  # fmt: skip
def test_configurations_that_lie(tmp_path, folder, config):
    if not (tmp_path / "hf").exists():
        shutil.copytree(folder, tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    whole = json.loads((folder / "config.json").read_text())
    path.write_text(json.dumps(whole | config))
    outcome(tmp_path / "hf")


def test_a_folder_without_a_part(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf/config.json").write_text('{"model_type": ')
    assert "config.json is damaged" in outcome(tmp_path / "hf")
    (tmp_path / "hf/config.json").unlink()
    assert "has weights but no config.json" in outcome(tmp_path / "hf")
    (tmp_path / "hf/config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "hf/model.safetensors.index.json").unlink()
    assert "has a config.json but no model.safetensors or pytorch" in outcome(tmp_path / "hf")
