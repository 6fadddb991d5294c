"""Checkpoints: complete or passed over, the newest and the best kept, every difference refused."""

import dataclasses
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja
from jax_attn.config import BigramShape
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.run import Run

CONFIG = ja.TrainConfig(
    model=BigramShape(), steps=9, batch_size=4, block_size=8, learning_rate=1e-2, eval_every=3,
    checkpoint_every=3,
)  # fmt: skip
TOKENIZER = ja.CharTokenizer("abc")
CORPUS = ja.Corpus(
    "none", "0" * 64, TOKENIZER, TOKENIZER.encode("ab"), TOKENIZER.encode("c"), (2, 1)
)


def unheard(line):
    raise AssertionError(f"unexpected message: {line}")


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", CONFIG, CORPUS)


def state_at(run, step):
    """Every array tells its step."""
    state = run.fresh()
    params = jax.tree.map(lambda p: p + step, state.params)
    return dataclasses.replace(state, step=jnp.int32(step), params=params)


def save(run, *steps, losses=None):
    checkpoints = Checkpoints(run, unheard)
    for i, step in enumerate(steps):
        checkpoints.save(state_at(run, step), None if losses is None else losses[i])
    checkpoints.close()


def restore(run, say=unheard):
    checkpoints = Checkpoints(run, say)
    state = checkpoints.restore(run.shapes())
    checkpoints.close()
    return state


def names(run):
    return sorted(path.name for path in run.checkpoints_path.iterdir())


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_newest_comes_back_as_it_was(run):
    assert restore(run) is None
    save(run, 3, 6)
    assert_same(restore(run), state_at(run, 6))
    assert names(run) == ["3", "6"]


@pytest.mark.parametrize("name", ["[red]", "*", "a?b", "a b:smile:лес", "a\\b", "q\udcff"])
def test_in_a_folder_of_any_name(tmp_path, name):
    run = Run.create(tmp_path / name / "run", CONFIG, CORPUS)
    save(run, 3, 6)
    assert_same(restore(run), state_at(run, 6))


def test_the_newest_and_the_best_are_kept(run):
    save(run, 1, 2, 3, 4, 5, 6, losses=[4.0, 2.0, 3.0, float("nan"), 5.0, 6.0])
    assert names(run) == ["2", "4", "5", "6"]
    save(run, 7, 8, losses=[2.0, 1.5])
    assert names(run) == ["6", "7", "8"]


def test_without_validation_losses_only_the_newest_are_kept(run):
    save(run, 1, 2, 3, 4, 5)
    assert names(run) == ["3", "4", "5"]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "a flipped bit": (flip_a_bit, "is not as it was written"),
    "a file cut short": (truncate, "is not as it was written"),
    "an empty file": (lambda path: path.write_bytes(b""), "is not as it was written"),
    "a file removed": (lambda path: path.unlink(), "is missing"),
    "a file too many": (
        lambda path: path.with_name("more").write_bytes(b""), "'.*more' does not belong to it",
    ),
    "a link instead": (
        lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
        "is neither a file nor a folder",
    ),
    "a pipe instead": (
        lambda path: (path.unlink(), os.mkfifo(path)), "is neither a file nor a folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(run, kind):
    """Every file of it in turn; Orbax, which leaves threads behind when it fails, never sees it."""
    damage, message = DAMAGE[kind]
    save(run, 3, 6)
    shutil.copytree(run.checkpoints_path / "6", run.path / "whole")
    for file in files_of(run.checkpoints_path / "6"):
        damage(file)
        said = []
        assert_same(restore(run, said.append), state_at(run, 3))
        assert len(said) == 1
        assert said[0].startswith("checkpoint 6 is damaged and passed over: ")
        if file.name != "checksums.json":  # damaged, it may accuse any file
            assert re.search(message, said[0])
        shutil.rmtree(run.checkpoints_path / "6")
        shutil.copytree(run.path / "whole", run.checkpoints_path / "6")
    assert_same(restore(run), state_at(run, 6))


def test_a_passed_over_step_is_saved_again(run):
    save(run, 3, 6)
    truncate(files_of(run.checkpoints_path / "6")[0])
    checkpoints = Checkpoints(run, lambda _: None)
    checkpoints.restore(run.shapes())
    checkpoints.save(state_at(run, 6))
    checkpoints.close()
    assert_same(restore(run), state_at(run, 6))


def test_damaged_checkpoints_alone_are_an_error(run):
    save(run, 3, 6)
    for step in ("3", "6"):
        flip_a_bit(run.checkpoints_path / step / "checksums.json")
    said = []
    with pytest.raises(
        ja.InputError, match="no checkpoint is whole; to begin at step 0 again, rem"
    ):
        restore(run, said.append)
    assert len(said) == 2
    with pytest.raises(ja.InputError, match="no checkpoint is whole"):
        ja.load_model(run.path)


def test_what_a_killed_run_leaves_behind_is_no_checkpoint_and_is_cleared_away(run):
    save(run, 3)
    shutil.copytree(run.checkpoints_path / "3", run.checkpoints_path / "6.writing")
    shutil.copytree(run.checkpoints_path / "3", run.checkpoints_path / "0.removing")
    assert_same(restore(run), state_at(run, 3))
    save(run, 6)
    assert names(run) == ["3", "6"]


def test_names_that_are_no_steps_are_left_alone(run):
    save(run, 3)
    strange = ["06", "-1", "6.backup", "٣", "99999999999"]
    for name in strange:
        shutil.copytree(run.checkpoints_path / "3", run.checkpoints_path / name)
    assert_same(restore(run), state_at(run, 3))
    save(run, 6)
    assert set(names(run)) == {"3", "6", *strange}


def test_the_arrays_may_be_donated_as_soon_as_save_returns(run):
    checkpoints = Checkpoints(run, unheard)
    expected = jax.tree.map(np.array, state_at(run, 3))
    state = state_at(run, 3)
    checkpoints.save(state)
    overwrite = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)
    jax.block_until_ready(overwrite(state))
    checkpoints.close()
    assert_same(restore(run), expected)


KEYS = {
    "threefry": lambda: jax.random.key(5, impl="threefry2x32"),
    "rbg": lambda: jax.random.key(5, impl="rbg"),
    "several of unsafe_rbg": lambda: jax.random.split(jax.random.key(5, impl="unsafe_rbg"), 3),
    "integers": lambda: jax.random.PRNGKey(5),
}


@pytest.mark.parametrize("kind", KEYS)
def test_random_keys_of_every_kind_come_back(run, kind):
    """Whatever JAX's own generator is by then."""

    def with_key(state):
        return dataclasses.replace(state, rest={"key": KEYS[kind]()})

    checkpoints = Checkpoints(run, unheard)
    state = with_key(state_at(run, 3))
    checkpoints.save(state)
    checkpoints.finish_writing()
    restored = checkpoints.restore(jax.eval_shape(with_key, run.shapes()))
    checkpoints.close()
    before, after = state.rest["key"], restored.rest["key"]
    assert before.dtype == after.dtype
    assert_same(jax.random.key_data(before), jax.random.key_data(after))
