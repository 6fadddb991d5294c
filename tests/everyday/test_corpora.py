"""Texts as people have them: several files, folders, .gz, a text of one's own to validate with."""

import gzip
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.data import CharTokenizer, file_bytes, load_corpus
from tests.everyday.texts import Read, refusal, text_of
from tests.in_process import FOX, SHORT, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")

CAT = FOX.replace("fox", "cat").replace("z", "ž")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def filled(folder, **files):
    """`folder` with files by their names, in which _ is a dot and __ a folder's slash."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# What is read, and in which order.


def test_several_files_are_read_in_the_order_given(tmp_path):
    filled(tmp_path, a_txt="one\n", b_txt="two\n")
    corpus = load_corpus([tmp_path / "b.txt", tmp_path / "a.txt"], print)
    assert text_of(corpus) == "two\n\none\n"
    assert corpus.name == (str(tmp_path / "b.txt"), str(tmp_path / "a.txt"))
    assert corpus.documents == 2


def test_a_folder_is_its_texts_in_the_order_of_their_paths(tmp_path):
    filled(
        tmp_path, b_txt="b", a__z_md="az", a__B_TXT="aB", c_txt_gz=gzip.compress(b"c"), d_json="{}",
    )  # fmt: skip
    read = Read(tmp_path)
    assert read.text == "aB\naz\nb\nc"
    assert (read.corpus.documents, read.remarks) == (4, [])


def test_a_packed_file_is_what_is_in_it(tmp_path):
    """The same text, the same hash; of several streams in a row, too."""
    half = len(FOX) // 2
    packed = gzip.compress(FOX[:half].encode()) + gzip.compress(FOX[half:].encode())
    filled(tmp_path, text_txt_gz=packed, text_txt=FOX)
    read = Read(tmp_path / "text.txt.gz")
    assert read.text == FOX
    assert read.corpus.sha256 == Read(tmp_path / "text.txt").corpus.sha256 == sha256(FOX.encode())


def test_of_several_files_the_hash_is_that_of_their_hashes(tmp_path):
    filled(tmp_path, a__1_txt=FOX, a__2_txt=CAT, b__1_txt=FOX)
    lines = f"{sha256(FOX.encode())}\n{sha256(CAT.encode())}\n"
    assert Read(tmp_path / "a").corpus.sha256 == sha256(lines.encode())
    assert Read(tmp_path / "b").corpus.sha256 == sha256(FOX.encode())  # of one: its own


def test_an_end_of_text_stands_where_documents_meet(tmp_path):
    filled(tmp_path, a_txt="ab ab ", b_txt="ba ba ", c_txt="ab")
    corpus = load_corpus(tmp_path, print, tokens="bpe:260", validation_fraction=0.5)
    ids = np.concatenate([corpus.train, corpus.validation]).tolist()
    end = corpus.tokenizer.end_of_text
    assert ids.count(end) == 2
    assert sum(corpus.characters) == len("ab ab ba ba ab")
    assert [len(corpus.tokenizer.decode(part.tolist())) for part in split(ids, end)] == [6, 6, 2]


def split(ids, at):
    parts = [[]]
    for id in ids:
        parts.append([]) if id == at else parts[-1].append(id)
    return map(np.array, parts)


def test_a_byte_order_mark_begins_no_document(tmp_path):
    filled(tmp_path, a_txt="\ufeffone", b_txt="\ufefftwo")
    assert Read(tmp_path).text == "one\ntwo"


def test_remarks_on_many_files_are_few(tmp_path):
    filled(tmp_path, **{f"{n}_txt": "a\x00b" for n in range(9)})
    remarks = Read(tmp_path).remarks
    assert len(remarks) == 6
    assert remarks[0] == rf"{tmp_path}/0.txt: it has control characters: '\x00' once"
    assert remarks[-1] == "other files give cause for such remarks, too"


# What is passed over with a line.


def links_in_a_ring(folder):
    filled(folder, a__b__text_txt=FOX)
    (folder / "a" / "b" / "up").symlink_to(folder / "a")


def hidden(folder):
    filled(folder, text_txt=FOX, _git__x_txt="no", _secret_txt="no")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(links_in_a_ring, "a/b/up: a link to a folder that is read already", id="ring"),
        pytest.param(hidden, "what is hidden in it is passed over: .git, .secret.txt", id="hidden"),
    ],
)
def test_what_is_passed_over_is_said(tmp_path, made, said):
    made(tmp_path)
    read = Read(tmp_path)
    assert read.text == FOX
    (line,) = read.remarks
    assert said in line


# What is refused.


def unreadable(folder, monkeypatch):
    filled(folder, inside__text_txt=FOX)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    return folder


def a_pipe_inside(folder, monkeypatch):
    os.mkfifo(folder / "text.txt")
    return folder


def a_link_to_nothing(folder, monkeypatch):
    (folder / "text.txt").symlink_to(folder / "gone")
    return folder


def of(**files):
    def made(folder, monkeypatch):
        filled(folder, **files)
        return folder

    return made


def packed(content):
    def made(folder, monkeypatch):
        monkeypatch.setattr(file_bytes, "UNPACKED_FREELY", 1 << 10)
        monkeypatch.setattr(file_bytes, "PIECE", 1 << 12)
        return filled(folder, text_txt_gz=content) / "text.txt.gz"

    return made


ZIPPED = gzip.compress(FOX.encode())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(of(), "a folder without texts, *.txt or *.md or those with .gz: it is empty",
                     id="an empty folder"),
        pytest.param(of(a_json="", b_py=""), "it has a.json, b.py; name the files",
                     id="a folder of something else"),
        pytest.param(of(a_txt=FOX, b_txt=""), "b.txt: the file is empty", id="an empty file in it"),
        pytest.param(of(a_txt=FOX, b_txt=b"ab\ncaf\xe9 au lait"),
                     "b.txt: not a UTF-8 text: line 2, byte offset 6", id="another encoding in it"),
        pytest.param(of(a_txt=FOX, b_md=b"\x89PNG\r\n\x1a\n"), "b.md: not a UTF-8", id="a picture"),
        pytest.param(unreadable, "cannot be read (Permission denied)", id="a locked folder"),
        pytest.param(a_pipe_inside, "in a folder only plain files are read", id="a pipe in it"),
        pytest.param(a_link_to_nothing, "text.txt: a link to nothing", id="a link to nothing"),
        pytest.param(packed(FOX.encode()), "is no gzip file, whatever its name", id="no gzip"),
        pytest.param(packed(ZIPPED[:-9]), "its end is cut off; fetch or pack it", id="cut"),
        pytest.param(packed(ZIPPED[:-8] + bytes(8)), "is damaged (CRC check", id="damaged"),
        pytest.param(packed(ZIPPED[:10] + b"\xff" * 20), "is damaged (Error -3", id="scratched"),
        pytest.param(packed(ZIPPED + b"and more"), "is damaged (Not a gzipped", id="a tail"),
        pytest.param(packed(gzip.compress(b"a" * 10**6)), "more than 200 times its 1,", id="bomb"),
        pytest.param(packed(gzip.compress(b"")), "the file is empty", id="nothing packed"),
        pytest.param(packed(gzip.compress("é\nè".encode("latin-1"))),
                     "line 1, byte offset 0 (0xe9", id="another encoding packed"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(tmp_path, monkeypatch, made, said):
    assert said in refusal(made(tmp_path, monkeypatch))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--data"], "data names no text; give the path of one", id="no path"),
        pytest.param(["--data", "tinyshakespeare", "a.txt"], "goes with no other text", id="two"),
        pytest.param(["--data", "a.txt", "nowhere.txt"], "nowhere.txt: there is no such", id="one"),
        pytest.param(["--data", "a.txt", "--validation", "gone"], "gone: there is no", id="other"),
        pytest.param(["--data", "a.txt", "--validation", "short.txt"],
                     "short.txt: 1 tokens are too few to validate with", id="too short"),
        pytest.param(["--data", "a.txt", "--validation", "a.txt", "--validation-fraction", "0.2"],
                     "a text of its own, validation_fraction a part", id="both"),
        pytest.param(["--validation-fraction", "0"], "must be greater than 0", id="nothing"),
        pytest.param(["--validation-fraction", "1"], "must be less than 1", id="all"),
        pytest.param(["--validation-fraction", "nan"], "must be a number", id="no number"),
        pytest.param(["--data", "a.txt", "--validation-fraction", "0.9999"], "too few for block",
                     id="nothing left"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(call, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(filled(tmp_path, a_txt=FOX, short_txt="a"))
    assert said in one_line(call(train.main, "bigram", *SHORT, *arguments))
    assert not (tmp_path / "runs").exists()


# Validation.


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.01])
def test_the_last_part_of_the_characters_is_to_validate_with(tmp_path, fraction):
    filled(tmp_path, text_txt=FOX)
    corpus = load_corpus(tmp_path / "text.txt", print, validation_fraction=fraction)
    n = int((1 - fraction) * len(FOX))
    assert corpus.tokenizer.decode(corpus.train) == FOX[:n]
    assert corpus.characters == (n, len(FOX) - n)
    assert n == int(0.9 * len(FOX)) or fraction != 0.1


def test_whatever_the_tokens_the_same_text_is_to_validate_with(tmp_path):
    filled(tmp_path, text_txt=CAT)
    for tokens in ("char", "bytes", "bpe:260"):
        corpus = load_corpus(tmp_path / "text.txt", print, tokens=tokens)
        assert corpus.tokenizer.decode(corpus.validation) == CAT[int(0.9 * len(CAT)) :]
        assert sum(corpus.characters) == len(CAT)


def test_a_text_of_its_own_to_validate_with(tmp_path):
    """The vocabulary is of both."""
    filled(tmp_path, text_txt=FOX, other__1_txt=CAT, other__2_md="Ω")
    corpus = load_corpus(tmp_path / "text.txt", print, validation=tmp_path / "other")
    assert corpus.tokenizer.decode(corpus.train) == FOX
    assert corpus.tokenizer.decode(corpus.validation) == f"{CAT}\nΩ"
    assert isinstance(corpus.tokenizer, CharTokenizer)
    assert corpus.tokenizer.characters == "".join(sorted({*FOX, *CAT, "Ω"}))
    assert corpus.characters == (len(FOX), len(CAT) + 2)
    assert corpus.validation_name == str(tmp_path / "other")


def test_to_validate_with_what_is_trained_on_is_remarked_on(tmp_path):
    filled(tmp_path, a_txt=FOX, b_txt=FOX)
    remarks = []
    load_corpus(tmp_path / "a.txt", remarks.append, validation=tmp_path / "b.txt")
    assert remarks == [f"{tmp_path}/b.txt: the text to validate with is the one to train on"]


# Runs.


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    """A finished run of two files and a folder, with its texts."""
    folder = filled(tmp_path_factory.mktemp("made"), a_txt=FOX, b_txt_gz=ZIPPED, other__x_md=CAT)
    config = ja.PRESETS["bigram"][1]
    changes = {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "sample_tokens": 5,
               "batch_size": 2, "block_size": 8}  # fmt: skip
    ja.train(
        ja.TrainConfig.from_dict(config.to_dict() | changes),
        data=[folder / "a.txt", folder / "b.txt.gz"], validation=folder / "other",
        out=folder / "run",
    )  # fmt: skip
    return folder


def test_a_run_tells_its_texts_and_goes_on_with_them(call, made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    code, out, err = call(train.main, "--resume", run, "--steps", 6)
    assert (code, err) == (0, "")
    assert f"corpus   {made}/a.txt, {made}/b.txt.gz: 3 files, 5,281 characters, 29 symbols" in out
    assert "split    3,521 characters to train on, 1,760 to validate with" in out
    assert f"from {made}/other, sha256 {sha256(CAT.encode())[:12]}…" in out
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["data"] == [f"{made}/a.txt", f"{made}/b.txt.gz"]
    assert record["corpus"]["validation_sha256"] == sha256(CAT.encode())
    assert record["corpus"]["documents"] == 3
    assert record["corpus"]["train"] == {"tokens": 3521, "characters": 3521}


def test_texts_that_were_moved_are_named_again(call, made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    record = json.loads((run / "config.json").read_text())
    record["config"] |= {"data": str(tmp_path / "gone"), "validation": str(tmp_path / "lost")}
    (run / "config.json").write_text(json.dumps(record))
    one, two = (filled(tmp_path, one_txt=FOX, two_txt=FOX) / f"{n}.txt" for n in ("one", "two"))
    line = one_line(call(train.main, "--resume", run, "--data", one, two))
    assert f"lost: there is no such file any more; {run} was validated with a text of" in line
    assert line.endswith("--validation PATH")
    filled(tmp_path, cat_txt=CAT)
    given = ["--data", one, two, "--validation"]
    line = one_line(call(train.main, "--resume", run, *given, one))
    assert f"was validated with a text of sha256 {sha256(CAT.encode())[:12]}…, but {one}" in line
    assert call(train.main, "--resume", run, *given, tmp_path / "cat.txt", "--steps", 6)[0] == 0
    assert ja.resume(run, steps=8).records[-1]["step"] == 8


def test_one_that_validates_with_a_part_has_no_other_text(call, made, tmp_path):
    out = tmp_path / "run"
    assert call(train.main, "bigram", *SHORT, "--data", made / "a.txt", "--out", out)[0] == 0
    line = one_line(call(train.main, "--resume", out, "--validation", made / "other"))
    assert "validates with a part of its text: it has no --validation to move" in line


def test_a_configuration_of_before_opens():
    fields = ja.PRESETS["bigram"][1].to_dict()
    for name in ("validation", "validation_fraction"):
        del fields[name]
    assert ja.TrainConfig.from_dict(fields) == ja.PRESETS["bigram"][1]
    several = fields | {"data": ["a", "b"], "validation": ["c"]}
    config = ja.TrainConfig.from_dict(several)
    assert (config.data, config.validation) == (("a", "b"), "c")
    for wrong in ({"data": 3}, {"data": []}, {"data": None}, {"data": ["a", 3]}, {"validation": 0}):
        with pytest.raises(ja.InputError):
            ja.TrainConfig.from_dict(fields | wrong)
