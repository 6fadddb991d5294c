"""Large texts: tokens written once into the cache folder, and mapped from there."""

import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
import train
from jax_attn.data import load_corpus, token_file
from jax_attn.data.characters import Characters
from jax_attn.data.mapped import Windows, is_mapped
from jax_attn.training.host_batches import HostBatches, _drawn, random_batches
from tests.came_to import bits, records
from tests.everyday.texts import text_of
from tests.in_process import FOX, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")

RUN = ["--batch-size", "2", "--block-size", "8", "--eval-every", "5", "--checkpoint-every", "4",
       "--sample-tokens", "5"]  # fmt: skip
TEXT = "Où êtes-vous ? " * 99 + FOX


@pytest.fixture
def large(monkeypatch, tmp_path):
    """From a thousand bytes on a text is large; the folder of the tokens."""
    monkeypatch.setenv("JAX_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Characters, "MOST_IN_MEMORY", 1_000)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def made(large):
    return sorted(path for path in large.iterdir() if path.is_dir())


def not_read(monkeypatch):
    """From here on tokens have to be found."""

    def refuse(self, text):
        raise AssertionError("a text was read")

    monkeypatch.setattr(Characters, "add", refuse)


# What is kept, and found again.


@pytest.mark.parametrize("tokens", ["char", "bytes", "bpe:270"])
@pytest.mark.parametrize("validation", [None, "other.txt"])
def test_tokens_are_written_once(large, path, tmp_path, monkeypatch, tokens, validation):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("fox ☃ box\n" * 9, encoding="utf-8")
    said = []
    given = {"tokens": tokens, "validation": validation}
    with monkeypatch.context() as patch:
        patch.setattr(Characters, "MOST_IN_MEMORY", 1 << 26)
        small = load_corpus(path, print, **given)
    first = load_corpus(path, said.append, **given)
    assert said == [f"{path} is large: its tokens are written once, and read from {large}"]
    not_read(monkeypatch)
    found = load_corpus(path, print, **given)
    again = load_corpus(path, print, **given | {"tokenizer": small.tokenizer})
    assert is_mapped(first.train)
    assert not is_mapped(small.train)
    for corpus in (first, found, again):
        assert corpus.tokenizer.record() == small.tokenizer.record()
        assert (corpus.sha256, corpus.characters) == (small.sha256, small.characters)
        for part, same in ((corpus.train, small.train), (corpus.validation, small.validation)):
            assert part.dtype == same.dtype
            np.testing.assert_array_equal(part, same)
    assert len(made(large)) == 1


@pytest.mark.parametrize(
    ("change", "n"),
    [
        pytest.param({"tokens": "bytes"}, 2, id="other tokens"),
        pytest.param({"validation_fraction": 0.2}, 2, id="another split"),
        pytest.param({"encoding": "latin-1"}, 2, id="another encoding"),
        pytest.param({"encoding": "UTF8"}, 1, id="another name of it"),
    ],
)
def test_what_the_tokens_depend_on(large, path, change, n):
    for given in ({}, change):
        load_corpus(path, lambda line: None, **given)
    assert len(made(large)) == n


def test_more_than_256_symbols_take_two_bytes(large, tmp_path):
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 9 + "abc"
    (tmp_path / "text.txt").write_text("a" * 5_000 + text, encoding="utf-8")
    corpus = load_corpus(tmp_path / "text.txt", lambda line: None)
    assert corpus.train.dtype == np.uint16
    assert text_of(corpus) == "a" * 5_000 + text


def test_a_large_text_from_a_pipe(large, path):
    reading, writing = os.pipe()
    content = path.read_bytes()
    threading.Thread(target=_feed, args=(writing, content), daemon=True).start()
    said = []
    corpus = load_corpus(f"/dev/fd/{reading}", said.append)
    os.close(reading)
    assert text_of(corpus) == TEXT
    assert ["is a pipe" in said[0], "is large" in said[1]] == [True, True]
    load_corpus(path, said.append)
    assert len(said) == 2  # it is the same text


def _feed(descriptor, content):
    with open(descriptor, "wb") as pipe:
        pipe.write(content)


# What is damaged, half made or in the way.


def cut(folder):
    with (folder / "train.bin").open("r+b") as file:
        file.truncate(1_000)


def lied(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"characters": [1, 2]}))


