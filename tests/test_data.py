import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jax_attn as ja
from jax_attn import data
from jax_attn.data import file_bytes
from tests.everyday.texts import text_of


def silent(line):
    raise AssertionError(f"unexpected warning: {line}")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_decode_undoes_encode(text):
    tokenizer = ja.CharTokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == len(set(text))


def test_ids_follow_the_order_of_code_points():
    tokenizer = ja.CharTokenizer.from_text("hello\n€😀")
    assert tokenizer.characters == "\nehlo€😀"
    np.testing.assert_array_equal(tokenizer.encode("oh€😀"), [4, 2, 5, 6])
    assert tokenizer.encode("h").dtype == np.uint8


def test_more_than_256_symbols_take_two_bytes():
    text = "".join(map(chr, range(1000, 1300)))
    tokenizer = ja.CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(ids, np.arange(300))


def test_unknown_characters_are_named():
    with pytest.raises(ja.InputError, match="'!', 'ß'"):
        ja.CharTokenizer.from_text("abc").encode("aß!b")


def test_unknown_ids_are_an_error_or_replaced():
    tokenizer = ja.CharTokenizer.from_text("abc")
    for bad in (-1, 3):
        with pytest.raises(ja.InputError, match=rf"outside \[0, 3\): \[{bad}\]"):
            tokenizer.decode([0, bad])
        assert tokenizer.decode([0, bad, 2], errors="replace") == "a\ufffdc"


def test_a_tokenizer_survives_its_file(tmp_path):
    tokenizer = ja.CharTokenizer.from_text("ab\n€")
    tokenizer.save(tmp_path / "t.json")
    assert ja.CharTokenizer.load(tmp_path / "t.json").characters == "\nab€"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"characters": 3}', '{"characters": "aa"}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ja.InputError, match="tokenizer"):
        ja.CharTokenizer.load(tmp_path / "t.json")
    with pytest.raises(ja.InputError, match="no such tokenizer"):
        ja.CharTokenizer.load(tmp_path / "absent.json")


def test_a_file_becomes_tokens_and_splits(tmp_path):
    text = "abcdefghij" * 10 + "€"
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    corpus = ja.load_corpus(str(path), silent)
    assert text_of(corpus) == text
    assert (len(corpus.train), len(corpus.validation)) == (90, 11)
    assert corpus.tokenizer.decode(corpus.validation).endswith("j€")


def test_characters_that_straddle_pieces_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(file_bytes, "PIECE", 3)
    path = tmp_path / "text.txt"
    path.write_text("a€😀" * 7, encoding="utf-8")
    corpus = ja.load_corpus(str(path), silent)
    assert text_of(corpus) == "a€😀" * 7


def test_line_ends_are_kept_as_they_are(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"a\r\nb\rc\n")
    corpus = ja.load_corpus(str(tmp_path / "text.txt"), silent)
    assert text_of(corpus) == "a\r\nb\rc\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b"abc\xff\xfe", "not a UTF-8 text"),
        (b"abc\xe2\x82", "not a UTF-8 text"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ja.InputError, match=message):
        ja.load_corpus(str(path), silent)


def test_a_folder_without_texts_is_no_corpus(tmp_path):
    with pytest.raises(ja.InputError, match=r"a folder without texts.* it is empty"):
        ja.load_corpus(str(tmp_path), silent)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_text_shorter_than_a_window_is_refused(tmp_path, length):
    path = tmp_path / "text.txt"
    path.write_text("ab" * length, encoding="utf-8")
    corpus = ja.load_corpus(str(path), silent)
    with pytest.raises(ja.InputError, match="too few for block_size 32"):
        corpus.require_block(32)


def test_the_standard_librarys_texts_are_a_corpus():
    corpus = ja.load_corpus("python-docs", silent)
    assert sum(corpus.characters) > 300_000
    assert "assert" in corpus.tokenizer.decode(corpus.train[:2000])


def test_without_network_or_copy_training_goes_on_with_the_standard_library(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("JAX_ATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    warnings = []
    corpus = ja.load_corpus("tinyshakespeare", warnings.append)
    assert corpus.name == "python-docs"
    assert len(warnings) == 1
    assert "going on with --data python-docs" in warnings[0]


def test_without_a_downloader_training_goes_on_with_the_standard_library(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ATTN_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pooch", None)
    warnings = []
    assert ja.load_corpus("tinyshakespeare", warnings.append).name == "python-docs"
    (line,) = warnings
    assert "nor to be fetched (pooch is not installed); going on with --data python-docs" in line


def test_a_damaged_copy_is_not_used(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("JAX_ATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    (tmp_path / "tinyshakespeare.txt").write_text("First Citizen:\nnot the whole of it")
    corpus = ja.load_corpus("tinyshakespeare", lambda _: None)
    assert corpus.name == "python-docs"


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch):
    """Served from this machine, with the hash of what is served."""
    import hashlib
    import http.server
    import threading

    text = b"To be, or not to be" * 50
    served = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JAX_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(
        "jax_attn.data.built_in.TINYSHAKESPEARE_URL",
        f"http://127.0.0.1:{server.server_port}/input.txt",
    )
    # Something else than what was promised arrives: it is not used.
    assert ja.load_corpus("tinyshakespeare", lambda _: None).name == "python-docs"
    assert len(served) == 1
    # What was promised arrives: it is used, kept, and not asked for again.
    promised = hashlib.sha256(text).hexdigest()
    monkeypatch.setattr("jax_attn.data.built_in.TINYSHAKESPEARE_SHA256", promised)
    for _ in range(2):
        corpus = ja.load_corpus("tinyshakespeare", silent)
        assert text_of(corpus).encode() == text
    server.shutdown()
    server.server_close()
    assert len(served) == 2


def test_the_lectures_corpus_has_the_lectures_numbers():
    """Needs the corpus: a cached copy or a network."""

    def explain(line):
        raise AssertionError(f"{line}; set JAX_ATTN_CACHE to a folder with tinyshakespeare.txt")

    corpus = ja.load_corpus("tinyshakespeare", explain)
    assert sum(corpus.characters) == 1_115_394
    assert corpus.tokenizer.vocab_size == 65
    assert (len(corpus.train), len(corpus.validation)) == (1_003_854, 111_540)
    np.testing.assert_array_equal(
        corpus.tokenizer.encode("hello, there!"),
        [46, 43, 50, 50, 53, 6, 1, 58, 46, 43, 56, 43, 2],
    )


def test_the_cache_folder_can_be_chosen(monkeypatch):
    monkeypatch.setenv("JAX_ATTN_CACHE", os.path.join("some", "where"))
    assert data.cache_dir() == Path("some/where")
    monkeypatch.delenv("JAX_ATTN_CACHE")
    assert data.cache_dir().name == "jax_attn"


def test_without_platformdirs_the_cache_folder_is_where_it_is_on_linux(monkeypatch):
    monkeypatch.delenv("JAX_ATTN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    known = data.cache_dir()
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert data.cache_dir() == Path("~/.cache/jax_attn").expanduser()
    if sys.platform == "linux":
        assert data.cache_dir() == known
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert data.cache_dir() == Path("/elsewhere/jax_attn")
