"""Command lines that cannot be read: one line with the likely word and where all flags are."""

import contextlib
import importlib
import io

import pytest

from tests.in_process import one_line

HOPPER_FIRST = "('h100', 'h200', 'a100', 'tpu-v5e', 'tpu-v5p', 'tpu-v6e')"


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        pytest.param("train", "mini --stepz 3", "--stepz is not known here; perhaps --steps is"),
        pytest.param("train", "--model.n-layers=3", "perhaps --model.n-layer is meant; all "),
        pytest.param("train", "--n-layer 3", "--n-layer is not known here; perhaps --model.n-"),
        pytest.param("train", "--n-layer=3", "perhaps --model.n-layer is meant; all flags"),
        pytest.param("train", "gpt2 --n_layer 3", "perhaps --model.n-layer is meant; all flags"),
        pytest.param("train", "--n-layers 3", "perhaps --model.n-layer is meant; all flags"),
        pytest.param("train", "--layers 3", "perhaps --model.n-layer is meant; all flags"),
        pytest.param("train", "--dropout 0", "perhaps --model.dropout-rate is meant; all flags"),
        pytest.param("train", "--schedule-steps 9", "perhaps --optimizer.schedule-steps is meant"),
        pytest.param("train", "--batchsize=9", "perhaps --batch-size is meant; all flags"),
        pytest.param("train", "bigram --n-layer 3", "--n-layer is not known here; all flags: pyth"),
        pytest.param("train", "mini 4", "4 is not known here; all flags: python train.py mini --h"),
        pytest.param("train", "gpt2 --steps", "'--steps'. Expected 1 values; all flags: python"),
        pytest.param("train", "--plan h300", f"one of {HOPPER_FIRST}; all flags: python train.py"),
        pytest.param("train", "--dtype float16", "('auto', 'float32', 'bfloat16'); all flags: "),
        pytest.param("train", "--resume", "all flags: python train.py --resume RUN --help"),
        pytest.param("jax_attn.generate", "", "error: SOURCE is missing; all flags: python -m"),
        pytest.param("jax_attn.generate", "x --tokns 3", "perhaps --tokens is meant; all flags: "),
        pytest.param("jax_attn.generate", "x --unknown no", "one of ('error', 'skip'); all flags"),
        pytest.param("jax_attn.evaluate", "x --splitt all", "perhaps --split is meant; all flags"),
        pytest.param("jax_attn.interop", "x", "--to and --out are missing; all flags: python -m "),
        pytest.param("jax_attn.interop", "x --to gpt3 --out y", "('lecture', 'nanogpt', 'gpt2', "),
        pytest.param("parity_tests", "--rungz data", "perhaps --rungs is meant; all flags: python"),
        pytest.param("benchmarks", "--jsn x", "perhaps --json is meant; all flags: python -m ben"),
        pytest.param("benchmarks.device", "", "error: OUT.jsonl is missing: the file that the"),
        pytest.param("benchmarks.markdown", "", "PATH is missing; all flags: python -m benchmarks"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(program, given, said, call):
    try:
        module = importlib.import_module(f"{program}.__main__")
    except ModuleNotFoundError:
        module = importlib.import_module(program)
    assert said in one_line(call(module.main, *given.split()))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_whatever_box_is_drawn(encoding, call):
    module = importlib.import_module("jax_attn.interop.__main__")
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding=encoding)):
        assert "error: --to and --out are missing; all flags: " in one_line(call(module.main, "x"))