def without(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut, id="cut off"),
        pytest.param(lied, id="altered"),
        pytest.param(without("validation.bin"), id="half gone"),
        pytest.param(without("about.json"), id="unknown"),
        pytest.param(lambda folder: (folder / "about.json").write_text("{"), id="torn"),
    ],
)
def test_damaged_tokens_are_made_again(large, path, damage):
    load_corpus(path, lambda line: None)
    (folder,) = made(large)
    damage(folder)
    said = []
    corpus = load_corpus(path, said.append)
    assert text_of(corpus) == TEXT
    assert len(said) == 1
    assert made(large) == [folder]


def test_what_a_killed_process_left_is_removed(large, path):
    for name in ("0123-45.writing", "other-1.writing"):
        (large / name).mkdir(parents=True)
    load_corpus(path, lambda line: None)
    assert len(made(large)) == 1


def test_several_at_once_make_them_once(large, path, monkeypatch):
    """The others wait, and say so, or come later."""
    said, written, gate = [], [], threading.Barrier(3)
    write = token_file._write

    def count(*arguments):
        written.append(arguments[0].name)
        return write(*arguments)

    monkeypatch.setattr(token_file, "_write", count)
    corpora = []

    def load():
        gate.wait()
        corpora.append(load_corpus(path, said.append))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == ["train.bin", "validation.bin"]
    assert [text_of(corpus) for corpus in corpora] == [TEXT] * 3


def test_a_cache_that_cannot_be_used_is_named(large, path, call, tmp_path):
    large.parent.write_text("a file")
    line = one_line(call(train.main, "bigram", *RUN, "--data", path, "--out", tmp_path / "run"))
    assert f"the tokens of a large text are kept in {large.parent}, which cannot be used" in line
    assert line.endswith("name another folder in JAX_ATTN_CACHE")
    assert not (tmp_path / "run").exists()


def test_nothing_is_left_of_tokens_that_cannot_be_made(large, path):
    tokenizer = ja.CharTokenizer("abc")
    with pytest.raises(ja.InputError, match="outside the vocabulary"):
        load_corpus(path, lambda line: None, tokenizer=tokenizer)
    assert made(large) == []


# Runs.


@pytest.mark.parametrize(
    "rng", [pytest.param("jax", id="windows of JAX"), pytest.param("torch", id="windows of torch")]
)
def test_a_run_on_a_map_has_the_bits_of_one_in_memory(
    large, path, call, tmp_path, monkeypatch, rng
):
    """Left alone or stopped in between, whatever its chunks."""
    given = ["bigram", *RUN, "--data", path, "--rng", rng, "--steps"]
    with monkeypatch.context() as patch:
        patch.setattr(Characters, "MOST_IN_MEMORY", 1 << 26)
        code, out, _ = call(train.main, *given, 10, "--out", tmp_path / "memory")
        assert (code, "mapped" in out) == (0, False)
    code, out, _ = call(train.main, *given, 10, "--out", tmp_path / "map")
    assert (code, "mapped from files" in out) == (0, True)
    assert call(train.main, *given, 6, "--out", tmp_path / "stopped")[0] == 0
    not_read(monkeypatch)
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "6")
    assert call(train.main, "--resume", tmp_path / "stopped", "--steps", 10)[0] == 0
    whole, memory = records(tmp_path / "memory"), bits(ja.load_model(tmp_path / "memory"))
    assert records(tmp_path / "map") == whole
    assert records(tmp_path / "stopped")[-1] == whole[-1]
    for name in ("map", "stopped"):
        assert bits(ja.load_model(tmp_path / name)) == memory
        assert (tmp_path / name / "sample.txt").read_bytes() == (
            tmp_path / "memory" / "sample.txt"
        ).read_bytes()


