"""What the ladder says of its rungs and planted bugs: no claim of what was not compared."""

import json

import numpy as np
import pytest

from parity_tests import __main__ as ladder_program
from parity_tests.suite import ladder, output, page
from parity_tests.suite.ladder import RUNGS, Failure, RungResult
from parity_tests.suite.matrix import BY_NAME, NO_BUG, MutantResult, problems, within_reach
from parity_tests.suite.mutants import REGISTRY
from parity_tests.suite.mutants.baselines import RULES
from parity_tests.suite.trained import TrainedAttention


def result(rung, ok=True, difference=0.0):
    failures = () if ok else (Failure("check", "detail"),)
    return RungResult(rung, 3, 0.5, "", difference, failures, False, 1.0)


OTHERS = ", ".join(rung for rung in RUNGS if rung != "data")
ALL = [result(rung, difference=1e-15) for rung in RUNGS]


@pytest.mark.parametrize(
    ("results", "guilty", "said", "unsaid"),
    [
        pytest.param(
            ALL, None, ['class="good verdict">The port is the same', "1.0e-15"], "1 of", id="all"
        ),
        pytest.param(
            [result("data")],
            None,
            [
                'class="part verdict">No difference in data.',
                f"1 of {len(RUNGS)} rungs",
                "dropout, other",
            ],
            "same function",
            id="one rung",
        ),
        pytest.param(
            [result("data"), *ALL[2:3], result("gpt", ok=False)],
            "first guilty layer: blocks.0.sa <here>",
            [
                'class="bad verdict">The port differs in gpt.',
                "blocks.0.sa &lt;here&gt;",
                f"3 of {len(RUNGS)}",
            ],
            "same function",
            id="one that differs",
        ),
    ],
)
def test_the_page_claims_what_was_compared(results, guilty, said, unsaid):
    text = page.verdict(results, guilty)
    for part in said:
        assert part in text
    assert unsaid not in text


@pytest.mark.parametrize(
    ("error", "heading"),
    [
        pytest.param(1e-16, "<h2>The same attention</h2>", id="same"),
        pytest.param(1e-3, "<h2 class=bad>Attention that differs</h2>", id="differs"),
    ],
)
def test_the_heading_of_the_maps(error, heading):
    weights = np.full((1, 1, 2, 2), 0.5)
    attention = TrainedAttention("ab", 4.0, 2.0, weights, weights + error)
    assert page.attention_section(attention).startswith(heading)


def test_a_page_is_written_for_a_port_that_raises(tmp_path, monkeypatch):
    def broken():
        raise ZeroDivisionError("of the port")

    monkeypatch.setattr(page, "trained_attention", broken)
    page.write(tmp_path / "page.html", [result("gpt", ok=False)], [], "the layer")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "There is none to show: ZeroDivisionError: of the port" in text
    assert "The same attention" not in text


def test_a_failing_program_writes_the_guilty_layer_into_its_page(monkeypatch, tmp_path, call):
    monkeypatch.setattr(ladder_program, "run_task", lambda task: result(task[0], ok=False))
    monkeypatch.setattr(ladder_program, "first_guilty_layer", lambda: "guilty: blocks.0.sa")
    monkeypatch.setattr(page, "trained_attention", lambda: 1 / 0)
    monkeypatch.setattr("parity_tests.suite.workers.prepare", lambda *_: None)
    monkeypatch.setattr("parity_tests.suite.workers.reset_cache", lambda: None)
    path = tmp_path / "page.html"
    arguments = ["--rungs", "data", "data", "--jobs", "1", "--report", path]
    code, out, _ = call(ladder_program.main, *arguments)
    assert code == 1
    assert "guilty: blocks.0.sa" in out
    assert "guilty: blocks.0.sa" in path.read_text(encoding="utf-8")
    assert out.count("tokens, split, batches") == 1  # asked for twice, run once
    assert f"Nothing is said of the rungs that were not run: {OTHERS}" in out


def planted(name, caught=True):
    mutant = BY_NAME.get(name)
    caught = caught and mutant is not None
    rungs = {"data": "differs" if caught else "passes"}
    return MutantResult(name, rungs, dict.fromkeys(RULES, False), 0.0)


def test_bugs_of_other_rungs_are_not_tried_and_are_no_survivors():
    names = within_reach(["data"])
    assert 0 < len(names) < len(REGISTRY)
    assert {BY_NAME[name].caught_by for name in names} == {"data"}
    assert len(within_reach(list(RUNGS))) == len(REGISTRY)
    results = [planted(NO_BUG), *map(planted, names)]
    assert problems(results) == []
    left = len(REGISTRY) - len(names)
    assert output.untried(results).startswith(f"{left} bugs are not tried")
    assert problems([planted(NO_BUG), planted(names[0], caught=False)])  # a real survivor


def test_rungs_without_bugs_of_their_own_catch_nothing_and_that_is_no_problem():
    rung = next(rung for rung in RUNGS if not within_reach([rung]))
    nothing = MutantResult(NO_BUG, {rung: "passes"}, dict.fromkeys(RULES, False), 0.0)
    assert problems([nothing]) == []


def test_a_small_report_can_be_read_as_json(tmp_path):
    output.write_json(tmp_path / "a.json", [result("data")], [])
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["rungs"][0]["ok"]
    assert ladder.RUNGS["data"]
