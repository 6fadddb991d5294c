"""Tokenizers of every kind: text to ids and back, whole and in pieces."""

import json
import sys
from itertools import chain, pairwise

import numpy as np
import pytest
import tokenizers as library
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from jax_attn.data import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    UnknownCharacters,
    fragments,
    load_tokenizer,
    make_tokenizer,
    tokenizer_of,
)
from jax_attn.data.subword_tokenizer import SubwordTokenizer
from jax_attn.errors import InputError

TEXT = (
    "First Citizen:\n\nWe're to die, 1234 times!  Rather than \t to famish?\n"
    "春眠不覺曉，處處聞啼鳥。 夜來風雨聲\n花落知多少 🙂👩‍👩‍👧 naïve café\r\n   end\n"
) * 3
END = "<|endoftext|>"


def made(model, trainer, pre_tokenizer=None, decoder=None, normalizer=None):
    """One of the library's, trained on TEXT."""
    kind = library.Tokenizer(model)
    if normalizer is not None:
        kind.normalizer = normalizer
    if pre_tokenizer is not None:
        kind.pre_tokenizer = pre_tokenizer
    kind.decoder = decoder
    kind.train_from_iterator([TEXT], trainer)
    return SubwordTokenizer(json.loads(kind.to_str()))


def byte_level(pattern):
    """Words by a pattern as those of later models, whose full stops take new lines with them."""
    words = pre_tokenizers.Split(library.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])


def bpe_trainer(**options):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, show_progress=False, **options
    )


BPE = make_tokenizer("bpe:330", lambda: [TEXT])
KINDS = {
    "characters": CharTokenizer.from_text(TEXT),
    "characters in an order of their own": CharTokenizer("b").extended(TEXT),
    "bytes": ByteTokenizer(),
    "BPE": BPE,
    "BPE of other words": made(
        models.BPE(),
        bpe_trainer(),
        byte_level(r" ?[^\s\p{L}\p{N}]+[\r\n]*|\p{N}{1,3}| ?\p{L}+|\s+"),
        decoders.ByteLevel(),
    ),
    "BPE with a space before": made(
        models.BPE(), bpe_trainer(), pre_tokenizers.ByteLevel(True), decoders.ByteLevel()
    ),
    "BPE of a whole text": made(
        models.BPE(unk_token="<unk>"),
        trainers.BpeTrainer(vocab_size=150, show_progress=False, special_tokens=["<unk>"]),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
    ),
    "WordPiece": made(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=150, show_progress=False, special_tokens=["[UNK]"]),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
        normalizers.BertNormalizer(),
    ),
    "Unigram": made(
        models.Unigram(),
        trainers.UnigramTrainer(
            vocab_size=150, show_progress=False, unk_token="?", special_tokens=["?", "</s>"]
        ),
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
    ),
}
LOSSLESS = ["characters", "characters in an order of their own", "bytes", "BPE",
            "BPE of other words"]  # fmt: skip
kinds = pytest.mark.parametrize("tokenizer", KINDS.values(), ids=KINDS)
lossless = pytest.mark.parametrize("name", LOSSLESS)


@kinds
def test_it_travels_as_a_record(tokenizer, tmp_path):
    assert isinstance(tokenizer, Tokenizer)
    tokenizer.save(tmp_path / "tokenizer.json")
    for again in (
        load_tokenizer(tmp_path / "tokenizer.json"),
        tokenizer_of(json.loads(json.dumps(tokenizer.record()))),
        make_tokenizer(str(tmp_path / "tokenizer.json"), tuple),
        make_tokenizer(str(tmp_path), tuple),
    ):
        assert again.record() == tokenizer.record()
        assert again.describe() == tokenizer.describe()
        assert again.start == tokenizer.start
        np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))


@lossless
def test_every_text_comes_back(name):
    tokenizer = KINDS[name]
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == tokenizer.dtype
    assert tokenizer.known.shape == (tokenizer.vocab_size,)
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.count_characters(ids) == len(TEXT)
    assert tokenizer.about_unknown(ids) is None
    assert name[:10] == "characters" or tokenizer.decode([tokenizer.start]) == "\n"


def cut(whole, places):
    """At places that are counted from whichever end they come out at."""
    bounds = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[a:b] for a, b in pairwise(bounds)]