def test_losses_over_a_map_are_those_over_an_array(large, path):
    corpus = load_corpus(path, lambda line: None)
    model = ja.BigramLanguageModel(corpus.tokenizer.vocab_size, rngs=nnx.Rngs(0))
    array, key = np.array(corpus.train), jax.random.key(1)
    sizes = {"block_size": 8, "batch_size": 4}
    assert ja.evaluate(model, corpus.train, **sizes) == ja.evaluate(model, array, **sizes)
    of_map, of_array = (
        ja.estimate_loss(model, random_batches(tokens, key, 4, 8), 5)
        for tokens in (corpus.train, array)
    )
    assert of_map == of_array


# Windows.


def test_windows_are_those_of_the_device_whichever_way_they_come(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 60_000, 1_000).astype(np.uint16)
    tokens.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", np.uint16, mode="r")
    key = jax.random.key(3)
    on_device = ja.RandomBatches(jnp.asarray(tokens), key, 3, 5)
    for source in (mapped, mapped[:], tokens):
        host = HostBatches(source, key, 3, 5)
        host.prepare(4, 6, 8)  # asked for, and then not
        given = host.given(7, 6, 8)
        assert given.inputs.shape == (8, 3, 5)
        for step in range(7, 13):
            expected = on_device.batch(jnp.int32(step))
            for one, other in zip(expected, host.batch(jnp.int32(step)), strict=True):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(given.inputs[step - 7], expected[0])
            np.testing.assert_array_equal(given.targets[step - 7], expected[1])


def test_a_part_of_a_map_is_read_where_it_is(tmp_path):
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    part = np.memmap(tmp_path / "tokens.bin", np.uint16, mode="r", offset=20)
    starts = np.array([0, 7])
    np.testing.assert_array_equal(Windows(part).at(starts, 2), [[10, 11], [17, 18]])
    np.testing.assert_array_equal(Windows(part[5:]).at(starts, 2), [[15, 16], [22, 23]])


def test_a_file_that_was_cut_short_is_said_to_be(tmp_path):
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    windows = Windows(np.memmap(tmp_path / "tokens.bin", np.uint16, mode="r"))
    os.truncate(tmp_path / "tokens.bin", 101)
    np.testing.assert_array_equal(windows.at(np.array([40]), 10), [np.arange(40, 50)])
    with pytest.raises(ja.InputError, match=r"tokens.bin has been cut short; remove its folder"):
        windows.at(np.array([0, 45]), 10)


def test_places_beyond_2_to_the_32_are_drawn_and_read(tmp_path):
    """Of a file of eight billion tokens that is nearly all a hole."""
    n = 1 << 33
    tokens = np.memmap(tmp_path / "tokens.bin", np.uint8, mode="w+", shape=(n,))
    host = HostBatches(tokens, jax.random.key(0), 64, 2)
    inputs, _ = host.batch(jnp.int32(3))
    assert not np.asarray(inputs).any()
    drawn = _drawn(jax.random.key(0), np.int32([3]), np.int32(0), 64, n - 2)
    starts = host.starts(3, drawn)
    assert starts.shape == (1, 64)
    assert 0 <= starts.min() < 1 << 31 < 1 << 32 < starts.max() < n - 2
    tokens[starts[0]] = np.arange(64) + 1
    inputs, _ = host.batch(jnp.int32(3))
    np.testing.assert_array_equal(inputs[:, 0], np.arange(64) + 1)


def test_a_device_has_no_places_beyond_2_to_the_31():
    tokens = jax.ShapeDtypeStruct((1 << 31,), jnp.uint8)
    with pytest.raises(ja.InputError, match="give HostBatches of them"):
        ja.RandomBatches(tokens, jax.random.key(0), 2, 8).batch(jnp.int32(0))


def test_too_few_tokens_for_a_window():
    with pytest.raises(ja.InputError, match="8 tokens are too few for block_size 8"):
        HostBatches(np.zeros(8, np.uint8), jax.random.key(0), 2, 8)
