"""Texts that can be read only once, are written to meanwhile, or were moved."""

import hashlib
import json
import os
import shutil
import socket
import threading

import pytest

import jax_attn as ja
import train
from jax_attn.data import characters, file_bytes
from jax_attn.data.characters import Characters
from jax_attn.runs import checksums
from tests.came_to import records
from tests.everyday.texts import MARK, Read, file_of, refusal, text_of
from tests.in_process import FOX, SHORT

pytestmark = pytest.mark.usefixtures("no_pictures")


def fed(descriptor, chunks):
    def feed():
        with open(descriptor, "wb", buffering=0) as file:
            for chunk in chunks:
                file.write(chunk)

    threading.Thread(target=feed, daemon=True).start()


def anonymous(folder, chunks):
    reading, writing = os.pipe()
    fed(writing, chunks)
    return f"/dev/fd/{reading}"


def named(folder, chunks):
    os.mkfifo(folder / "fifo")
    fed(folder / "fifo", chunks)
    return folder / "fifo"


def of_one_byte_each(text):
    return [bytes([byte]) for byte in text.encode()]


@pytest.mark.parametrize(
    ("pipe", "chunks"),
    [
        pytest.param(anonymous, [FOX.encode()], id="as the shell makes it"),
        pytest.param(anonymous, [FOX.encode()] * 500, id="of 880 kB"),
        pytest.param(anonymous, of_one_byte_each("a€😀" * 20), id="that gives single bytes"),
        pytest.param(named, [FOX.encode()], id="with a name"),
        pytest.param(named, [MARK.encode(), FOX.encode()], id="with a name and a mark"),
    ],
)
def test_a_pipe_is_read_once(tmp_path, pipe, chunks):
    read = Read(pipe(tmp_path, chunks))
    content = b"".join(chunks)
    assert read.text == content.decode("utf-8-sig")
    assert read.corpus.sha256 == hashlib.sha256(content).hexdigest()
    (remark,) = read.remarks
    assert "is a pipe: it is read once" in remark
    assert "--data PATH" in remark


def without_end():
    while True:
        yield FOX.encode()


def test_a_pipe_without_an_end_is_left_before_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(Characters, "MOST_IN_MEMORY", file_bytes.PIECE)
    monkeypatch.setattr(characters, "LOOK_EVERY", file_bytes.PIECE)
    monkeypatch.setattr(characters, "SPARE", shutil.disk_usage(tmp_path).free - (1 << 23))
    line = refusal(anonymous(tmp_path, without_end()))
    assert f"{tmp_path / 'tokens'} has no room for the tokens of 0.0 GB and more" in line
    assert "name a folder with more in JAX_ATTN_CACHE" in line
    assert list((tmp_path / "tokens").iterdir()) == []


def a_socket(folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
    return folder / "s"


def a_loop(folder):
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param(lambda folder: "/dev/zero", "it is a device or a socket", id="zeros"),
        pytest.param(lambda folder: "/dev/null", "it is a device or a socket", id="nothing"),
        pytest.param(a_socket, "it is a device or a socket", id="a socket"),
        pytest.param(lambda folder: folder, "a folder without texts, *.txt or *", id="a folder"),
        pytest.param(a_loop, "cannot be read (Too many levels", id="a link to itself"),
        pytest.param(lambda folder: folder / "a\0b", "null byte", id="a zero in its name"),
        pytest.param(lambda folder: FOX, "a text, not the text itself", id="the text itself"),
        pytest.param(lambda folder: "x" * 5000, "not the text itself", id="the text in one line"),
        pytest.param(lambda folder: "a\nb", r"'a\nb': there is no such file", id="two lines"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, path, said):
    assert said in refusal(path(tmp_path))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes() * 2), id="it grows"),
        pytest.param(lambda path: path.write_bytes(b"short"), id="it shrinks"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes().upper()), id="it changes"),
    ],
)
def test_a_file_that_is_written_to_while_it_is_read(tmp_path, monkeypatch, write):
    path = file_of(tmp_path, FOX)
    os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(file_bytes, "PIECE", 1000)
    add, pieces = Characters.add, []

    def write_after_the_first(self, text):
        if not pieces:
            write(path)
        pieces.append(text)
        return add(self, text)

    monkeypatch.setattr(Characters, "add", write_after_the_first)
    assert "was written to while it was read; wait until it is whole" in refusal(path)


