"""Texts in another encoding, with a byte order mark, or none at all."""

import gzip
import hashlib
import io
import pickle
import zipfile

import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.data import file_bytes
from tests.everyday.texts import MARK, Read, file_of, refusal
from tests.in_process import FOX

pytestmark = pytest.mark.usefixtures("no_pictures")

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

# Byte order marks.


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
    monkeypatch.setattr(file_bytes, "PIECE", piece)
    read = Read(file_of(tmp_path, content), encoding)
    assert read.text == FOX
    assert read.corpus.tokenizer.vocab_size == 28
    assert read.corpus.sha256 == hashlib.sha256(content).hexdigest()
    assert read.remarks == []


def test_a_mark_and_nothing_else_is_an_empty_file(tmp_path):
    assert "the file is empty" in refusal(file_of(tmp_path, MARK))


# Other encodings, refused with the place and a guess.


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


SHORT = {  # texts of few different characters, which other encodings have as well
    "one letter": "é" * (1 << 20), "pairs of letters": "éé éé éé", "capitals": "ÜÜÜÜ ÐÞÐÞ",
    "signs": "××××× ÷÷÷÷ ½½ ¥¥", "spaces that do not break": "\xa0" * 9, "a quotation": "Spaß”",
    "an ellipsis": "CAFÉ… CAFÉ… CAFÉ…", "another": "Ö–", "dashes": "——……——",
    "all of Latin-1's letters": "".join(map(chr, range(0xC0, 0x100))),
    "Chinese": "你好", "Chinese, quoted": "“你好”——他说……", "Chinese signs": "·——“”",
    "Japanese": "はい。", "Korean": "네", "Vietnamese": "Tất cả mọi người",
    "Finnish": "Jää ei ääni",
}  # fmt: skip


@pytest.mark.parametrize("text", SHORT.values(), ids=SHORT)
def test_nothing_is_odd_about_a_text_of_few_characters(tmp_path, text):
    read = Read(file_of(tmp_path, text))
    assert (read.text, read.remarks) == (text, [])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        pytest.param("你好世界", "gb18030", id="a greeting"),
        pytest.param("你好世界", "big5", id="one of Taiwan"),
        pytest.param("你好世界", "euc_jp", id="one in EUC-JP"),
        pytest.param("春眠不觉晓处处闻啼鸟夜来风雨声花落知多少", "gb18030", id="a poem"),
        pytest.param("Да", "cp1251", id="a Russian word"),
        pytest.param("Привет", "koi8-r", id="another of Unix"),
        pytest.param("été", "cp1252", id="a French one"),
        pytest.param(FRENCH.encode().decode("cp1252", "ignore"), "utf-16", id="misread before"),
    ],
)
def test_the_encoding_that_is_given_is_taken_at_its_word(tmp_path, text, encoding):
    read = Read(file_of(tmp_path, text, encoding), encoding)
    assert read.text == text
    assert [r for r in read.remarks if "--encoding" in r] == []


# --encoding.


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