WORDS = st.sampled_from([*" \n\t.,'é春🙂1", " the", "'re", "  ", "\r\n", "Citizen", END, "naïve "])
TEXTS = st.lists(WORDS, max_size=60).map("".join)
PLACES = st.lists(st.integers(0, 10**6), max_size=6)


@pytest.fixture(scope="module")
def small_fragments():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fragments, "SIZE", 7)
        patch.setattr(fragments, "CONTEXT", 23)
        yield


@pytest.mark.usefixtures("small_fragments")
@kinds
@settings(max_examples=25, deadline=None)
@given(text=TEXTS, places=PLACES)
@example("a.\n\nb " * 40, [3])
@example("aaa bbb " * 40 + "  \n", [3, 9])
def test_the_ids_of_a_text_are_the_same_wherever_it_is_cut(tokenizer, text, places):
    text = "".join(c for c in text if c not in tokenizer.unknown(text))
    pieces = list(tokenizer.encode_pieces(cut(text, places)))
    joined = np.concatenate([np.empty(0, tokenizer.dtype), *pieces])
    np.testing.assert_array_equal(joined, tokenizer.encode(text))


@pytest.mark.usefixtures("small_fragments")
def test_a_long_text_is_cut_and_one_without_words_is_not():
    pieces = list(fragments.fragments([TEXT]))
    assert len(pieces) > 20
    gpt2 = pre_tokenizers.ByteLevel(False)
    words = [[word for word, _ in gpt2.pre_tokenize_str(text)] for text in pieces]
    assert list(chain(*words)) == [word for word, _ in gpt2.pre_tokenize_str(TEXT)]
    assert len(list(fragments.fragments(["a" * 999, "b" * 999]))) == 1
    whole = KINDS["BPE of a whole text"]
    assert len(list(fragments.fragments([TEXT], whole._is_safe))) == 1


@kinds
@settings(max_examples=25, deadline=None)
@given(data=st.data(), places=PLACES)
def test_the_text_of_ids_is_the_same_as_they_come(tokenizer, data, places):
    """Any ids at all for the kinds of which a byte is a part; for the others, those of a text."""
    if tokenizer.unit == "byte" or (tokenizer.end_of_text is not None and tokenizer._bytes):
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=60))
    else:
        text = data.draw(TEXTS)
        ids = tokenizer.encode("".join(c for c in text if c not in tokenizer.unknown(text)))
    ids = np.array(ids, np.int64)
    pieces = list(tokenizer.decode_pieces(cut(ids, places)))
    assert len(pieces) == len(cut(ids, places)) + 1
    assert "".join(pieces) == tokenizer.decode(ids, "replace")


@pytest.mark.parametrize("name", ["bytes", "BPE"])
def test_a_character_of_several_tokens_comes_once_and_whole(name):
    tokenizer = KINDS[name]
    ids = tokenizer.encode("x\u2603é")  # in three and two bytes
    assert len(ids) == 6 - (name == "BPE")  # BPE has met the é
    shown = list(tokenizer.decode_pieces([ids[i : i + 1] for i in range(len(ids))]))
    assert [text for text in shown if text] == ["x", "\u2603", "é"]
    assert list(tokenizer.decode_pieces([ids[:2]])) == ["x", "\ufffd"]
    assert [tokenizer.symbol(id) for id in ids[:4].tolist()] == ["x", "\\xe2", "\\x98", "\\x83"]
    assert "longer training" in tokenizer.about_unknown(ids[:2])


def test_the_same_text_makes_the_same_ids_however_it_is_read():
    by_letters = make_tokenizer("bpe:330", lambda: iter(TEXT))
    assert by_letters.record() == BPE.record()
    assert BPE.vocab_size == 330
    assert BPE.end_of_text == 329
    assert BPE.decode([329]) == END
    assert BPE.count_characters(np.array([329, *BPE.encode("é")])) == 1
    assert make_tokenizer("bpe:50257", lambda: ["xy xy z"]).vocab_size == 258  # xy occurs twice
    assert BPE.decode(BPE.encode("\x00 ~ 漢字 \U0001f9ff")) == "\x00 ~ 漢字 \U0001f9ff"


def test_gpt2s_two_files(tmp_path):
    """The ids that transformers' own reader of them gives."""
    model = BPE.record()["model"]
    merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"] | {END: 329}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        read = make_tokenizer(str(path), tuple)
        assert read.end_of_text == 329
        np.testing.assert_array_equal(read.encode(TEXT + END), BPE.encode(TEXT + END))
    from transformers import GPT2TokenizerFast

    theirs = GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert theirs(TEXT + END)["input_ids"] == read.encode(TEXT + END).tolist()


