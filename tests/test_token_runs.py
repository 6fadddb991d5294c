"""Runs on tokens of every kind: trained, gone on with, sampled from; what is refused."""

import json
import shutil
import signal

import pytest

import jax_attn as ja
import train
from jax_attn.data import load_tokenizer, make_tokenizer
from jax_attn.generate import __main__ as generate_cli
from tests.came_to import records
from tests.in_process import interrupted, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")

# Characters of one to four bytes.
TEXT = "the quick brown fox 春眠不覺曉 jumps over 🙂 the lazy dog\n" * 60
GPT_SHAPE = ["mini", "--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "8",
             "--block-size", "16", "--batch-size", "4"]  # fmt: skip
RUN = ["--steps", "6", "--eval-every", "3", "--checkpoint-every", "3", "--sample-tokens", "40"]
BIGRAM = ["bigram", "--steps", "2", "--sample-tokens", "9"]


@pytest.mark.parametrize(("spec", "shape"), [("bytes", BIGRAM), ("bpe:290", GPT_SHAPE)])
def test_a_run_from_end_to_end(call, tmp_path, spec, shape):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    given = [*shape, *RUN, "--data", text, "--tokens", spec]
    code, out, err = call(train.main, *given, "--out", tmp_path / "whole")
    assert (code, err) == (0, "")
    run = tmp_path / "whole"
    tokenizer = load_tokenizer(run / "tokenizer.json")
    unit, ids = tokenizer.unit, tokenizer.encode(TEXT)
    assert tokenizer.vocab_size == (256 if spec == "bytes" else 290)
    for step in ("3", "6"):  # it travels with every checkpoint
        assert (run / "checkpoints" / step / "tokenizer.json").read_bytes() == (
            run / "tokenizer.json"
        ).read_bytes()
    assert f"{len(TEXT):,} characters, {len(ids):,} tokens ({tokenizer.describe()})" in out

    # Losses a token and a character: of the same text, so in the ratio of their numbers.
    last = records(run)[-1]
    corpus = ja.load_corpus(str(text), print, tokens=spec)
    predicted = corpus.validation[1:]
    ratio = len(predicted) / len(tokenizer.decode(predicted, "replace").lstrip("\ufffd"))
    assert last["val_loss_per_character"] == pytest.approx(last["val_loss"] * ratio)
    loss, by_character = last["val_loss"], last["val_loss_per_character"]
    assert f"validation loss {loss:.4f}, {by_character:.4f} per character\n" in out
    assert (
        f"validation loss  {loss:.4f} nats per {unit}, {by_character:.4f} per character, over all "
        f"{len(predicted)} {unit}s of the validation split"
    ) in out

    # Stopped and gone on with, where the text is now and without what the tokenizer was made of.
    with interrupted(3, signal.SIGINT):
        assert call(train.main, *given, "--out", tmp_path / "broken")[0] == 130
    assert call(train.main, "--resume", tmp_path / "broken")[0] == 0
    assert records(tmp_path / "broken") == records(run)
    sample = (run / "sample.txt").read_text(encoding="utf-8")
    assert (tmp_path / "broken" / "sample.txt").read_text(encoding="utf-8") == sample

    code, out, _ = call(generate_cli.main, run, "--prompt", "春 🙂 fox", "--tokens", 5)
    assert code == 0
    assert out.startswith("春 🙂 fox")


def test_a_bounded_evaluation_counts_its_own_characters(call, tmp_path):
    """The first characters here have three bytes, those after them one."""
    text = tmp_path / "text.txt"
    text.write_text("a" * 900 + "春" * 20 + "b" * 80, encoding="utf-8")
    tokens = ["--data", text, "--tokens", "bytes"]
    given = (*BIGRAM, *tokens, "--eval-tokens", "30", "--out", tmp_path / "run")
    code, out, _ = call(train.main, *given)
    assert code == 0
    corpus = ja.load_corpus(str(text), print, tokens="bytes")
    begin = corpus.tokenizer.count_characters(corpus.validation[1:31])
    assert 10 <= begin < 30
    (last,) = records(tmp_path / "run")
    assert last["val_loss_per_character"] == pytest.approx(last["val_loss"] * 30 / begin)
    assert "over the first 30 of" in out


