"""One self-contained HTML page: the ladder, the kill matrix, and attention side by side."""

import json
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from parity_tests.suite.ladder import RUNGS, RungResult
from parity_tests.suite.matrix import BY_NAME, NO_BUG, MutantResult, problems, tally
from parity_tests.suite.mutants.baselines import RULES
from parity_tests.suite.output import (
    device,
    kind_of,
    not_run,
    ratio,
    untried,
    worst_difference,
)
from parity_tests.suite.trained import TrainedAttention, trained_attention

TEMPLATE = Path(__file__).with_name("page.html")


def write(
    path: Path,
    ladder: Sequence[RungResult],
    matrix: Sequence[MutantResult],
    guilty: str | None = None,
) -> None:
    """Trains the small GPT whose attention is shown; that takes some seconds.

    `guilty` is what the locator says of a port that differs.
    """
    try:
        attention = trained_attention()
    except Exception as error:  # of a port that differs, which may well raise
        attention, reason = None, f"{type(error).__name__}: {error}"
        shown = f"<h2>Attention</h2><p class='bad'>There is none to show: {escape(reason)}</p>"
    else:
        shown = attention_section(attention)
    parts = {
        "VERDICT": verdict(ladder, guilty),
        "LADDER": ladder_table(ladder),
        "MATRIX": matrix_section(matrix) if matrix else "",
        "ATTENTION": shown,
        "DATA": data(attention),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    path.write_text(page, encoding="utf-8")


def verdict(ladder: Sequence[RungResult], guilty: str | None) -> str:
    """What was found, and nothing about what was not compared."""
    failed = [result.rung for result in ladder if not result.ok]
    left_out = not_run(ladder)
    if failed:
        kind, said = "bad", f"The port differs in {', '.join(failed)}."
    elif left_out:
        kind, said = "part", f"No difference in {', '.join(result.rung for result in ladder)}."
    else:
        kind, said = "good", "The port is the same function."
    parts = [f'<p class="{kind} verdict">{said}</p>']
    if left_out:
        parts.append(
            f"<p>{len(ladder)} of {len(RUNGS)} rungs were run. Nothing is said of the others: "
            f"{', '.join(left_out)}.</p>"
        )
    if guilty is not None:
        parts.append(f"<pre class='bad'>{escape(guilty)}</pre>")
    checks = sum(r.checks for r in ladder)
    parts.append(
        f"<p>{checks:,} comparisons on {escape(device())}. {escape(worst_difference(ladder))}</p>"
    )
    return "".join(parts)


def ladder_table(ladder: Sequence[RungResult]) -> str:
    head = ("rung", "what", "checks", "worst ratio", "float64 difference", "seconds", "verdict")
    rows = []
    for result in ladder:
        cells = (
            result.rung,
            RUNGS[result.rung],
            f"{result.checks:,}",
            ratio(result.worst_ratio),
            f"{result.semantic_difference:.1e}" if result.semantic_difference else "",
            f"{result.seconds:.1f}",
        )
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        said = '<td class="good">same</td>' if result.ok else '<td class="bad">differs</td>'
        rows.append(f"<tr title='{escape(result.worst_check)}'>{row}{said}</tr>")
    header = "".join(f"<th>{name}</th>" for name in head)
    table = f"<table class='ladder'><thead><tr>{header}</tr></thead>{''.join(rows)}</table>"
    table = f"<div class='scroll'>{table}</div>"
    failures = [
        f"<details><summary>{escape(f'{r.rung}: {f.check}')}</summary>"
        f"<pre>{escape(f.detail)}</pre></details>"
        for r in ladder
        for f in r.failures
    ]
    return table + "".join(failures)


def matrix_section(matrix: Sequence[MutantResult]) -> str:
    columns = [*RUNGS, *RULES]
    header = "".join(f"<th><span>{escape(c.replace('_', ' '))}</span></th>" for c in columns)
    marks = {"passes": "·", "differs": "x", "raises": "!", "not run": ""}
    rows = []
    for kind, group in groupby(matrix, key=kind_of):
        rows.append(f"<tr class='kind'><th colspan='{len(columns) + 1}'>{kind}</th></tr>")
        for result in group:
            mutant = BY_NAME.get(result.name)
            about = mutant.equivalent or mutant.description if mutant else "the port as it is"
            name = f"{result.name} (equivalent)" if mutant and mutant.equivalent else result.name
            outcomes = [result.rungs.get(rung, "not run") for rung in RUNGS]
            cells = [f"<td class='{o.replace(' ', '-')}'>{marks[o]}</td>" for o in outcomes]
            cells += [
                f"<td class='{'rule' if result.rules[r] else 'passes'}'>"
                f"{'x' if result.rules[r] else '·'}</td>"
                for r in RULES
            ]
            label = f"<th title='{escape(about)}'>{escape(name)}</th>"
            rows.append(f"<tr>{label}{''.join(cells)}</tr>")
    counts = tally(matrix)
    totals = "".join(f"<td>{counts[c]}</td>" for c in columns)
    real = [r for r in matrix if r.name != NO_BUG and not BY_NAME[r.name].equivalent]
    found = [f"<li class='bad'>{escape(problem)}</li>" for problem in problems(matrix)]
    return (
        "<h2>Would it notice?</h2>"
        f"<p>{sum(bool(r.failed) for r in real)} of {len(real)} planted bugs are caught. x: a "
        "check differs; !: the port raises; a blank: not run, since a lower rung is named for the "
        "bug. The last columns are the rules by which public suites "
        "compare ports, applied to the same bugs. Hover over a name for what was planted.</p>"
        f"<p>{untried(matrix)}</p><ul>{''.join(found)}</ul>"
        f"<div class='wide'><table class='matrix'><thead><tr><th></th>{header}</tr></thead>"
        f"{''.join(rows)}<tr class='kind'><th>caught</th>{totals}</tr></table></div>"
    )


def attention_section(attention: TrainedAttention) -> str:
    n_layer, n_head = attention.reference.shape[:2]
    scale = f"{attention.largest_difference:.1e}"
    same = attention.same
    heading = "The same attention" if same else "Attention that differs"
    parts = [
        f"<h2{'' if same else ' class=bad'}>{heading}</h2>",
        f"<p>A GPT of {n_layer} layers and {n_head} heads, trained from "
        f"{attention.loss_before:.2f} to {attention.loss_after:.2f} nats per character, reads "
        f"<q>{escape(attention.text)}</q>. Rows look, columns are looked at; "
        "grey is masked, blank a weight of zero; hover for values. In "
        f"float64 two weights differ by at most {scale}. Rounded to float32, "
        f"{escape(attention.bits)}.</p>",
    ]
    for layer in range(n_layer):
        for head in range(n_head):
            maps = "".join(
                f"<figure><canvas data-map='{which}' data-layer='{layer}' data-head='{head}'>"
                f"</canvas><figcaption>{caption}</figcaption></figure>"
                for which, caption in (
                    ("reference", "torch reference"),
                    ("port", "JAX port"),
                    ("difference", f"port − reference, full colour {scale}"),
                )
            )
            title = f"Layer {layer + 1}, head {head + 1}"
            parts.append(f"<section><h3>{title}</h3><div class='maps'>{maps}</div></section>")
    return "".join(parts)


def data(attention: TrainedAttention | None) -> str:
    """What the script draws; "<" is escaped so that no text can end the script."""
    if attention is None:
        return json.dumps({"text": "", "reference": [], "port": []})
    drawn = {
        "text": attention.text,
        "reference": attention.reference.tolist(),
        "port": attention.port.tolist(),
    }
    return json.dumps(drawn).replace("<", "\\u003c")
