"""Every part of the run on an accelerator, at tiny sizes on a CPU, as its user would call it.

But for `larger_batch`, which is the part `gpt2` with another number.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.device.parts import LIMITS

ROOT = Path(__file__).parent.parent
# Figures without which a part has not done what it is for.
FIGURES = {
    "ceilings": ["device", "bfloat16 product", "copy", "import jax_attn"],
    "operations": [
        *("loss, jax_attn", "loss, whole, bfloat16 logits", "embedding, V 257, jax_attn"),
        *("embedding, V 5, one-hot product", "layer norm, jax_attn", "GELU, jax_attn"),
        *("dropout, threefry, 32 bits", "optimizer update, jax_attn, leaf by leaf"),
    ],
    "attention": ["attention, T 130, auto", "attention, T 1, blocked"],
    "gpt2": [
        *("float32 losses, tiny, apart", "first loss, apart", "times torch's speed"),
        *("jax_attn, speed", "torch, speed"),
    ],
    "profiling": ["planned memory", "kernels of /host:CPU", "optimised program"],
    "product": [
        *("train.py", "train.py --resume", "python -m jax_attn.generate"),
        *("equal bits, as it is", "equal bits, --xla_gpu_exclude_nondeterministic_ops=true"),
    ],
    "decoding": ["token"],
    "parity": ["rung averaging, ladder"],
}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """The exit code, the last line printed, and the records of a whole rehearsal."""
    path = tmp_path_factory.mktemp("device") / "out.jsonl"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.device", path, *LIMITS, "--rehearse"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return run.returncode, run.stdout.splitlines()[-1], records, path


def test_no_part_is_missing(rehearsal):
    code, last, records, _ = rehearsal
    assert [r for r in records if "problem" in r] == []
    assert (code, last) == (0, "run: missing parts: []")
    assert records[0]["figure"] == "machine"


@pytest.mark.parametrize("part", LIMITS)
def test_a_part_has_measured_what_it_is_for(rehearsal, part):
    *_, records, path = rehearsal
    figures = {r["figure"]: r for r in records if r["part"] == part}
    missing = [name for name in FIGURES[part] if name not in figures]
    assert not missing, f"{missing} not among {list(figures)}"
    for record in figures.values():
        if "error" in record:
            assert max(record["error"]) < 0.02, record
    if part == "profiling":
        assert path.with_name("out-gpt2.hlo.gz").stat().st_size > 1000
    if part == "product":
        assert figures["equal bits, as it is"]["value"] is True
