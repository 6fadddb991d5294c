"""How often a run is looked at, and how long it is, changes no bit, program or need of memory."""

import gc

import jax
import jax.monitoring
import numpy as np
import pytest

import train
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.progress import TrainingProgress
from jax_attn.runs.run import Run

pytestmark = pytest.mark.usefixtures("no_pictures")

GPT = ["--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "8", "--block-size", "16",
       "--batch-size", "4", "--model.dropout-rate", "0.2", "--sample-tokens", "9"]  # fmt: skip


def final_bits(path):
    run = Run.open(path)
    checkpoints = Checkpoints(run)
    state = checkpoints.restore(run.shapes())
    checkpoints.close()
    plain = [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(state)
    ]
    return [np.asarray(x).tobytes() for x in plain]


@pytest.fixture
def at_each_update(monkeypatch):
    """Calls the function that a test puts into the list, with the step, after every chunk."""
    observers = []
    update = TrainingProgress.update

    def observed(self, step, *figures):
        update(self, step, *figures)
        for observe in observers:
            observe(step)

    monkeypatch.setattr(TrainingProgress, "update", observed)
    return observers


def test_no_cadence_changes_any_bit_and_nothing_is_compiled_once_all_has_happened(
    call, text, tmp_path, at_each_update
):
    """Chunks of 12, 1 and 2 steps; evaluation and checkpoints at other steps.

    All has happened after the first chunk, evaluation and checkpoint.
    """
    compiled = []

    def count(event, *_, **__):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            compiled.append(event)

    at_each_update.append(lambda step: seen.update({step: len(compiled)}))
    jax.monitoring.register_event_duration_secs_listener(count)
    bits = []
    try:
        for eval_every, checkpoint_every in ((12, 12), (1, 12), (2, 4)):
            seen = {}
            compiled.clear()
            out = tmp_path / f"{eval_every}-{checkpoint_every}"
            arguments = ["--steps", 12, "--eval-every", eval_every]
            arguments += ["--checkpoint-every", checkpoint_every, "--data", text, "--out", out]
            assert call(train.main, "mini", *arguments, *GPT)[0] == 0
            bits.append(final_bits(out))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert bits[0] == bits[1] == bits[2]
    # Of the last run: evaluations from 2 on, and the first checkpoint at 4.
    assert sorted(seen) == [2, 4, 6, 8, 10, 12]
    assert seen[2] > 0
    assert seen[6] == seen[8] == seen[10] == seen[12]


def test_memory_stays_flat(call, text, tmp_path, at_each_update, monkeypatch):
    """Arrays on the device and objects of Python, over 30 chunks with evaluations and saves."""
    save = Checkpoints.save

    def save_and_wait(self, *arguments):  # what is being written is in memory for a while
        save(self, *arguments)
        self.finish_writing()

    monkeypatch.setattr(Checkpoints, "save", save_and_wait)
    arrays, objects = {}, {}

    def weigh(step):
        if step in (100, 200, 300):
            gc.collect()
            arrays[step] = sum(x.nbytes for x in jax.live_arrays())
            objects[step] = len(gc.get_objects())

    at_each_update.append(weigh)
    arguments = ["--steps", 300, "--eval-every", 10, "--checkpoint-every", 50, "--data", text]
    arguments += ["--sample-tokens", 9, "--out", tmp_path / "run"]
    assert call(train.main, "bigram", *arguments)[0] == 0
    assert arrays[100] == arrays[200] == arrays[300]
    assert objects[300] - objects[200] < 1000
