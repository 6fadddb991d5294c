"""Every planted bug against every rung: the kill matrix, and what is wrong with it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

from parity_tests.suite.ladder import RUNGS, RungResult, run_rung
from parity_tests.suite.mutants import REGISTRY, Mutant
from parity_tests.suite.mutants.baselines import RULES, caught_by_rules
from parity_tests.suite.reach import can_reach

Outcome = Literal["passes", "differs", "raises", "not run"]
NO_BUG = "no bug"  # the port as it is, which every rung must pass
BY_NAME = {mutant.name: mutant for mutant in REGISTRY}

# Seconds each, which a bug below them costs for nothing: they are run for their own bugs only.
LONG_RUNGS = ("layouts", "gradients", "accelerators", "trajectory", "generation", "dropout")


@dataclass(frozen=True)
class MutantResult:
    name: str
    rungs: Mapping[str, Outcome]
    rules: Mapping[str, bool]  # of public suites: whether each notices
    seconds: float

    @property
    def failed(self) -> list[str]:
        """The rungs that notice it."""
        return [rung for rung, outcome in self.rungs.items() if outcome in ("differs", "raises")]


@dataclass(frozen=True)
class Part:
    """One worker's share of a planted bug: an argument for another process."""

    name: str
    reached: Mapping[str, frozenset[str]]  # its rungs, and the functions of the port that each runs
    rules: bool  # whether it sees to the public suites' rules


def within_reach(rungs: Sequence[str]) -> list[str]:
    """The bugs that these rungs can be asked to catch: those for which one of them is named."""
    return [mutant.name for mutant in REGISTRY if mutant.caught_by in rungs]


def plant_all(
    crew: Sequence[Executor], names: Sequence[str], ladder: Sequence[tuple[int, RungResult]]
) -> Iterator[MutantResult]:
    """Every bug of `names` in turn. `ladder` holds each rung's worker and result without a bug."""
    busy = [sum(r.seconds for i, r in ladder if i == worker) for worker in range(len(crew))]
    shares = [{r.rung: r.reached for i, r in ladder if i == worker} for worker in range(len(crew))]
    futures = [
        [
            worker.submit(run_part, Part(name, shares[i], rules=i == busy.index(min(busy))))
            for i, worker in enumerate(crew)
        ]
        for name in names
    ]
    for name, parts in zip(names, futures, strict=True):
        results = [part.result() for part in parts]
        outcomes: dict[str, Outcome] = {k: v for r in results for k, v in r.rungs.items()}
        yield MutantResult(
            name,
            dict(sorted(outcomes.items(), key=lambda item: list(RUNGS).index(item[0]))),
            {rule: caught for r in results for rule, caught in r.rules.items()},
            sum(r.seconds for r in results),
        )


def run_part(part: Part) -> MutantResult:
    """Plants one bug and runs each rung that it can reach, up to the first check that fails.

    Rungs that run none of what the bug replaces pass, as they did without it.
    """
    started = time.perf_counter()
    outcomes: dict[str, Outcome] = dict.fromkeys(part.reached, "passes")
    if part.name == NO_BUG:  # the ladder has just been passed without one
        rules = caught_by_rules() if part.rules else {}
    else:
        mutant = BY_NAME[part.name]
        with mutant.planted():
            for rung, reached in part.reached.items():
                outcomes[rung] = outcome(rung, reached, mutant)
            rules = caught_by_rules() if part.rules else {}
    return MutantResult(part.name, outcomes, rules, time.perf_counter() - started)


def outcome(rung: str, reached: frozenset[str], mutant: Mutant) -> Outcome:
    if not can_reach(reached):
        return "passes"
    if not is_due(rung, mutant):
        return "not run"
    result = run_rung(rung, [0], stop_early=True)
    if result.crashed:
        return "raises"
    return "passes" if result.ok else "differs"


def is_due(rung: str, mutant: Mutant) -> bool:
    """The rungs up to the one that a bug is named for: it is to be caught as low as it can be.

    And the comparison with other people's code, which is named for none. A bug that nothing should
    notice is run against all but the long ones.
    """
    if rung in ("other_code", mutant.caught_by):
        return True
    if rung in LONG_RUNGS:
        return False
    rungs = list(RUNGS)
    return bool(mutant.equivalent) or rungs.index(rung) < rungs.index(mutant.caught_by)


def problems(results: Sequence[MutantResult]) -> list[str]:
    """What a sound suite would not show; empty if all is well, or if nothing was planted."""
    found = []
    if not results:
        return found
    for result in results:
        failed = result.failed
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
        elif not mutant.equivalent and result.rungs.get(mutant.caught_by) != "differs":
            how = result.rungs.get(mutant.caught_by, "is not run")
            found.append(f"{label} should be caught by {mutant.caught_by}, which {how}")
    if len(results) == 1:  # no bug is within reach of the rungs
        return found
    for rung in results[0].rungs:
        if not any(rung in r.failed for r in results if r.name != NO_BUG):
            found.append(f"{rung} catches nothing")
    return found


def tally(results: Sequence[MutantResult]) -> dict[str, int]:
    """How many of the bugs that are none in disguise each rung and each rule catches."""
    real = [r for r in results if r.name != NO_BUG and not BY_NAME[r.name].equivalent]
    counts = {rung: sum(rung in r.failed for r in real) for rung in RUNGS}
    return counts | {rule: sum(r.rules[rule] for r in real) for rule in RULES}
