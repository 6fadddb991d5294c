"""Texts that cannot be read twice, are in another encoding, carry a byte order mark or are none."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import socket
import threading
import zipfile

import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn import text_file
from jax_attn.runs import checksums

pytestmark = pytest.mark.usefixtures("no_pictures")

FOX = "the quick brown fox jumps over the lazy dog\n" * 40
FRENCH = "Où êtes-vous allé cet été ? C'était très agréable à la crêperie.\n"
TYPEWRITER = "It’s “so” — she said…\n"
CZECH = "Příliš žluťoučký kůň úpěl, věděl že má štěstí.\n"
TURKISH = "Şimdi çocuklar için ışığı açtım, güneş doğdu.\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга.\n"
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.\n"
HEBREW = "כל בני האדם נולדו בני חורין ושווים בערכם\n"
ARABIC = "يولد جميع الناس أحرارا متساوين في الكرامة\n"
CHINESE = "人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。\n"
TAIWANESE = "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心。\n"
JAPANESE = "すべての人間は、生まれながらにして自由であり、平等である。\n"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 존엄과 권리에 있어 동등하다.\n"
THAI = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน\n"
ENGLISH = "All human beings are born free.\n"
MARK = "\ufeff"


class Read:
    """What `load_corpus` makes of a path."""

    def __init__(self, path, encoding="utf-8"):
        self.remarks = []
        self.corpus = ja.load_corpus(str(path), self.remarks.append, encoding=encoding)
        self.text = self.corpus.tokenizer.decode(self.corpus.tokens)


def refusal(path, encoding="utf-8"):
    with pytest.raises(ja.InputError) as caught:
        Read(path, encoding)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message


def file_of(folder, content, encoding="utf-8"):
    path = folder / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


# 1. Texts that can be read only once.


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


def test_a_pipe_without_an_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "MOST_CHARACTERS", 10 * text_file.PIECE)
    assert "longer than 10,485,760 characters" in refusal(anonymous(tmp_path, without_end()))


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
        pytest.param(lambda folder: folder, "it is a folder); give one file", id="a folder"),
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
    monkeypatch.setattr(text_file, "PIECE", 1000)
    ids, pieces = text_file._Symbols.ids, []

    def write_after_the_first(self, text):
        if not pieces:
            write(path)
        pieces.append(text)
        return ids(self, text)

    monkeypatch.setattr(text_file._Symbols, "ids", write_after_the_first)
    assert "was written to while it was read; wait until it is whole" in refusal(path)


def test_one_that_is_written_to_for_ever_is_not_followed(tmp_path, monkeypatch):
    path = file_of(tmp_path, FOX)
    monkeypatch.setattr(text_file, "PIECE", 1000)
    ids, pieces = text_file._Symbols.ids, []

    def append(self, text):
        with path.open("a") as file:
            file.write(FOX)
        pieces.append(text)
        return ids(self, text)

    monkeypatch.setattr(text_file._Symbols, "ids", append)
    assert "was written to" in refusal(path)
    assert len(pieces) <= 2


# 4. Byte order marks.


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        pytest.param(MARK.encode() + FOX.encode(), "utf-8", id="UTF-8"),
        pytest.param(2 * MARK.encode() + FOX.encode(), "utf-8", id="twice"),
        pytest.param(MARK.encode() + FOX.encode(), "utf-8-sig", id="by its own name"),
        pytest.param(FOX.encode("utf-16"), "utf-16", id="UTF-16"),
        pytest.param((MARK + FOX).encode("utf-16-be"), "utf-16", id="UTF-16, big end first"),
        pytest.param((MARK + FOX).encode("utf-16-be"), "utf-16-be", id="UTF-16BE by name"),
        pytest.param(FOX.encode("utf-32"), "utf-32", id="UTF-32"),
        pytest.param((MARK + FOX).encode("gb18030"), "gb18030", id="GB18030"),
    ],
)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_a_byte_order_mark_is_no_symbol(tmp_path, monkeypatch, content, encoding, piece):
    monkeypatch.setattr(text_file, "PIECE", piece)
    read = Read(file_of(tmp_path, content), encoding)
    assert read.text == FOX
    assert read.corpus.tokenizer.vocab_size == 28
    assert read.corpus.sha256 == hashlib.sha256(content).hexdigest()
    assert read.remarks == []


def test_a_mark_and_nothing_else_is_an_empty_file(tmp_path):
    assert "the file is empty" in refusal(file_of(tmp_path, MARK))


# 4. Other encodings, refused with the place and a guess.


@pytest.mark.parametrize(
    ("text", "encoding", "where", "guess"),
    [
        pytest.param("caf\xe9", "cp1252", "line 1, byte offset 3 (0xe9", "cp1252", id="one letter"),
        pytest.param(FRENCH, "latin-1", "line 1, byte offset 1 (0xf9", "cp1252", id="Latin-1"),
        pytest.param("a\nb\n" + FRENCH, "cp1252", "line 3, byte offset 5 ", "cp1252", id="line 3"),
        pytest.param(TYPEWRITER, "cp1252", "byte offset 2 (0x92", "cp1252", id="quotation marks"),
        pytest.param(FRENCH, "mac_roman", "line 1, byte", "mac_roman", id="an old Macintosh"),
        pytest.param(FRENCH, "cp850", "line 1, byte", "cp850", id="DOS"),
        pytest.param(CZECH, "cp1250", "line 1, byte offset 1 ", "cp1250", id="Czech"),
        pytest.param(TURKISH, "cp1254", "line 1, byte offset 0 ", "cp1254", id="Turkish"),
        pytest.param(RUSSIAN, "cp1251", "line 1, byte offset 0 ", "cp1251", id="Russian"),
        pytest.param(RUSSIAN, "koi8-r", "line 1, byte", "koi8-r", id="Russian of Unix"),
        pytest.param(RUSSIAN, "cp866", "line 1, byte", "cp866", id="Russian of DOS"),
        pytest.param(GREEK, "cp1253", "line 1, byte", "cp1253", id="Greek"),
        pytest.param(HEBREW, "cp1255", "line 1, byte", "cp1255", id="Hebrew"),
        pytest.param(ARABIC, "cp1256", "line 1, byte", "cp1256", id="Arabic"),
        pytest.param(THAI, "cp874", "line 1, byte", "cp874", id="Thai"),
        pytest.param(CHINESE, "gb18030", "line 1, byte", "gb18030", id="Chinese"),
        pytest.param(TAIWANESE, "big5", "line 1, byte", "big5", id="Chinese of Taiwan"),
        pytest.param(JAPANESE, "shift_jis", "line 1, byte", "shift_jis", id="Japanese"),
        pytest.param(JAPANESE, "euc_jp", "line 1, byte", "euc_jp", id="Japanese of Unix"),
        pytest.param(KOREAN, "cp949", "line 1, byte", "cp949", id="Korean"),
        pytest.param(ENGLISH, "utf-16", "byte offset 0 (0xff", "utf-16", id="UTF-16"),
        pytest.param(CHINESE, "utf-16-le", "line 1", "utf-16-le", id="Chinese in UTF-16"),
        pytest.param(CHINESE, "utf-32", "byte offset 0 (0xff", "utf-32", id="UTF-32"),
        # Valid UTF-8, and plainly something else.
        pytest.param(ENGLISH, "utf-16-le", "50% of its characters", "utf-16-le", id="no mark"),
        pytest.param(ENGLISH, "utf-16-be", "50% of its characters", "utf-16-be", id="big end"),
        pytest.param(ENGLISH, "utf-32-le", "75% of its characters", "utf-32-le", id="no mark, 32"),
        pytest.param(RUSSIAN, "utf-16-be", "control characters", "utf-16-be", id="Russian, 16"),
        pytest.param(JAPANESE, "iso2022_jp", "control charact", "iso2022_jp", id="Japanese mail"),
    ],
)
def test_another_encoding_is_refused_with_a_guess_that_works(
    tmp_path, text, encoding, where, guess
):
    path = file_of(tmp_path, text, encoding)
    message = refusal(path)
    assert "not a UTF-8 text: " in message
    assert where in message
    assert message.endswith(f"; it looks like {guess}: give --encoding {guess}")
    read = Read(path, guess)
    assert read.text == text
    assert read.remarks == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"abc\xe2\x82", "line 1, byte offset 3 (0xe2, unexpected end", id="cut off"),
        pytest.param(RUSSIAN.encode()[:-3], "unexpected end", id="a long text cut off"),
        pytest.param(
            RUSSIAN.encode() + b"\xff" + RUSSIAN.encode(), "the rest of it is UTF-8", id="a scratch"
        ),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(99), "it is a PNG picture", id="a picture"),
        pytest.param(gzip.compress(FOX.encode()), "it is a gzip archive", id="gzip"),
        pytest.param(pickle.dumps(FOX), "it is a pickle", id="a pickle"),
        pytest.param(b"PAR1\x15\x04\x15\xff" + bytes(99), "it is a Parquet table", id="Parquet"),
        pytest.param(
            b"\x08\x00\x00\x00\x00\x00\x00\x00" + b'{"a":1} ' + b"\xff", "safetensors", id="weights"
        ),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, said):
    assert said in refusal(file_of(tmp_path, content))


def test_an_archive_and_an_array_are_named(tmp_path):
    archive, array = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("text.txt", FOX)
    np.save(array, np.arange(1000))
    assert "it is a zip archive" in refusal(file_of(tmp_path, archive.getvalue()))
    assert "it is a NumPy array" in refusal(file_of(tmp_path, array.getvalue()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(FOX + "\x00" + FOX, r"control characters: '\x00' once", id="a zero"),
        pytest.param("\x1b[1mbold\x1b[0m" + FOX, r"'\x1b' 2 times", id="colours of a terminal"),
        pytest.param(FOX + MARK + FOX, r"inside, '\ufeff', once", id="two files, one mark"),
        pytest.param(FOX + "\ufffd" * 3, "sign of a lost character, '\ufffd', 3 times", id="lost"),
        pytest.param("<!DOCTYPE html>" + FOX, "looks like an HTML page", id="a page of the web"),
        pytest.param("%PDF-1.4\n" + FOX, "looks like a PDF document", id="PDF"),
        pytest.param("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git", id="LFS"),
        pytest.param(
            FRENCH.encode().decode("cp1252", "ignore"),
            "looks like utf-8 that was read as cp1252",
            id="UTF-8 read as cp1252",
        ),
        pytest.param(
            RUSSIAN.encode("cp1251").decode("latin-1"),
            "looks like cp1251 that was read as cp1252",
            id="Russian read as Latin-1",
        ),
        pytest.param(
            CHINESE.encode("gb18030").decode("latin-1"),
            "looks like gb18030 that was read as cp1252",
            id="Chinese read as Latin-1",
        ),
    ],
)
def test_what_is_odd_is_remarked_on_and_taken(tmp_path, text, said):
    read = Read(file_of(tmp_path, text))
    assert read.text == text
    (remark,) = read.remarks
    assert said in remark


WORLD = {
    "French": FRENCH, "quotation marks": TYPEWRITER, "Czech": CZECH, "Turkish": TURKISH,
    "Russian": RUSSIAN, "Greek": GREEK, "Hebrew": HEBREW, "Arabic": ARABIC, "Chinese": CHINESE,
    "Chinese of Taiwan": TAIWANESE, "Japanese": JAPANESE, "Korean": KOREAN, "Thai": THAI,
    "English": ENGLISH, "capitals": "ÄÖÜ äöü ß «Ça» ¿Él?\f", "ends of lines": "a\r\nb\rc\v",
}  # fmt: skip


@pytest.mark.parametrize("text", WORLD.values(), ids=WORLD)
def test_nothing_is_odd_about_the_worlds_texts(tmp_path, text):
    read = Read(file_of(tmp_path, text))
    assert (read.text, read.remarks) == (text, [])


# 4. --encoding.


@pytest.mark.parametrize(
    "name", ["utf-9", "", "hex", "rot13", "zlib", "undefined", "a\0", "x" * 999]
)
def test_an_encoding_that_is_none(name, call):
    code, _, err = call(train.main, "bigram", "--encoding", name)
    assert code == 2
    (line,) = err.splitlines()
    assert f"encoding {name!r:.100} is unknown; give one of Python's: utf-8" in line
    with pytest.raises(ja.InputError, match=r"encoding .* is unknown"):
        ja.load_corpus("python-docs", print, encoding=name)


@pytest.mark.parametrize(
    ("content", "encoding", "said"),
    [
        pytest.param((MARK + FOX).encode("utf-16-le"), "utf-16-be", "other order", id="ends"),
        pytest.param(FOX.encode("utf-16-le"), "utf-16", "give --encoding utf-16-le", id="no mark"),
        pytest.param(FOX.encode("utf-16-le"), "cp1252", "give --encoding utf-16-le", id="zeros"),
        pytest.param(FRENCH.encode(), "ascii", "byte offset 1 (0xc3", id="ASCII"),
        pytest.param(FOX.encode() + b"\x80", "gb18030", "not a gb18030 text", id="a cut"),
        pytest.param(b"+2AA-", "utf-7", "halves of surrogate pairs", id="half a character"),
    ],
)
def test_the_wrong_encoding_is_refused(tmp_path, content, encoding, said):
    assert said in refusal(file_of(tmp_path, content), encoding)


@pytest.mark.parametrize(
    ("text", "actual", "given"),
    [
        pytest.param(FRENCH, "utf-8", "cp1252", id="UTF-8 taken for cp1252"),
        pytest.param(RUSSIAN, "utf-8", "latin-1", id="UTF-8 taken for Latin-1"),
        pytest.param(RUSSIAN, "cp1251", "koi8-r", id="Windows taken for Unix"),
        pytest.param(RUSSIAN, "cp1251", "cp1252", id="Russian taken for French"),
        pytest.param(TYPEWRITER, "cp1252", "latin-1", id="cp1252 taken for Latin-1"),
    ],
)
def test_the_wrong_encoding_that_decodes_is_remarked_on(tmp_path, text, actual, given):
    read = Read(file_of(tmp_path, text.replace("à", "a"), actual), given)
    assert f"more like {actual} than {given}: give --encoding {actual}" in read.remarks[-1]


def test_the_corpora_that_come_with_it_have_their_encoding(unchecked):
    with pytest.raises(ja.InputError, match="python-docs is in UTF-8: an encoding goes with"):
        ja.load_corpus("python-docs", print, encoding="utf-16")
    with pytest.raises(ja.InputError, match="data is a bytes, not a name"):
        ja.load_corpus(b"text.txt", print)  # pyright: ignore[reportArgumentType]


# A run from the one to the other.

RUN = ["--steps", "4", "--eval-every", "2", "--checkpoint-every", "2", "--sample-tokens", "5",
       "--batch-size", "2", "--block-size", "8"]  # fmt: skip


def losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def test_a_run_in_an_encoding_goes_on_in_it(call, tmp_path):
    for name, encoding in (("plain", "utf-8"), ("wide", "utf-16")):
        (tmp_path / name).write_bytes(FOX.encode(encoding))
        arguments = ["--data", tmp_path / name, "--out", tmp_path / f"run-{name}"]
        code, _, err = call(train.main, "bigram", *RUN, *arguments, "--encoding", encoding)
        assert (code, err) == (0, "")
        assert call(train.main, "--resume", tmp_path / f"run-{name}", "--steps", 6)[0] == 0
    record = json.loads((tmp_path / "run-wide" / "config.json").read_text())
    assert record["config"]["encoding"] == "utf-16"
    assert record["corpus"]["sha256"] == hashlib.sha256(FOX.encode("utf-16")).hexdigest()
    assert losses(tmp_path / "run-wide") == losses(tmp_path / "run-plain")


def test_a_run_from_a_pipe_goes_on_from_a_file_only(call, tmp_path):
    run = tmp_path / "run"
    pipe = anonymous(tmp_path, [FOX.encode()])
    code, out, _ = call(train.main, "bigram", *RUN, "--data", pipe, "--out", run)
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
    assert call(train.main, "bigram", *RUN, "--data", plain, "--out", again)[0] == 0
    assert losses(again) == losses(run)[:2]


def test_a_run_of_the_time_when_a_mark_was_a_symbol_has_it_still(call, tmp_path):
    """Its folder as it was made then, with the mark among the symbols and the characters."""
    path = file_of(tmp_path, MARK + FOX)
    corpus = ja.load_corpus(str(path), print).with_mark()
    assert corpus.tokenizer.decode(corpus.tokens) == MARK + FOX
    assert corpus.tokenizer.characters.endswith(MARK)
    run = tmp_path / "run"
    assert call(train.main, "bigram", *RUN, "--data", path, "--out", run)[0] == 0
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


@pytest.mark.parametrize(
    ("content", "given", "said"),
    [
        pytest.param(
            "héllo\n".encode() * 99, "ascii", "give --encoding utf-8", id="UTF-8 as ASCII"
        ),
        pytest.param(
            "hello\n".encode("utf-16") * 9 + b"\0", "utf-16", "its end is cut off", id="half a unit"
        ),
        pytest.param(b"hello\n" * 99, "unicode_escape", "is unknown", id="a codec of escapes"),
        pytest.param(b"hello\n" * 99, "punycode", "is unknown", id="a codec of names"),
    ],
)
def test_advice_is_never_what_was_given(tmp_path, content, given, said):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ja.InputError, match=said) as refused:
        ja.load_corpus(str(tmp_path / "text.txt"), print, encoding=given)
    assert f"--encoding {given}" not in str(refused.value)
