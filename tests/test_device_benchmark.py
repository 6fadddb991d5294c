"""The run on an accelerator, as far as it can be known without one: nothing ends it early."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja
from benchmarks.device import __main__ as program
from benchmarks.device import commands, gpt2, torch_gpt2
from benchmarks.device.gpt2_data import RECIPE, SHORT, SHORT_STEPS, batches, zipf_ids
from benchmarks.device.jax_gpt2 import JaxGPT2
from benchmarks.device.parts import LIMITS, SECONDS
from benchmarks.device.record import Record
from benchmarks.device.runner import STOP, Part, run_parts
from benchmarks.device.sizes import REHEARSAL, TINY
from benchmarks.device.timing import Variant, forward_backward, loop, time_variants
from benchmarks.device.vocabulary import LOOKUPS, WHOLE
from benchmarks.interleave import DifferentResult
from jax_attn.nn.chunked_loss import chunked_loss_sum


def part(name, code, limit=60.0):
    return Part(name, (sys.executable, "-c", code), limit)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "out.jsonl", "now", "part")


def test_a_part_that_hangs_and_one_that_crashes_are_recorded_and_the_rest_goes_on(tmp_path):
    path, beats = tmp_path / "out.jsonl", tmp_path / "beats"
    # What a part has started ends with it.
    child = f"import time\nwhile True: open({str(beats)!r}, 'a').write('.'); time.sleep(0.05)"
    hangs = (
        "import subprocess, sys, time; print('halfway', flush=True);"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    parts = [
        part("hangs", hangs, 2.0),
        part("crashes", "import os; print('so far', flush=True); os.abort()"),
        part("works", "print('done')"),
    ]
    begun = time.monotonic()
    missing = run_parts(parts, path, "now", time.monotonic() + 60)
    assert missing == ["hangs", "crashes"]
    assert time.monotonic() - begun < 20
    hung, crashed, worked, last = lines(path)
    assert hung["problem"].startswith("ran over its 2 s: halfway")
    assert crashed["problem"].startswith("exit code -6: so far")
    assert worked["value"] > 0
    assert last["figure"] == "missing parts"
    assert last["value"] == missing
    assert last["failed_figures"] == ["hangs: seconds", "crashes: seconds"]
    size = beats.stat().st_size
    time.sleep(0.5)
    assert beats.stat().st_size == size > 0


def test_no_part_is_begun_without_time_and_none_outlives_the_whole(tmp_path):
    path = tmp_path / "out.jsonl"
    parts = [part("long", "import time; time.sleep(60)"), part("late", "pass")]
    begun = time.monotonic()
    assert run_parts(parts, path, "now", begun + 6) == ["long", "late"]
    assert time.monotonic() - begun < 12
    assert lines(path)[0]["problem"].startswith("ran over its 6 s")
    assert lines(path)[1]["problem"].startswith("not begun: ")


def test_a_part_can_say_that_no_other_makes_sense(tmp_path):
    path = tmp_path / "out.jsonl"
    parts = [part("first", f"raise SystemExit({STOP})"), part("second", "pass")]
    assert run_parts(parts, path, "now", time.monotonic() + 60) == ["first", "second"]
    assert "first has found" in lines(path)[1]["problem"]


def test_the_limits_add_up_to_the_whole():
    assert sum(LIMITS.values()) == SECONDS == 480


def test_wrong_arguments_give_one_line(call, tmp_path):
    code, _, err = call(program.main, tmp_path / "out.jsonl", "nothing")
    assert code == 2
    assert err.startswith("benchmarks.device: error: no such part: nothing; there are ceilings, ")
    assert len(err.splitlines()) == 1
    (tmp_path / "file").touch()
    code, _, err = call(program.main, tmp_path / "file" / "out.jsonl")
    assert code == 2
    assert "choose another file" in err
    assert len(err.splitlines()) == 1


def test_a_record_is_json_and_names_no_folder_of_the_machine(record, tmp_path):
    record.add("figure", float("nan"), "s", text=f"{sys.prefix}/bin/python", more=[float("inf")])
    (line,) = lines(record.path)
    assert line == {
        **{"run": "now", "part": "part", "figure": "figure", "value": "nan", "unit": "s"},
        **{"text": "PYTHON/bin/python", "more": ["inf"]},
    }


def test_losses_that_differ_are_recorded_and_not_timed(record):
    losses = {"jax_attn": np.array([2.0, 1.0]), "torch": np.array([2.0, 1.01])}
    gpt2.agree(record, "losses", losses, 0.02)
    with pytest.raises(DifferentResult, match="not timed"):
        gpt2.agree(record, "losses", losses, 1e-3)
    losses["torch"][0] = np.nan
    with pytest.raises(DifferentResult):
        gpt2.agree(record, "losses", losses, 1.0)
    assert [line["torch"][1] for line in lines(record.path)] == [1.01] * 3


def test_both_sides_train_the_same_model_by_the_same_recipe(monkeypatch):
    """In float32, over warm-up and cosine, clipped; the padded vocabulary counts for nothing."""

    def other_side():
        return torch_gpt2.TorchGPT2(TINY, SHORT_STEPS, None, dtype="float32", recipe=SHORT)

    ours, theirs = JaxGPT2(TINY, SHORT_STEPS, "float32", SHORT), other_side()
    np.testing.assert_allclose(ours.result(), theirs.result(), rtol=2e-6)
    assert ours.result()[-1] < ours.result()[0] - 0.05
    assert theirs._model.wte.weight.shape[0] == 384
    padding = theirs._model.wte.weight[TINY.vocab_size :]
    assert not padding.any()

    exact = torch_gpt2.F.gelu
    monkeypatch.setattr(torch_gpt2.F, "gelu", lambda x, approximate: exact(x))
    apart = np.abs(other_side().result() / ours.result() - 1).max()
    assert apart > gpt2.SHORT_LOSSES


@pytest.mark.parametrize("recipe", [RECIPE, SHORT])
def test_the_recipe_has_the_rates_of_the_package(recipe):
    config = ja.OptimizerConfig(
        schedule="cosine",
        warmup_steps=recipe.warmup_steps,
        final_fraction=recipe.final_fraction,
    )
    ours = ja.learning_rate_schedule(config, recipe.learning_rate, recipe.steps)
    for step in (0, 1, 2, 3, 5, 199, 200, 201, 1999):
        np.testing.assert_allclose(recipe.rate(step), ours(step), rtol=1e-4)


def test_torch_is_asked_for_one_kernel_of_attention_at_a_time():
    seconds = torch_gpt2.kernel_seconds(TINY)
    assert isinstance(seconds["flash"], float)
    assert isinstance(seconds["cudnn"], str)  # what it says against a CPU
    torch_gpt2.use_kernels(*torch_gpt2.KERNELS)


def test_likelier_ids_are_likelier_on_both_sides_alike():
    ids = zipf_ids((20_000,), 65)
    counts = np.sort(np.bincount(ids, minlength=65))[::-1]
    assert counts[0] > 1.7 * counts[1] > 3 * counts[5]
    np.testing.assert_array_equal(ids, zipf_ids((20_000,), 65))
    inputs, targets = batches(TINY, 2)
    np.testing.assert_array_equal(inputs[..., 1:], targets[..., :-1])


def test_a_loop_computes_as_often_as_it_says():
    calls = []

    def counted(x):
        return jax.pure_callback(lambda x: calls.append(0) or x, x, x)

    jax.block_until_ready(loop(counted, 7)(jnp.ones(3)))
    assert len(calls) == 7


def test_a_variant_that_cannot_run_is_recorded_and_the_others_are_timed(record):
    def refuses(x):
        raise ValueError("not on this device")

    x = jnp.arange(4.0)
    variants = [
        Variant("refuses", refuses, (x,)),
        forward_backward("wrong", lambda x: 1.1 * x, [x], x),
        forward_backward("right", jnp.sin, [x], x),
    ]
    reference = forward_backward("reference", jnp.sin, [x], x)
    time_variants(record, "operation", variants, REHEARSAL, reference)
    refused, wrong, right = lines(record.path)
    assert refused["problem"] == "ValueError: not on this device"
    assert wrong["error"][0] > 0.1
    assert right["error"] == [0, 0]
    assert right["kept_bytes"] == x.nbytes


def test_the_variants_that_exist_only_here_have_the_right_derivatives():
    hidden, matrix = jax.random.normal(jax.random.key(0), (2, 3, 8)), jnp.eye(8, 11) + 0.1
    targets = jnp.array([[0, 10, 3], [7, 7, 1]])

    def ours(hidden, matrix):
        return chunked_loss_sum(hidden, matrix, None, targets)[0]

    def theirs(hidden, matrix):
        return WHOLE["float32"](hidden, matrix, targets)

    for one, other in zip(
        jax.tree.leaves(jax.value_and_grad(ours, (0, 1))(hidden, matrix)),
        jax.tree.leaves(jax.value_and_grad(theirs, (0, 1))(hidden, matrix)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    ids = jnp.array([[4, 0, 4], [4, 1, 1]])
    dy = jax.random.normal(jax.random.key(1), (2, 3, 8), jnp.bfloat16)
    expected = np.zeros((5, 8))
    np.add.at(expected, np.asarray(ids), np.asarray(dy, np.float64))
    for name, lookup in LOOKUPS.items():
        out, backward = jax.vjp(lambda t, lookup=lookup: lookup(t, ids), jnp.ones((5, 8)))
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(backward(dy)[0], expected, atol=0.03, err_msg=name)


def test_missing_packages_are_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"tyro is missing.*benchmarks/README"):
        commands.require_tyro()