def test_ids_that_stand_for_nothing():
    model = BPE.record()["model"]
    vocab = model["vocab"] | {END: 340}
    holes = tokenizer_of(BPE.record() | {"model": model | {"vocab": vocab}})
    assert (holes.vocab_size, holes.end_of_text) == (341, 340)
    assert holes.known.sum() == 330
    assert not holes.known[329:340].any()
    assert holes.decode([339, 340, 999], "replace") == f"\ufffd{END}\ufffd"
    assert holes.symbol(339) == "\ufffd"
    assert "2 of its 3 ids stand for no token" in holes.about_unknown(np.array([339, 340, 999]))
    with pytest.raises(InputError, match=r"ids of no token: \[339\]"):
        holes.decode([339])
    with pytest.raises(InputError, match=r"ids outside \[0, 256\): \[256\]"):
        ByteTokenizer().decode([256])
    assert ByteTokenizer().decode([65, 256, 0xC3], "replace") == "A\ufffd\ufffd"


def test_a_token_of_two_ids():
    record = KINDS["Unigram"].record()
    vocab = [["<unk>", 0.0], ["▁a", -1.0], ["▁a", -2.0]]
    twice = tokenizer_of(record | {"added_tokens": [], "model": record["model"] | {"vocab": vocab}})
    assert twice.known.tolist() == [True] * 3
    assert twice.decode([1, 2]) == "a a"


def test_nothing_is_added_to_a_text_or_cut_off():
    record = BPE.record()
    kind = library.Tokenizer.from_str(json.dumps(record))
    kind.enable_truncation(4)
    kind.enable_padding(length=50)
    kind.model.dropout = 0.9
    kind.post_processor = library.processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 329)]
    )
    np.testing.assert_array_equal(
        SubwordTokenizer(json.loads(kind.to_str())).encode(TEXT), BPE.encode(TEXT)
    )


def test_new_characters_come_after_the_old_ones():
    old = CharTokenizer.from_text("abc")
    new = old.extended("cab~\n")
    assert new.characters == "abc\n~"
    np.testing.assert_array_equal(new.encode("cab~\n"), [2, 0, 1, 4, 3])
    assert new.decode([2, 0, 1, 4, 3]) == "cab~\n"
    assert old.extended("cab").record() == old.record()


LOSES_CHARACTERS = made(
    models.BPE(),
    trainers.BpeTrainer(vocab_size=150, show_progress=False),
    pre_tokenizers.Whitespace(),
)
LOSES_BYTES = made(
    models.BPE(),
    trainers.BpeTrainer(vocab_size=200, show_progress=False),
    pre_tokenizers.ByteLevel(False),
    decoders.ByteLevel(),
)


@pytest.mark.parametrize(
    ("tokenizer", "text", "unknown"),
    [
        pytest.param(CharTokenizer("ab"), "baxya", "xy", id="characters"),
        pytest.param(ByteTokenizer(), "a\udc80b\ud800", "\ud800\udc80", id="halves in bytes"),
        pytest.param(BPE, "a\udc80b", "\udc80", id="halves in BPE"),
        pytest.param(LOSES_CHARACTERS, "end ☃", "☃", id="left out by the library"),
        pytest.param(LOSES_BYTES, "end ☃春", "☃", id="a byte left out by the library"),
    ],
)
def test_unknown_characters_are_named(tokenizer, text, unknown):
    assert tokenizer.unknown(text) == unknown
    for _ in range(2):  # what has been looked at is remembered
        for encode in (tokenizer.encode, lambda text: list(tokenizer.encode_pieces([text]))):
            with pytest.raises(UnknownCharacters, match="outside the vocabulary") as caught:
                encode(text)
            assert caught.value.characters == unknown
            assert len(str(caught.value).splitlines()) == 1
    assert tokenizer.encode("".join(c for c in text if c not in unknown)).size


def test_without_the_library_it_is_one_line(monkeypatch, tmp_path):
    BPE.save(tmp_path / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for spec in ("bpe:300", str(tmp_path)):
        with pytest.raises(InputError, match=r'^such .*: pip install "jax-attn\[tokens\]"$'):
            make_tokenizer(spec, lambda: [TEXT])
    assert make_tokenizer("bytes", lambda: [TEXT]).vocab_size == 256
