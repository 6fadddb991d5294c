"""Planted bugs: all can be planted; of each class, one is planted and caught where it must be.

`python -m parity_tests --mutants` runs the whole registry against every rung.
"""

import inspect

import pytest

import jax_attn
from jax_attn.nn import attention, layers
from parity_tests.suite.ladder import RUNGS, run_rung
from parity_tests.suite.matrix import BY_NAME, NO_BUG, MutantResult, problems
from parity_tests.suite.mutants import REGISTRY
from parity_tests.suite.mutants.baselines import RULES
from parity_tests.suite.planted import planted_bugs, planted_targets
from parity_tests.suite.reach import can_reach, recorded

REPRESENTATIVES = [
    "scale of all channels",
    "sees the next token",
    "tanh GELU for the exact one",
    "fast variance",
    "post-norm",
    "ignored targets in the denominator",
    "branch held fast",
    "decay of everything",
    "given batches from row 0",
    "square matrices not transposed",
    "slots past the newest are seen",
    "not scaled up",
    "batches counted from the chunk",
    "queries, keys, values: kernels in reverse",
]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_caught_by_its_rung(name):
    mutant = BY_NAME[name]
    with mutant.planted():
        result = run_rung(mutant.caught_by, [0], stop_early=True)
    assert result.failures, "it survives"
    assert not result.crashed, result.failures


def test_one_of_every_class():
    assert {BY_NAME[name].kind for name in REPRESENTATIVES} == {m.kind for m in REGISTRY}


def test_registry():
    assert len({mutant.name for mutant in REGISTRY}) == len(REGISTRY)
    assert {mutant.caught_by for mutant in REGISTRY} <= set(RUNGS)
    assert sum(not mutant.equivalent for mutant in REGISTRY) >= 80


@pytest.mark.parametrize("mutant", REGISTRY, ids=lambda mutant: mutant.name)
def test_can_be_planted_and_leaves_no_trace(mutant):
    """Fails where the port's source has moved on and an edit no longer finds its place."""
    before = dict(vars(attention)), dict(layers.ACTIVATIONS)
    with mutant.planted():
        pass
    assert (dict(vars(attention)), dict(layers.ACTIVATIONS)) == before


def test_a_planted_function_is_another_one():
    before = jax_attn.causal_mask
    with BY_NAME["sees the next token"].planted():
        assert jax_attn.causal_mask is attention.causal_mask is not before
        assert bool(jax_attn.causal_mask(2)[0, 1])
    assert jax_attn.causal_mask is before
    assert "k=1" not in inspect.getsource(before)


def result(name, **outcomes):
    rungs = {rung: outcomes.get(rung, "passes") for rung in RUNGS}
    return MutantResult(name, rungs, dict.fromkeys(RULES, False), 0.0)


def test_a_survivor_is_a_problem():
    found = problems([result("no scale")])
    assert "attention: no scale survives, and is not listed as equivalent" in found


def test_so_are_a_false_alarm_an_idle_rung_and_the_wrong_rung():
    found = problems(
        [
            result(NO_BUG, gpt="differs"),
            result("no scale", gpt="differs"),
            result("mask inverted", attention="raises"),
            result("keys without bias", loss="differs"),
        ]
    )
    assert "without any bug, gpt fail" in found
    assert "attention: no scale should be caught by attention, which passes" in found
    assert "attention: mask inverted should be caught by attention, which raises" in found
    assert "attention: keys without bias is listed as equivalent, but loss notice it" in found
    assert "data catches nothing" in found
    assert "gpt catches nothing" not in found


def test_a_rung_is_passed_over_only_if_it_runs_nothing_of_what_is_replaced():
    """Functions leave a trace when they run; a dictionary of functions does not."""
    jax_attn.causal_mask(2)  # compiled here: the port listens to what is
    with recorded() as reached:
        jax_attn.causal_mask(2)
    blocks = {name for name in reached if name.startswith("jax_attn.nn.")}
    assert blocks == {"jax_attn.nn.attention:causal_mask"}
    with BY_NAME["sees the next token"].planted():
        assert can_reach(frozenset(reached))
        assert not can_reach(frozenset({"jax_attn.nn.attention:attend"}))
    with BY_NAME["leaky ReLU"].planted():
        assert can_reach(frozenset())
    assert not planted_targets
    assert not planted_bugs
