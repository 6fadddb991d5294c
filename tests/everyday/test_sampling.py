"""python -m jax_attn.generate as people use it: prompts, stops, several samples."""

import io
import shlex
import sys

import pytest

import train
from jax_attn.generate import __main__ as generate_cli
from tests.in_process import finished_run, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ["--batch-size", "2", "--block-size", "8", "--steps", "4", "--eval-every", "4",
        "--checkpoint-every", "4", "--sample-tokens", "40"]  # fmt: skip
FOUR = ("--num-samples", "4")  # as many rows everywhere: a number of rows is a program


@pytest.fixture(scope="module")
def run(tmp_path_factory, no_pictures):
    """Of a bigram table, whose text has no é and no newline."""
    text = "the quick brown fox jumps over the lazy dog " * 40
    return finished_run(tmp_path_factory.mktemp("made"), *TINY, text=text) / "run"


@pytest.fixture
def sample(call, run):
    def text(*arguments):
        code, out, err = call(generate_cli.main, run, "--tokens", "40", *arguments)
        assert (code, err) == (0, "")
        return out

    return text


def test_samples_of_a_batch_are_those_of_their_seeds(sample):
    """Each prompt with each seed, in the order in which they are given."""
    prompts = [word for prompt in ("fox", "the lazy dog") for word in ("--prompt", prompt)]
    parts = sample(*prompts, "--num-samples", "2", "--seed", "5").split("--- ")[1:]
    titles, texts = zip(*(part.split("\n", 1) for part in parts), strict=True)
    assert [title.rstrip("-") for title in titles] == [
        f"prompt {p} of 2, sample {n} of 2, seed {seed} "
        for p in (1, 2)
        for n, seed in ((1, 5), (2, 6))
    ]
    expected = [sample("--prompt", p, "--seed", s) for p in ("fox", "the lazy dog") for s in (5, 6)]
    assert list(texts) == expected
    assert len(set(texts)) == 4


def test_the_largest_seeds(sample):
    together = sample("--seed", "4294967292", *FOUR)
    for seed in ("4294967292", "4294967295"):
        assert sample("--seed", seed) in together


def test_a_stop_text_is_where_the_text_ends(sample):
    whole = sample("--prompt", "fox", "--seed", "1")
    stop = whole[20:23]
    assert sample("--prompt", "fox", "--seed", "1", "--stop", stop) == (
        whole[: 3 + whole[3:].index(stop)] + "\n"
    )
    together = sample("--prompt", "fox", "--stop", stop, "--stop", "\u20ac", *FOUR, "--seed", "0")
    assert sample("--prompt", "fox", "--seed", "1", "--stop", stop) in together


def test_nothing_is_computed_after_the_last_sample_has_ended(call, run, monkeypatch):
    made = []
    chunks = generate_cli.stream

    def noted(chunk):
        made.append(chunk)
        return chunk

    monkeypatch.setattr(generate_cli, "stream", lambda *a, **k: map(noted, chunks(*a, **k)))
    assert call(generate_cli.main, run, "--tokens", "400", "--stop", " ")[0] == 0
    assert sum(chunk.shape[1] for chunk in made) < 400


@pytest.mark.parametrize("content", ["fox\n", "fox", "\ufefffox\r\n"])
@pytest.mark.parametrize("by", ["a file", "standard input"])
def test_a_prompt_from_a_file(sample, tmp_path, monkeypatch, content, by):
    (tmp_path / "prompt.txt").write_bytes(content.encode())
    given = tmp_path / "prompt.txt"
    if by == "standard input":
        given = "-"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert sample("--prompt-file", given) == sample("--prompt", "fox")


def test_unknown_characters_are_skipped_if_asked(call, run, sample):
    code, out, err = call(
        generate_cli.main, run, "--tokens", "40", "--prompt", "fOéx€", "--unknown", "skip"
    )
    assert (code, out) == (0, sample("--prompt", "fx"))
    assert "skipped in the prompt, for the model does not know them: 'O', 'é', '€'" in err


def test_temperature_0_needs_no_seed_and_knows_no_top_p(sample):
    texts = {
        sample("--temperature", "0", *more) for more in ((), ("--top-p", "0.1", "--seed", "9"))
    }
    assert len(texts) == 1


REFUSED = [
    ("two prompts", ["--prompt", "a", "--prompt-file", "x"], "--prompt and --prompt-file"),
    ("no such file", ["--prompt-file", "nowhere.txt"], "nowhere.txt: there is no such file"),
    ("a folder", ["--prompt-file", "."], "the prompt cannot be read (Is a directory)"),
    ("no prompt", ["--prompt", ""], "the prompt is empty; give at least one character"),
    ("one of two is none", ["--prompt", "a", "--prompt", ""], "the prompt is empty"),
    ("unknown", ["--prompt", "é"], "characters outside the vocabulary: 'é'"),
    ("many samples", ["--num-samples", "2147483647"], "2,147,483,647 samples at once would take"),
    ("no stop", ["--stop", ""], "--stop is empty"),
    ("seeds past the last", ["--seed", "4294967295", "--num-samples", "2"], "the last sample"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_what_is_refused(call, run, arguments, said):
    assert said in one_line(call(generate_cli.main, run, *arguments))


def test_a_prompt_of_unknown_characters_alone(call, run):
    code, out, err = call(generate_cli.main, run, "--prompt", "éé", "--unknown", "skip")
    assert (code, out) == (2, "")
    assert err.endswith("error: nothing is left of the prompt; give at least one character\n")


def test_a_file_that_is_no_text(call, run, tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"ab\xff")
    said = one_line(call(generate_cli.main, run, "--prompt-file", tmp_path / "prompt.txt"))
    assert "prompt.txt: not UTF-8 at byte offset 2; convert the prompt to it" in said


@pytest.mark.parametrize("tokens", ["char", "bytes", "bpe:260"])
def test_the_command_at_the_end_gives_the_sample_that_was_shown(
    tokens, call, text, tmp_path, no_pictures
):
    given = ["--tokens", tokens, "--seed", 7, "--steps", 2, "--sample-tokens", 200]
    code, out, _ = call(train.main, "bigram", *given, "--data", text, "--out", tmp_path / "run")
    assert code == 0
    (command,) = (line for line in out.splitlines() if line.startswith("the same sample: "))
    _, words = command.split("python -m jax_attn.generate ")
    code, again, _ = call(generate_cli.main, *shlex.split(words))
    assert again == (tmp_path / "run/sample.txt").read_text(encoding="utf-8")
    assert again in out
