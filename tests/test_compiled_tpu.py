"""Every program of a run as the TPU's own compiler makes it, on a machine that has no TPU."""

import re

import pytest

from tests.compiled_programs import FLASH, PROMPTS, RUNS, compile_prompt, program_text


def flash_kernels(text):
    """Of JAX's kernel; the compiler has some of its own."""
    return sum('"tpu_custom_call"' in line and "flash_" in line for line in text.splitlines())


@pytest.mark.parametrize(("model", "dtype", "program"), RUNS)
def test_it_compiles(model, dtype, program):
    text = program_text(model, dtype, "tpu-v5e", program)
    # Backward there are two.
    flash = FLASH.get((model, program), 0)
    assert flash_kernels(text) == (3 * flash if program == "training" else flash)
    if program == "training":
        assert not re.search(r"= bf16\S* scatter\(", text)  # which would stop adding at 256


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", PROMPTS)
def test_prompts_compile(length, dtype):
    text = compile_prompt(dtype, "tpu-v5e", length)
    # Of so few positions that the masked half is small attention is explicit.
    assert flash_kernels(text) == (1 if length == 1024 else 0)
