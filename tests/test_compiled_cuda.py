"""Every program of a run as XLA's GPU compiler makes it, on a machine that has no GPU."""

import re
from dataclasses import replace

import pytest

from tests.compiled_programs import (
    CONFIGS,
    FLASH,
    PROMPTS,
    RUNS,
    compile_prompt,
    program_text,
)

FORWARD, BACKWARD = '"__cudnn$fmhaSoftmax"', '"__cudnn$fmhaSoftmaxBackward"'


@pytest.mark.parametrize(("model", "dtype", "program"), RUNS)
def test_it_compiles(model, dtype, program):
    text = program_text(model, dtype, "h100", program)
    flash = FLASH.get((model, program), 0) if dtype == "bfloat16" else 0
    assert text.count(FORWARD) == flash
    assert text.count(BACKWARD) == (flash if program == "training" else 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", PROMPTS)
def test_prompts_compile(length, dtype):
    text = compile_prompt(dtype, "h100", length)
    # Of so few positions that the masked half is small attention is explicit.
    assert text.count(FORWARD) == (1 if length == 1024 and dtype == "bfloat16" else 0)


def test_what_a_training_step_has_and_has_not(monkeypatch):
    """With so many logits that an accelerator takes them in parts, too."""
    large = replace(CONFIGS["gpt2"], batch_size=32)
    monkeypatch.setitem(CONFIGS, "gpt2 at a large batch", large)
    text = program_text("gpt2 at a large batch", "bfloat16", "h100", "training")
    assert not re.search(r"\[[\d,]*1024,1024\]", text)  # no whole attention weights
    rows = 16 * 1024  # of a micro-batch
    assert not re.search(rf"\[({rows}|16,1024),(50257|50304)\]", text)  # nor logits
    assert re.search(r"bf16\[(?!64,)\d+,50304\]", text)  # but those of a part
    assert not re.search(r"= bf16\S* scatter\(", text)  # which would stop adding at 256


def test_an_older_gpu_is_another_target():
    assert FORWARD in program_text("gpt2", "bfloat16", "a100", "evaluation")
