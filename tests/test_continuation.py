"""A sample's text as its tokens come: whole characters, up to a stop text or end-of-text."""

import numpy as np
import pytest

import jax_attn as ja
from jax_attn.data import ByteTokenizer
from jax_attn.generate.continuation import Continuation


def told(tokenizer, prompt, tokens, stops, cuts):
    """The pieces of text, and the continuation, of tokens that come in parts."""
    text = Continuation(tokenizer, tokenizer.encode(prompt), stops)
    assert text.prompt == prompt
    pieces = []
    for part in np.split(tokens, cuts):
        if text.ended:
            break
        pieces.append(text.add(part))
    return [*pieces, text.rest()], text


ROWS = [
    ("no stop", "abcabd", (), "abcabd"),
    ("one in the middle", "abcabd", ("ca",), "ab"),
    ("one at the start", "abc", ("a",), ""),
    ("one at the end", "abc", ("bc",), "a"),
    ("a part of one at the end", "abcab", ("abd",), "abcab"),
    ("one that begins twice", "aaab", ("aab",), "a"),
    ("the first of two", "xaybz", ("b", "ay"), "x"),
    ("the one that is complete first", "abcd", ("abcd", "bc"), "a"),
    ("two that are complete together: the longer", "abcd", ("cd", "bcd"), "a"),
    ("one that the prompt has a part of", "abc", ("pa",), "abc"),
    ("characters of several bytes", "hé€🙂!", ("🙂",), "hé€"),
]


@pytest.mark.parametrize(
    ("text", "stops", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ROWS]
)
@pytest.mark.parametrize(
    "tokenizer", [ja.CharTokenizer.from_text("pabcdxyzhé€🙂!"), ByteTokenizer()]
)
def test_a_stop_text_ends_it_wherever_the_pieces_are_cut(tokenizer, text, stops, expected):
    tokens = tokenizer.encode(text)
    for cuts in ([], range(1, len(tokens)), *([n] for n in range(1, len(tokens)))):
        pieces, continuation = told(tokenizer, "p", tokens, stops, cuts)
        assert "".join(pieces) == expected
        assert continuation.ended
        shown = ""
        for piece in pieces:  # nothing is ever shown that is to be taken back
            shown += piece
            assert expected.startswith(shown)


def test_a_stop_text_is_looked_for_as_soon_as_it_can_be_whole():
    tokenizer = ja.CharTokenizer("abc")
    text = Continuation(tokenizer, tokenizer.encode("a"), ("bb",))
    assert text.add(tokenizer.encode("ab")) == "a"
    assert not text.ended
    assert text.add(tokenizer.encode("c")) == "bc"
    assert text.add(tokenizer.encode("abbc")) == "a"
    assert text.ended
    assert text.rest() == ""


class WithAnEnd(ja.CharTokenizer):
    end_of_text = 0


@pytest.mark.parametrize("cuts", [[], [1], [2], [3], [1, 2, 3]])
def test_end_of_text_ends_it_and_is_not_shown(cuts):
    tokenizer = WithAnEnd("#abc")
    pieces, text = told(tokenizer, "a", tokenizer.encode("ab#c"), ("bc",), cuts)
    assert "".join(pieces) == "ab"
    assert text.ended
    assert np.concatenate(text.tokens).tolist() == [1, 2]


def test_a_character_that_is_never_whole_shows_as_lost():
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode("a€")[:-1]
    pieces, _ = told(tokenizer, "p", tokens, (), [2, 3])
    assert pieces == ["a", "", "", "\ufffd"]
