"""Damaged and lying safetensors files: a model, or one line, and little memory."""

import json
import re

import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import jax_attn as ja
from jax_attn.generate import __main__ as generate_cli
from jax_attn.interop import __main__ as interop_cli
from tests.damaged_weights import MANY, ODD, SIZES, flipped_and_cut, outcome
from tests.in_process import one_line
from tests.small_models import filled
from tests.weight_models import gpt, gpt2


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
    content = flipped_and_cut(data, whole)
    (tmp_path / "a.safetensors").write_bytes(content + data.draw(st.binary(max_size=3)))
    outcome(tmp_path / "a.safetensors")


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
