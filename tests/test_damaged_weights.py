"""Damaged, lying and malicious files of weights: a model, or one line, little memory, no call."""

import contextlib
import json
import os
import pickle
import re
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jax_attn as ja
import torch_ref
import torch_ref.files
from jax_attn.generate import __main__ as generate_cli
from jax_attn.interop import __main__ as interop_cli
from jax_attn.interop.meta_pickle import read_meta, write_meta
from tests.in_process import one_line
from tests.small_models import filled
from tests.test_weight_files import gpt, gpt2, parts

MANY = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SPARE = 100_000_000  # bytes that a small file may take, most of them for a moment


def outcome(path, **fields):
    """A model's type, or the line of a refusal. Anything else is raised."""
    tracemalloc.start()
    try:
        found = type(ja.load_model(path, **fields)).__name__
    except ja.InputError as error:
        found = str(error)
        assert "\n" not in found
        assert len(found) < 1000
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < SPARE, f"{peak:,} bytes"
    return found


# safetensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a bigram's file, small enough that every byte of it is hit."""
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    model = filled(lambda: ja.BigramLanguageModel(3, rngs=nnx.Rngs(0)))
    ja.save_safetensors(model, path, tokenizer=ja.CharTokenizer("abc"))
    return path.read_bytes()


@MANY
@given(data=st.data())
def test_bits_and_cuts(tmp_path, whole, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    (tmp_path / "a.safetensors").write_bytes(content + data.draw(st.binary(max_size=3)))
    outcome(tmp_path / "a.safetensors")


SIZES = st.integers(-2, 2**64) | st.sampled_from([0, 1, 12, 36, 2**31, 2**63 - 1, 10**30])
ODD = st.none() | st.booleans() | st.text(max_size=3) | st.floats() | SIZES
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "BOOL", "F4", "", 3]),
        "shape": st.lists(SIZES, max_size=3) | st.lists(ODD, max_size=2) | ODD,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | st.lists(ODD, max_size=3) | ODD,
    },
    optional={"more": ODD},
)
NAMES = st.sampled_from(["token_embedding_table.weight", "lm_head.weight", "", "é\n", "x" * 2000])
RECORDS = st.dictionaries(
    st.sampled_from(["kind", "vocab_size", "n_head", "n_layer", "activation", "dtype", "layout"]),
    ODD | st.sampled_from(["gpt", "bigram", "relu", 10**12]),
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "jax_attn.layout": st.sampled_from(["lecture", "gpt2", "x", ""]),
        "jax_attn.model": RECORDS.map(json.dumps) | st.sampled_from(["", "[]", "[" * 5000, "3"]),
        "jax_attn.tokenizer": st.sampled_from(
            ["{}", "[", '{"kind": "characters"}', '{"model": 3}']
        ),
        "odd": ODD,
    },
)


