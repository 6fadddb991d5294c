"""Damaged and malicious files of torch, and nanoGPT's meta.pkl: one line, and no call."""

import contextlib
import os
import pickle
import re
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import jax_attn as ja
import torch_ref
import torch_ref.files
from jax_attn.interop.meta_pickle import read_meta, write_meta
from tests.damaged_weights import MANY, flipped_and_cut, outcome


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
    content = b""
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        if not path.exists():
            state_dict = torch_ref.BigramLanguageModel(3).state_dict()
            torch.save({"model": state_dict}, path, _use_new_zipfile_serialization=zipped)
        if data.draw(st.booleans()) or not content:
            content = path.read_bytes()
    (tmp_path / "a.pt").write_bytes(flipped_and_cut(data, content, least=1))
    outcome(tmp_path / "a.pt")


def test_a_name_that_says_it_is_long(tmp_path, in_process):
    state_dict = torch_ref.BigramLanguageModel(3).state_dict()
    torch.save(state_dict, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    length, name = b"\x1c\0\0\0", b"token_embedding_table.weight"
    assert length + name in content
    (tmp_path / "a.pt").write_bytes(content.replace(length + name, b"\x1c\0\0\x30" + name))
    assert "no whole file of torch.save" in outcome(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_off(tmp_path, in_process, zipped):
    """At twenty places: in words, none of them cut in the middle, and none of an errno."""
    state_dict = torch_ref.BigramLanguageModel(9).state_dict()
    torch.save(state_dict, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "a.pt").read_bytes()
    for n in range(5, len(content), len(content) // 20):
        (tmp_path / "a.pt").write_bytes(content[:n])
        found = outcome(tmp_path / "a.pt")
        assert "no whole file of torch.save" in found
        assert ("its end is cut off; fetch or copy it again" in found) == zipped
        assert found[-1] in ").n"


def test_a_long_reason_ends_with_a_word():
    error = ValueError("a reason " * 30 + "\nand more")
    assert torch_ref.files._first_line(error).endswith("reason a …")


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
    whole = (tmp_path / "meta.pkl").read_bytes()
    (tmp_path / "meta.pkl").write_bytes(flipped_and_cut(data, whole))
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
