"""Every planted bug against every rung: the kill matrix, and what is wrong with it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from parity_tests.harness.ladder import RUNGS, run_rung
from parity_tests.harness.mutants import REGISTRY, Mutant
from parity_tests.harness.mutants.baselines import RULES, caught_by_rules
from parity_tests.harness.mutants.planting import planted_targets
from parity_tests.harness.reach import reaches
from parity_tests.harness.tiers import remember_references

Outcome = Literal["passes", "differs", "raises"]
NO_BUG = "no bug"  # the port as it is, which every rung must pass
BY_NAME = {mutant.name: mutant for mutant in REGISTRY}
remembering = False


@dataclass(frozen=True)
class MutantResult:
    name: str
    rungs: dict[str, Outcome]
    rules: dict[str, bool]  # of public suites: whether each notices
    seconds: float

    @property
    def caught(self) -> bool:
        return any(outcome != "passes" for outcome in self.rungs.values())


def run_mutant(task: tuple[str, Mapping[str, frozenset[str]]]) -> MutantResult:
    """Plants one bug and runs each rung that it can reach, up to the first check that fails.

    The second part of the task holds, for each rung, the functions of the port that it runs. Rungs
    that run none of what the bug replaces pass, as they did without it.
    """
    global remembering
    if not remembering:
        remember_references()
        remembering = True
    name, reached = task
    outcomes: dict[str, Outcome]
    started = time.perf_counter()
    if name == NO_BUG:  # the ladder has just been passed without one
        outcomes = {rung: "passes" for rung in RUNGS}
        rules = caught_by_rules()
    else:
        with BY_NAME[name].planted():
            outcomes = {
                rung: outcome(rung) if can_reach(reached[rung]) else "passes" for rung in RUNGS
            }
            rules = caught_by_rules()
    return MutantResult(name, outcomes, rules, time.perf_counter() - started)


def can_reach(reached: frozenset[str]) -> bool:
    """Whether a rung that runs these functions runs any that the bug planted now replaces.

    A class, a constant or a dictionary may be used without a trace, so any rung may reach it.
    """
    return any(
        not is_function or reaches(reached, target)
        for target, is_function in planted_targets.items()
    )


def outcome(rung: str) -> Outcome:
    result = run_rung(rung, [0], stop_early=True)
    if result.crashed:
        return "raises"
    return "passes" if result.ok else "differs"


def problems(results: Sequence[MutantResult]) -> list[str]:
    """What a sound suite would not show; empty if all is well, or if nothing was planted."""
    found = []
    if not results:
        return found
    for result in results:
        failed = [rung for rung, outcome in result.rungs.items() if outcome != "passes"]
        if result.name == NO_BUG:
            if failed:
                found.append(f"without any bug, {', '.join(failed)} fail")
            continue
        mutant: Mutant = BY_NAME[result.name]
        label = f"{mutant.kind}: {mutant.name}"
        if mutant.equivalent and failed:
            found.append(f"{label} is listed as equivalent, but {', '.join(failed)} notice it")
        elif not mutant.equivalent and not failed:
            found.append(f"{label} survives, and is not listed as equivalent")
        elif not mutant.equivalent and result.rungs[mutant.caught_by] != "differs":
            how = result.rungs[mutant.caught_by]
            found.append(f"{label} should be caught by {mutant.caught_by}, which {how}")
    for rung in RUNGS:
        if not any(r.rungs[rung] != "passes" for r in results if r.name != NO_BUG):
            found.append(f"{rung} catches nothing")
    return found


def tally(results: Sequence[MutantResult]) -> dict[str, int]:
    """How many of the bugs that are none in disguise each rung and each rule catches."""
    real = [r for r in results if r.name != NO_BUG and not BY_NAME[r.name].equivalent]
    counts = {rung: sum(r.rungs[rung] != "passes" for r in real) for rung in RUNGS}
    return counts | {rule: sum(r.rules[rule] for r in real) for rule in RULES}