def with_header(header, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


@MANY
@given(header=st.dictionaries(NAMES, TENSOR, max_size=2), metadata=METADATA | ODD)
def test_lying_headers(tmp_path, header, metadata):
    (tmp_path / "a.safetensors").write_bytes(
        with_header({"__metadata__": metadata, **header}, bytes(36))
    )
    outcome(tmp_path / "a.safetensors")


@MANY
@given(record=RECORDS, tokenizer=st.sampled_from(["abc", "ab", "abcd", "aa", ""]))
def test_what_a_whole_file_says_of_itself(tmp_path, whole, record, tokenizer):
    """Its tensors are whole, its words any."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"]["jax_attn.model"] = json.dumps(record)
    header["__metadata__"]["jax_attn.tokenizer"] = json.dumps({"characters": tokenizer})
    (tmp_path / "a.safetensors").write_bytes(with_header(header, whole[8 + length :]))
    outcome(tmp_path / "a.safetensors")


def one(shape, offsets, dtype="F32"):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


two = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.replace("}}", "},")
LIES = {
    "empty": (b"", "it has 0 bytes"),
    "a header beyond the file": ((2**40).to_bytes(8, "little") + b"{}", "fewer than its header of"),
    "a large header": ((2**27).to_bytes(8, "little") + b"{" * (2**27), "at most 67,108,864"),
    "no JSON": (with_header(b"{"), "its header is no JSON"),
    "a list": (with_header([]), "its header is no JSON object"),
    "deep": (with_header(b'{"a":' * 200_000), "nested too deeply"),
    "twice": (with_header(two.encode() + two[1:-1].encode() + b"}", b"\0"), "has 'a' twice"),
    "a terabyte": (with_header(one([2**38], [0, 2**40])), "by its header there are 1,099,511"),
    "a terabyte of nothing": (with_header(one([2**40, 0], [0, 0])), "neither|no weights|missing"),
    "more than its bytes": (with_header(one([2**38], [0, 4]), bytes(4)), "has 4 bytes instead of"),
    "an overlap": (
        with_header(one([1], [0, 4]) | {"b": one([1], [0, 4])["a"]}, bytes(4)),
        "'b' overlaps the tensor before it",
    ),
    "a gap": (with_header(one([1], [4, 8]), bytes(8)), "'a' leaves a gap before"),
    "bytes of nobody": (with_header(one([1], [0, 4]), bytes(9)), "by its header there are"),
    "backwards": (with_header(one([1], [4, 0]), bytes(4)), "'a' has no place but [4, 0]"),
    "below zero": (with_header(one([-1], [0, 4]), bytes(4)), "'a' has no shape but [-1]"),
    "another type": (with_header(one([1], [0, 4], "F4"), bytes(4)), "'a' is of type 'F4'; known"),
    "metadata": (with_header({"__metadata__": {"a": 1}}), "its __metadata__ are no texts"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named(tmp_path, lie):
    content, said = LIES[lie]
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(content[: 1 << 20])
        file.truncate(len(content))  # a large one without its bytes
    found = outcome(path)
    assert found.startswith(str(path))
    assert re.search(said if "|" in said else re.escape(said), found), found


def test_commands_say_one_line(call, tmp_path, whole):
    (tmp_path / "a.safetensors").write_bytes(whole[:-1])
    for main, *more in ((generate_cli.main,), (interop_cli.main, "--to", "gpt2", "--out", "b")):
        line = one_line(call(main, tmp_path / "a.safetensors", *more))
        assert "a.safetensors is no safetensors file that can be used: it has" in line
    assert not (tmp_path / "b").exists()


def test_tensors_of_another_model(tmp_path):
    """Missing, extra, mis-shaped, of another layout: by name."""
    path = tmp_path / "a.safetensors"
    spoilt = {
        "missing": (lambda d: d.pop("blocks.0.ln1.weight"), "missing: blocks.0.ln1.weight"),
        "extra": (lambda d: d.update(more=d["ln_f.bias"]), "not expected: more"),
        "mis-shaped": (
            lambda d: d.update({"ln_f.bias": d["ln_f.bias"][:5]}),
            "ln_f.bias has shape (5,); the model needs (12,)",
        ),
        "a mask": (
            lambda d: d.update({"blocks.0.sa.heads.1.tril": np.ones((8, 8), np.float32)}),
            "blocks.0.sa.heads.1.tril (8, 8) is not the causal mask",
        ),
        "no numbers": (
            lambda d: d.update({"ln_f.bias": np.ones(12, bool)}),
            "ln_f.bias is of type bool; weights are real numbers",
        ),
    }
    from safetensors.numpy import save_file

    for spoil, said in spoilt.values():
        state_dict = ja.to_state_dict(gpt())
        spoil(state_dict)
        save_file(state_dict, path)
        assert said in outcome(path)
    ja.save_safetensors(gpt2(), tmp_path / "b.safetensors", "gpt2")
    said = outcome(tmp_path / "b.safetensors", layout="lecture")
    assert said.endswith("layout is given as lecture, but the file says gpt2")


# torch's files


class Calls:
    """What a pickle of runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


MALICIOUS = {
    "alone": lambda bad: bad,
    "beside weights": lambda bad: {"model": {"w": torch.ones(2)}, "config": bad},
    "as a weight": lambda bad: {"w": torch.ones(2), "v": bad},
    "as a name": lambda bad: {"w": torch.ones(2), bad: 3},
}


@pytest.mark.parametrize("where", MALICIOUS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_calls(tmp_path, in_process, where, zipped):
    called, path = tmp_path / "called", tmp_path / "a.pt"
    torch.save(MALICIOUS[where](Calls(called)), path, _use_new_zipfile_serialization=zipped)
    found = outcome(path)
    assert not called.exists()
    assert "system, which would be run to be loaded" in found
    assert "torch.save(model.state_dict(), PATH)" in found


def test_a_plain_pickle_that_calls(tmp_path, in_process):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Calls(tmp_path / "called")))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": Calls(tmp_path / "called")}))
    assert "no whole file of torch.save" in outcome(tmp_path / "a.pt")
    with pytest.raises(ja.InputError, match=r"meta.pkl is no meta.pkl .* more than plain values"):
        read_meta(tmp_path / "meta.pkl")
    assert not (tmp_path / "called").exists()