def test_characters_have_one_loss(call, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    code, out, _ = call(train.main, *BIGRAM, "--data", text, "--out", tmp_path / "run")
    assert code == 0
    assert "per character, over" in out
    assert ", per character" not in out
    assert "val_loss_per_character" not in records(tmp_path / "run")[-1]
    # As runs had it before there were other tokens.
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"].pop("tokens") == "char"
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    assert call(train.main, "--resume", tmp_path / "run", "--steps", "3")[0] == 0


def test_a_tokenizer_of_ones_own_and_the_text_elsewhere(call, tmp_path):
    """In the folder of another run; it is not needed again, nor is the text's old place."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    own = tmp_path / "own"
    own.mkdir()
    make_tokenizer("bpe:270", lambda: [TEXT]).save(own / "tokenizer.json")
    run = tmp_path / "run"
    assert call(train.main, *BIGRAM, "--data", text, "--tokens", own, "--out", run)[0] == 0
    assert (run / "tokenizer.json").read_bytes() == (own / "tokenizer.json").read_bytes()
    shutil.rmtree(own)
    text.rename(tmp_path / "moved.txt")
    moved = ("--data", tmp_path / "moved.txt")
    assert call(train.main, "--resume", run, "--steps", "3", *moved)[0] == 0
    assert ja.load_model(run / "checkpoints" / "2").token_embedding_table.num_embeddings == 270


def test_gpt2_trains_on_bpe_tokens():
    """As many as its table has rows; tests/test_device_choices.py trains a small one."""
    config = ja.PRESETS["gpt2"][1]
    assert (config.tokens, config.model.vocab_size) == ("bpe:50257", 50257)


def spoilt(change):
    def make(folder):
        record = make_tokenizer("bpe:270", lambda: [TEXT]).record()
        change(record)
        (folder / "tokenizer.json").write_text(json.dumps(record))
        return folder

    return make


def files(**contents):
    def make(folder):
        for name, content in contents.items():
            name = {"vocab": "vocab.json", "merges": "merges.txt", "tokenizer": "tokenizer.json"}[
                name
            ]
            (folder / name).write_bytes(content)
        return folder

    return make


CHOICES = "it is to be char, bytes, bpe:N (N ids trained on the text), or the path of a tokenizer."
REFUSED = {
    "nothing": ("", CHOICES),
    "no such choice": ("chars", f"tokens 'chars': there is no such choice or file; {CHOICES}"),
    "no such file": ("no/tokenizer.json", "there is no such choice or file; it is to be char"),
    "no number": ("bpe:", CHOICES),
    "a negative number": ("bpe:-5", CHOICES),
    "fewer ids than bytes": ("bpe:256", "bpe:256 is to have 257 to 1,048,576 ids: the 256 bytes"),
    "more ids than a model has": ("bpe:999999999", "bpe:999999999 is to have 257 to 1,048,576"),
    "a name for nobody": ("\0", CHOICES),
    "an empty folder": (files(), "a folder of a tokenizer has a tokenizer.json, or a vocab.json"),
    "half of GPT-2's": (files(vocab=b"{}"), "GPT-2's two files are vocab.json and merges.txt"),
    "the other half": (files(merges=b""), "GPT-2's two files are vocab.json and merges.txt"),
    "no vocabulary": (files(vocab=b"{", merges=b""), "vocab.json or merges.txt is damaged"),
    "an empty vocabulary": (files(vocab=b"{}", merges=b""), "its ids go up to -1"),
    "a merge of three": (
        files(vocab=b'{"a": 0}', merges=b"#version: 0.2\na b c\n"), "no pair: 'a b c'"
    ),
    "a merge of what is not there": (
        files(vocab=b'{"a": 0}', merges=b"a b\n"), "as GPT-2's (the tokenizers library refuses it"
    ),
    "merges that are no text": (files(vocab=b"{}", merges=b"\xff"), "merges.txt is damaged"),
    "words that end otherwise": (files(vocab=b'{"a</w>": 0}', merges=b""), "end words by </w>"),
    "ids of the wrong type": (
        files(vocab=b'{"a": "b"}', merges=b""), "as GPT-2's (the tokenizers library refuses it"
    ),
    "no JSON": (files(tokenizer=b"{"), "tokenizer.json: not a tokenizer file (Expecting"),
    "another JSON": (files(tokenizer=b"[]"), "not a tokenizer file (no JSON object)"),
    "a kind that is not there": (
        files(tokenizer=b'{"kind": "words"}'), "there is no tokenizer of kind 'words'"
    ),
    "characters twice": (files(tokenizer=b'{"characters": "aa"}'), "characters each once"),
    "no model": (spoilt(lambda r: r.update(model=None)), "(the tokenizers library refuses it: "),
    "a model of no kind": (
        spoilt(lambda r: r["model"].update(type="?")), "(the tokenizers library refuses it: "
    ),
    "an id without end": (
        spoilt(lambda r: r["model"]["vocab"].update({"zzz": 2**32 - 1})), "its ids go up to 4,294"
    ),
    "a pattern that is none": (
        spoilt(lambda r: r.update(pre_tokenizer={
            "type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False
        })), "(the tokenizers library refuses it: Oniguruma error",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(call, tmp_path, what):
    spec, message = REFUSED[what]
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    if callable(spec):
        (tmp_path / "own").mkdir()
        spec = spec(tmp_path / "own")
    data = ("--data", tmp_path / "text.txt", "--out", tmp_path / "run")
    line = one_line(call(train.main, *BIGRAM, "--tokens", spec, *data))
    assert message in line
    assert not (tmp_path / "run").exists()


def test_in_python_it_is_the_same_line(tmp_path, unchecked):
    for spec, message in (
        (3, "tokens is a int; it is to be char"),
        ("chars", "no such choice or file"),
    ):
        config = ja.TrainConfig(**(vars(ja.PRESETS["bigram"][1]) | {"tokens": spec}))
        with pytest.raises(ja.InputError, match=message):
            ja.train(config, out=tmp_path / "run")


def test_a_text_with_characters_that_its_tokenizer_lacks(call, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    ja.CharTokenizer.from_text("the quick").save(tmp_path / "tokenizer.json")
    tokens = ("--tokens", tmp_path, "--data", tmp_path / "text.txt", "--out", tmp_path / "run")
    line = one_line(call(train.main, *BIGRAM, *tokens))
    assert "characters outside the vocabulary: '\\n', 'a', 'b', 'd', 'f'" in line
    assert not (tmp_path / "run").exists()
