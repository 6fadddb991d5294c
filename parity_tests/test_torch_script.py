"""`train.py --rng torch` against the lecture's scripts, run by torch from the same seed."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torch_ref
import train
from jax_attn import Corpus, load_corpus, load_model, to_state_dict
from jax_attn.lecture import lecture_corpus

SEED, STEPS, EVAL_EVERY, B, T = 7, 12, 6, 4, 8

# What the lecture's public bigram.py prints: seed 1337, before every 300th step.
PRINTED_PAIRS = (
    "4.7305 4.7241 2.8110 2.8249 2.5434 2.5682 2.4932 2.5088 2.4863 2.5035 "
    "2.4665 2.4921 2.4683 2.4936 2.4696 2.4846 2.4638 2.4879 2.4738 2.4911"
)


def call_train(*arguments: object) -> None:
    before = sys.argv
    sys.argv = ["train.py", *map(str, arguments)]
    try:
        assert train.main() == 0
    finally:
        sys.argv = before


def losses_of(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def test_the_lectures_bigram_script_prints_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_train(
        "bigram", "--rng", "torch", "--seed", 1337, "--steps", 3000, "--eval-every", 300,
        "--checkpoint-every", 3000, "--learning-rate", 1e-2, "--out", tmp_path / "run",
    )  # fmt: skip
    said = [line.split() for line in capsys.readouterr().out.splitlines() if "estimate)" in line]
    pairs = [words[i].strip(",") for words in said for i in (4, 7)]
    assert " ".join(pairs) == PRINTED_PAIRS


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the lecture's text: evaluation over all of it takes longer than these trainings."""
    path = tmp_path_factory.mktemp("corpus") / "beginning.txt"
    corpus = lecture_corpus()
    path.write_text(corpus.tokenizer.decode(corpus.train[:20_000]), encoding="utf-8")
    return path


def torch_run(
    model_of, corpus: Corpus, estimates_last_step: bool
) -> tuple[list[float], torch.nn.Module]:
    """The losses of the script's loop, and its model at the end."""
    data = {
        "train": torch.from_numpy(corpus.train.astype(np.int64)),
        "val": torch.from_numpy(corpus.validation.astype(np.int64)),
    }

    def get_batch(split: str):
        return torch_ref.get_batch(data[split], T, B)

    torch.manual_seed(SEED)
    model = model_of(corpus.tokenizer.vocab_size)
    optimizer = torch_ref.make_optimizer(model, 1e-3)
    losses = []
    for step in range(STEPS):
        if step % EVAL_EVERY == 0 or (estimates_last_step and step == STEPS - 1):
            torch_ref.estimate_loss(model, get_batch)
        losses.append(torch_ref.train_step(model, optimizer, *get_batch("train")).item())
    return losses, model


SCRIPTS = {
    "head": (
        lambda v: torch_ref.SingleHeadLanguageModel(v, T, 32, 32),
        ["--optimizer.schedule", "constant", "--optimizer.warmup-steps", "0"],
    ),
    "lecture": (
        lambda v: torch_ref.GPTLanguageModel(v, T, 1, 2, 16, dropout=0.2),
        ["--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "16"],
    ),
}


@pytest.mark.parametrize("preset", SCRIPTS)
def test_a_run_is_the_torch_scripts_run_also_when_resumed(
    preset: str, beginning: Path, tmp_path: Path
) -> None:
    model_of, more = SCRIPTS[preset]
    corpus = load_corpus(str(beginning), warn=print)
    expected, reference = torch_run(model_of, corpus, estimates_last_step=preset == "lecture")
    arguments = [
        preset, "--data", beginning, "--rng", "torch", "--seed", SEED,
        "--eval-every", EVAL_EVERY, "--batch-size", B, "--block-size", T, "--learning-rate", 1e-3,
        "--checkpoint-every", EVAL_EVERY, "--sample-tokens", 20, *more,
    ]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    call_train(*arguments, "--steps", STEPS, "--out", whole)
    losses = np.array(losses_of(whole))
    per_chunk = np.array(expected).reshape(len(losses), -1).mean(axis=1)
    np.testing.assert_allclose(losses, per_chunk, rtol=1e-5)

    # What torch samples after training, with dropout off.
    with torch.no_grad():
        tokens = torch_ref.generate(reference.eval(), torch.zeros((1, 1), dtype=torch.long), 20, T)
    sample = corpus.tokenizer.decode(tokens[0].numpy()) + "\n"
    assert (whole / "sample.txt").read_text() == sample

    # Its end taken away, and gone on with from the checkpoint in the middle.
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / str(STEPS))
    call_train("--resume", broken)
    assert losses_of(broken) == losses_of(whole)
    ends = [to_state_dict(load_model(run)) for run in (whole, broken)]
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name])