REFUSED = {
    "a module": (torch.nn.Linear(2, 2), "holds torch.nn.modules.linear.Linear, which would be run"),
    "a tensor": (torch.ones(2), "it holds a Tensor, no state dict"),
    "no weights": ({"epoch": 3}, "it holds no state dict, neither as a whole nor as model, "),
    "a list inside": ({"w": torch.ones(2), "v": [1]}, "its entry 'v' is a list, no tensor"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "'w' is no plain tensor (torch.sparse_coo, cpu)"),
    "meta": ({"w": torch.empty(3, device="meta")}, "'w' is no plain tensor (torch.strided, meta)"),
    "expanded": (
        {"w": torch.ones(1).expand(10**6, 10**6)},
        "'w' of shape (1000000, 1000000) has 4 bytes in the file",
    ),
    "many views": (
        {str(i): torch.as_strided(BASE, (999_000,), (1,), i) for i in range(900)}
        if (BASE := torch.ones(1_000_000)) is not None
        else {},
        "its tensors would take many times what the file holds",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_state_dict_is_said(tmp_path, in_process, what):
    value, said = REFUSED[what]
    torch.save(value, tmp_path / "a.pt")
    assert said in outcome(tmp_path / "a.pt")


@MANY
@given(data=st.data())
def test_bits_and_cuts_of_torch_files(tmp_path, in_process, data):
    content = bytearray()
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        if not path.exists():
            state_dict = torch_ref.BigramLanguageModel(3).state_dict()
            torch.save({"model": state_dict}, path, _use_new_zipfile_serialization=zipped)
        if data.draw(st.booleans()) or not content:
            content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    (tmp_path / "a.pt").write_bytes(content)
    outcome(tmp_path / "a.pt")


def test_a_name_that_says_it_is_long(tmp_path, in_process):
    state_dict = torch_ref.BigramLanguageModel(3).state_dict()
    torch.save(state_dict, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    length, name = b"\x1c\0\0\0", b"token_embedding_table.weight"
    assert length + name in content
    (tmp_path / "a.pt").write_bytes(content.replace(length + name, b"\x1c\0\0\x30" + name))
    assert "no whole file of torch.save" in outcome(tmp_path / "a.pt")


def test_memory_of_the_process_is_bounded(tmp_path):
    """A bytearray is none of the classes that are refused, but as large as it says."""

    class Large:
        def __reduce__(self):
            return bytearray, (2 << 30,)

    torch.save({"model": {"w": torch.ones(2)}, "config": Large()}, tmp_path / "a.pt")
    assert "it would take more memory than a file of its size may" in outcome(tmp_path / "a.pt")


def test_a_zip_of_something_else(tmp_path, in_process):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 10_000_000)
    assert "no whole file of torch.save" in outcome(tmp_path / "a.pt")


# nanoGPT's meta.pkl


@MANY
@given(data=st.data())
def test_bits_and_cuts_of_meta_pickles(tmp_path, data):
    write_meta(tmp_path / "meta.pkl", ja.CharTokenizer("abc"))
    content = bytearray((tmp_path / "meta.pkl").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    (tmp_path / "meta.pkl").write_bytes(content)
    with contextlib.suppress(ja.InputError):
        read_meta(tmp_path / "meta.pkl")


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ([], "it has no table itos"),
        ({"stoi": {}}, "it has no table itos"),
        ({"itos": {0: "a", 2: "b"}}, "the ids of its itos are not 0 to 1"),
        ({"itos": {0: "ab"}}, "its itos has 'ab', which is not one character"),
        ({"itos": {0: None}}, "its itos has None, which is not one character"),
        ({"itos": {0: "a"}, "stoi": {"a": 1}}, "its stoi is not the inverse of its itos"),
        ({"itos": {0: "a"}, "stoi": {"a": 0}, "vocab_size": 2}, "its vocab_size is not the 1"),
    ],
)
def test_what_is_no_table_of_characters(tmp_path, meta, said):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(ja.InputError, match=re.escape(said)):
        read_meta(tmp_path / "meta.pkl")


def test_a_meta_pickle_that_reserves_memory(tmp_path):
    """Its first place in the unpickler's memory is the two billionth."""
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x04}r\xff\xff\xff\x7f.")
    with pytest.raises(ja.InputError, match="it is a damaged pickle"):
        read_meta(tmp_path / "meta.pkl")


# Hugging Face's indexes


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
