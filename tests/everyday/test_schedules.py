"""Going on with other totals: a schedule is the run's own, and what changes is said."""

import json
import shutil

import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.config import OptimizerConfig
from jax_attn.runs import checksums
from tests.came_to import bits, records
from tests.in_process import FOX, one_line, train_here

pytestmark = pytest.mark.usefixtures("no_pictures")

COSINE = ["--optimizer.schedule", "cosine"]
RUN = ["--batch-size", "2", "--block-size", "8", "--eval-every", "2", "--checkpoint-every", "2",
       "--sample-tokens", "5", "--learning-rate", "0.1"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    """Finished runs of four steps, by their schedule, and their text."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text(FOX)
    kinds = {"cosine": COSINE, "to nothing": [*COSINE, "--optimizer.final-fraction", "0"]}
    for name, flags in (kinds | {"constant": []}).items():
        arguments = ["bigram", *RUN, *flags, "--steps", 4, "--data", folder / "text.txt"]
        train_here(*arguments, "--out", folder / name)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A run to go on with."""
    return lambda name: shutil.copytree(made / name, tmp_path / name)


def rates(run):
    return {record["step"]: record["learning_rate"] for record in records(run)}


def about(out):
    return [line for line in out.splitlines() if "schedule" in line]


# The run, what is asked for, the line that is said, and the rate of the last step.
GOING_ON = [
    ("longer", "cosine", ["--steps", 8],
     "the learning rate keeps its schedule of 4 steps and stays at 0.01 from there; "
     "--schedule-steps 8 stretches it: at step 4 from 0.01 to 0.055", 0.01),
    ("longer and stretched", "cosine", ["--steps", 8, "--schedule-steps", 8],
     "schedule of 8 steps instead of 4: at step 4 the learning rate goes from 0.01 to 0.055",
     0.01 + 0.09 * 0.5 * (1 + np.cos(np.pi * 7 / 8))),
    ("longer and stretched, to nothing", "to nothing", ["--steps", 8, "--schedule-steps", 8],
     "schedule of 8 steps instead of 4: at step 4 the learning rate goes from 0 to 0.05",
     0.1 * 0.5 * (1 + np.cos(np.pi * 7 / 8))),
    ("longer, constant", "constant", ["--steps", 8], None, 0.1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "flags", "line", "rate"), [pytest.param(*row[1:], id=row[0]) for row in GOING_ON]
)
def test_what_becomes_of_the_rate_is_said_in_a_line(call, copy, run, flags, line, rate):
    folder = copy(run)
    code, out, err = call(train.main, "--resume", folder, *flags)
    assert (code, err) == (0, "")
    assert about(out) == ([] if line is None else [line])
    np.testing.assert_allclose(rates(folder)[8], rate, rtol=1e-5)
    # It is the run's own from now on.
    assert about(call(train.main, "--resume", folder)[1]) == []


REFUSED = [
    ("fewer than are done", "cosine", ["--steps", 3], "has made 4 steps, more than 3: give"),
    ("none", "cosine", ["--steps", 0], "steps is 0; it must be greater than 0"),
    ("too many", "cosine", ["--steps", 2**31], "steps is 2147483648; it must be at most"),
    ("a schedule of nothing", "cosine", ["--schedule-steps", -1], "--schedule-steps is -1"),
    ("fewer, without a schedule", "constant", ["--steps", 2], "has made 4 steps, more than 2"),
    ("a rate without a schedule", "constant", ["--schedule-steps", 8], "is constant: it has no"),
    ("a rate without a schedule, below 1", "constant", ["--schedule-steps", -9],
     "--schedule-steps is -9; it must be greater than 0"),
    ("a rate without a schedule, 0", "constant", ["--schedule-steps", 0],
     "--schedule-steps is 0; it must be greater than 0"),
    ("a power of ten", "cosine", ["--schedule-steps", "1e3"],
     "--schedule-steps is '1e3'; it must be an integer from 1 to 2147483647"),
    ("words", "constant", ["--schedule-steps", "twice as many"],
     "--schedule-steps is 'twice as many'; it must be an integer from 1 to 2147483647"),
    ("a fraction", "cosine", ["--steps", "8.5"], "--steps is '8.5'; it must be an integer from 1"),
    ("nothing", "cosine", ["--steps", ""], "--steps is ''; it must be an integer from 1 to"),
    ("a rate of nothing", "to nothing", ["--steps", 8],
     "the learning rate would be 0 from step 4 on, where the cosine ends, and train nothing; "
     "give schedule_steps 8 or a final_fraction above 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "flags", "said"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
@pytest.mark.usefixtures("unchecked")
def test_refused_with_nothing_changed(call, copy, run, flags, said):
    folder = copy(run)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    code, _, err = call(train.main, "--resume", folder, *flags)
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert said in err
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    assert after == before
    with pytest.raises(ja.InputError):
        ja.resume(folder, **{flags[0].strip("-").replace("-", "_"): flags[1]})


KEPT = "its settings stay what config.json says, so that all of it is one run"
NOT_TAKEN = [
    ("what an evaluation covers", ["--eval-tokens", 9], "--eval-tokens", KEPT),
    ("an encoding", ["--encoding", "utf-16"], "--encoding", KEPT),
    ("a size, with an equals sign", ["--batch-size=9"], "--batch-size", KEPT),
    ("a switch", ["--remat"], "--remat", KEPT),
    ("a switch, off", ["--no-remat"], "--no-remat", KEPT),
    ("an optimizer's", ["--optimizer.beta2", 0.5], "--optimizer.beta2", KEPT),
    ("a model's, underlined", ["--model.n_layer", 2], "--model.n-layer", KEPT),
    ("two, of which one is taken", ["--steps", 8, "--seed", 1], "--seed", KEPT),
    ("a preset", ["bigram"], "'bigram'", KEPT),
    ("a folder", ["--out", "x"], "--out", "a run goes on in its own folder"),
    ("somebody's weights", ["--init", "gpt2"], "--init", "a run goes on from its own checkpoint"),
    ("tokens of another kind", ["--tokens", "bytes"], "--tokens", KEPT),
    ("half a flag", ["--step", 8], "--step", None),
    ("a second run", ["more"], "'more'", None),
    ("a flag that is none", ["-x"], "'-x'", None),
]


@pytest.mark.parametrize(
    ("words", "named", "why"), [pytest.param(*row[1:], id=row[0]) for row in NOT_TAKEN]
)
@pytest.mark.parametrize("first", [True, False], ids=["run first", "run last"])
def test_what_a_run_that_goes_on_does_not_take(call, tmp_path, words, named, why, first):
    resume = ["--resume", tmp_path]
    line = one_line(call(train.main, *(resume + words if first else words + resume)))
    because = f": {why}" if why else ""
    taken = "--steps, --schedule-steps, --data, --validation and --debug-nans"
    assert line == f"train.py: error: --resume RUN takes no {named}{because}; it takes {taken}"


def test_two_parts_are_a_run_whose_schedule_ends_before_it_does(made, copy, tmp_path, capsys):
    """Bit for bit, and so are the records."""
    in_parts = ja.resume(copy("cosine"), steps=8)
    whole = ja.train(
        ja.TrainConfig(
            **vars(ja.PRESETS["bigram"][1])
            | {"batch_size": 2, "block_size": 8, "eval_every": 2, "checkpoint_every": 2}
            | {"sample_tokens": 5, "learning_rate": 0.1, "steps": 8}
            | {"optimizer": OptimizerConfig(schedule="cosine", schedule_steps=4)}
        ),
        data=made / "text.txt",
        out=tmp_path / "whole",
    )
    assert bits(in_parts.model) == bits(whole.model)
    clocks = ("elapsed_s", "tokens_per_second")
    records = [
        [{k: v for k, v in record.items() if k not in clocks} for record in result.records]
        for result in (in_parts, whole)
    ]
    assert records[0] == records[1]


def test_a_smaller_total_than_the_first_that_is_not_yet_done(copy, made):
    """The run, stopped half-way, ends early: said, recorded, with the rates that it had."""
    folder = copy("cosine")
    shutil.rmtree(folder / "checkpoints" / "4")
    result = ja.resume(folder, steps=3)
    record = json.loads((folder / "config.json").read_text())["config"]
    assert (record["steps"], record["optimizer"]["schedule_steps"]) == (3, 4)
    np.testing.assert_allclose(
        result.records[-1]["learning_rate"], 0.01 + 0.09 * 0.5 * (1 + np.cos(np.pi / 2)), rtol=1e-5
    )


def test_a_run_from_before_there_was_a_length_of_the_schedule(call, copy):
    folder = copy("cosine")
    for file in folder.rglob("config.json"):
        record = json.loads(file.read_text())
        del record["config"]["optimizer"]["schedule_steps"]
        file.write_text(json.dumps(record))
        if (file.parent / "checksums.json").exists():
            (file.parent / "checksums.json").unlink()
            checksums.seal(file.parent)
    code, out, err = call(train.main, "--resume", folder, "--steps", 8)
    assert (code, err) == (0, "")
    assert "damaged" not in out
    np.testing.assert_allclose(rates(folder)[8], 0.01, rtol=1e-5)


# Warm-up, schedule, steps: and the rates of the first steps.
FIRST = [
    ("a fraction at first, all at the last", 4, "constant", 10, [0.25, 0.5, 0.75, 1, 1]),
    ("one step", 1, "constant", 10, [1, 1]),
    ("none", 0, "constant", 10, [1, 1]),
    ("before a cosine", 2, "cosine", 4, [0.5, 1, 1, 0.55, 0.1, 0.1]),
    ("longer than the run", 8, "constant", 2, [0.5, 1]),
]


@pytest.mark.parametrize(
    ("warmup", "schedule", "steps", "expected"), [pytest.param(*r[1:], id=r[0]) for r in FIRST]
)
def test_every_step_of_a_warm_up_trains(warmup, schedule, steps, expected):
    settings = OptimizerConfig(warmup_steps=warmup, schedule=schedule)
    rate = ja.learning_rate_schedule(settings, 1.0, steps)
    np.testing.assert_allclose([rate(i) for i in range(len(expected))], expected, rtol=1e-6)