def test_one_that_is_written_to_for_ever_is_not_followed(tmp_path, monkeypatch):
    path = file_of(tmp_path, FOX)
    monkeypatch.setattr(file_bytes, "PIECE", 1000)
    add, pieces = Characters.add, []

    def append(self, text):
        with path.open("a") as file:
            file.write(FOX)
        pieces.append(text)
        return add(self, text)

    monkeypatch.setattr(Characters, "add", append)
    assert "was written to" in refusal(path)
    assert len(pieces) <= 2


# A run from the one to the other.


def losses(run):
    return [record["train_loss"] for record in records(run)]


def test_a_run_in_an_encoding_goes_on_in_it(call, tmp_path):
    for name, encoding in (("plain", "utf-8"), ("wide", "utf-16")):
        (tmp_path / name).write_bytes(FOX.encode(encoding))
        arguments = ["--data", tmp_path / name, "--out", tmp_path / f"run-{name}"]
        code, _, err = call(train.main, "bigram", *SHORT, *arguments, "--encoding", encoding)
        assert (code, err) == (0, "")
        assert call(train.main, "--resume", tmp_path / f"run-{name}", "--steps", 6)[0] == 0
    record = json.loads((tmp_path / "run-wide" / "config.json").read_text())
    assert record["config"]["encoding"] == "utf-16"
    assert record["corpus"]["sha256"] == hashlib.sha256(FOX.encode("utf-16")).hexdigest()
    assert losses(tmp_path / "run-wide") == losses(tmp_path / "run-plain")


def test_a_run_from_a_pipe_goes_on_from_a_file_only(call, tmp_path):
    run = tmp_path / "run"
    pipe = anonymous(tmp_path, [FOX.encode()])
    code, out, _ = call(train.main, "bigram", *SHORT, "--data", pipe, "--out", run)
    assert code == 0
    assert "is a pipe: it is read once" in out
    os.close(int(pipe.rpartition("/")[2]))
    plain = file_of(tmp_path, FOX)
    for gone in (False, True):
        code, _, err = call(train.main, "--resume", run)
        assert code == 2
        (line,) = err.splitlines()
        assert f"give it with: python train.py --resume {run} --data PATH" in line
        with pytest.raises(ja.InputError, match="--data PATH"):
            ja.resume(run)
        if not gone:  # another pipe is where the first one was: it is not waited for
            os.mkfifo(tmp_path / "fifo")
            record = json.loads((run / "config.json").read_text())
            record["config"]["data"] = str(tmp_path / "fifo")
            (run / "config.json").write_text(json.dumps(record))
    assert ja.resume(run, data=plain, steps=6).records[-1]["step"] == 6
    again = tmp_path / "again"
    assert call(train.main, "bigram", *SHORT, "--data", plain, "--out", again)[0] == 0
    assert losses(again) == losses(run)[:2]


def test_a_run_of_the_time_when_a_mark_was_a_symbol_has_it_still(call, tmp_path):
    """Its folder as it was made then, with the mark among the symbols and the characters."""
    path = file_of(tmp_path, MARK + FOX)
    corpus = ja.load_corpus(str(path), print).with_mark()
    assert text_of(corpus) == MARK + FOX
    assert corpus.tokenizer.characters.endswith(MARK)
    run = tmp_path / "run"
    assert call(train.main, "bigram", *SHORT, "--data", path, "--out", run)[0] == 0
    shutil.rmtree(run / "checkpoints")
    record = json.loads((run / "config.json").read_text())
    record["corpus"]["characters"] += 1
    for name in ("encoding", "eval_tokens"):
        del record["config"][name]
    (run / "config.json").write_text(json.dumps(record))
    corpus.tokenizer.save(run / "tokenizer.json")
    code, out, err = call(train.main, "--resume", run)
    assert (code, err) == (0, "")
    assert f"{len(FOX) + 1:,} characters, 29 symbols" in out
    assert checksums.fault(run / "checkpoints" / "4") is None
    assert ja.load_model(run).token_embedding_table.num_embeddings == 29
