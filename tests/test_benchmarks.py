"""What a benchmark refuses to time, and what its ratios mean."""

import json
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks import plans
from benchmarks.interleave import DifferentResult, Timing, compare
from benchmarks.markdown import markdown
from benchmarks.rows import OURS, Row, best, row
from jax_attn.compiling.targets import TARGETS
from jax_attn.runs.presets import PRESETS


class Sleep:
    """Takes a known time for each of two units and gives a known result."""

    units = 2

    def __init__(self, seconds, result):
        self._seconds, self._result = seconds, result

    def result(self):
        if self._result is None:
            raise ValueError("no result")
        return np.array(self._result)

    def run(self):
        time.sleep(self.units * self._seconds)


def test_sides_take_turns_and_a_ratio_is_theirs_over_ours():
    sides = {OURS: partial(Sleep, 0.001, 1.0), "slow": partial(Sleep, 0.02, 1.0 + 1e-9)}
    timing = compare(sides, rtol=1e-6, rounds=3, round_seconds=0.01)
    assert [len(seconds) for seconds in timing.seconds.values()] == [3, 3]
    assert timing.median("slow") >= 0.02
    assert min(timing.ratios("slow", OURS)) > 1


def test_different_results_are_not_timed():
    sides = {OURS: partial(Sleep, 0.001, 1.0), "other": partial(Sleep, 0.001, 1.01)}
    with pytest.raises(DifferentResult, match=r"jax_attn and other differ by 1\.0e-02"):
        compare(sides, rtol=1e-3)


def test_a_side_that_fails_is_named_with_its_error():
    with pytest.raises(RuntimeError, match="side 'broken' failed: ValueError: no result"):
        compare({"broken": partial(Sleep, 0.001, None)}, rtol=1e-3)


TIMING = Timing({OURS: [1.0, 2.0, 2.0], "a": [2.0, 2.0, 6.0], "b": [1.0, 1.0, 1.0]})


def test_a_row_holds_the_median_of_the_ratios_and_not_the_ratio_of_the_medians():
    found = row("work", TIMING, "a", unit="s", scale=1.0, must=1.5, goal=3.0)
    assert (found.ours_value, found.other_value) == (2.0, 2.0)
    assert found.ratio == 2.0
    assert found.verdict == "must"
    assert best(TIMING, ["a", "b"]) == "b"


@pytest.mark.parametrize(("ratio", "verdict"), [(0.9, "missed"), (1.0, "must"), (2.0, "goal")])
def test_verdicts(ratio, verdict):
    assert Row("", "", 1, 1, "s", ratio, ratio, ratio, 1.0, 2.0).verdict == verdict
    assert Row("", "", 1, 1, "s", ratio, ratio, ratio).verdict == ""


def test_the_readme_shows_the_results_that_are_kept():
    folder = Path(__file__).parent.parent / "benchmarks"
    text = (folder / "README.md").read_text(encoding="utf-8")
    (ratios,) = folder.glob("results/*-cores.json")
    for kept in (ratios, folder / "results" / "plans.json"):
        assert markdown(json.loads(kept.read_text(encoding="utf-8"))) in text, kept


def test_every_preset_is_planned_for_every_accelerator():
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "plans.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["plans"]
    assert {(p["preset"], p["target"]) for p in kept} == set(product(PRESETS, TARGETS))
    assert not [p for p in kept if "error" in p or any(x["error"] for x in p["programs"])]
    (gpt2,) = (p for p in kept if (p["preset"], p["target"]) == ("gpt2", "h100"))
    assert gpt2["largest_batch"] >= 64


def test_plans_are_made_once_and_written_after_each(tmp_path, monkeypatch, call):
    asked = []

    def make(preset, target):
        asked.append((preset, target))
        if target == "a100":
            return {"preset": preset, "target": target, "error": "crashed"}
        return {"preset": preset, "target": target}

    monkeypatch.setattr(plans, "make", make)
    path = tmp_path / "plans.json"
    assert call(plans.main, path, "bigram", "tpu-v5e", "a100")[0] == 0
    assert call(plans.main, path, "bigram", "a100", "h100")[0] == 0
    # What failed is tried again, what was made is not.
    assert asked == [("bigram", t) for t in ("a100", "tpu-v5e", "h100", "a100")]
    kept = json.loads(path.read_text(encoding="utf-8"))["plans"]
    assert [plan["target"] for plan in kept] == ["h100", "a100", "tpu-v5e"]
    assert call(plans.main, path, "b300")[0] == 2


def test_a_plan_has_a_row_for_every_program():
    bound = {"flops": 2e12, "attention_flops": 1e12, "bytes": 5e9}
    bound |= {"seconds": 0.01, "attention_seconds": 0.002}
    program = {"name": "training", "unit": "step", "seconds": 11.2, "needs": 14e9, "bound": bound}
    broken = {"name": "sampling", "unit": "token", "seconds": 1.0, "needs": None, "bound": None}
    plan = {"preset": "gpt2", "target": "h100", "least_step_mfu": 0.493, "largest_batch": 1152}
    plan["config"] = {"batch_size": 32, "block_size": 1024}
    plan["programs"] = [program, broken | {"error": "ZeroDivisionError: by 0"}]
    assert [" | ".join(row) for row in plans.cells(plan)] == [
        "gpt2 | h100 | training, a step of 32 × 1,024 | 11 s | 14 GB | 5 GB | 3 TFLOP | 12 ms "
        "| 49% | 1,152",
        "gpt2 | h100 | sampling, a token | 1 s | ZeroDivisionError |  |  |  |  | ",
    ]
