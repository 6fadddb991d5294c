"""Rules to begin with: what two models' names, order and shapes say, as code to paste."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import nn

from parity_tests.harness.bridge import Bridge
from parity_tests.harness.draft_code import Line, lines_of, open_rules, python
from parity_tests.harness.draft_layers import by_owner
from parity_tests.harness.draft_pairs import Drafted, draft_pairs
from parity_tests.harness.draft_shapes import Shape
from parity_tests.harness.draft_stacks import find_stacks, unstacked
from parity_tests.harness.draft_ties import with_tied
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.links import Links
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.rules import Rule
from parity_tests.harness.rules_for import Target, rules_for
from parity_tests.harness.ties import aliases
from parity_tests.harness.variables import variables

COUNTERS = "**.num_batches_tracked"
COMPOSITE = (nn.MultiheadAttention, nn.GRU, nn.LSTM)  # several tensors a rule


@dataclass(frozen=True)
class Draft:
    """`print(draft)` gives Python to paste; `bridge` is what that Python makes.

    `doubts` are the sentences of what shapes and names leave open, by the reference's name. A
    tensor that is in `unpaired` or `unpaired_of_port` waits for a rule, or for `ignore`.
    """

    rules: list[Rule]
    ignore: list[str]
    code: str
    doubts: Mapping[str, str]
    unpaired: tuple[str, ...]
    unpaired_of_port: tuple[str, ...]

    @property
    def bridge(self) -> Bridge:
        return Bridge(self.rules, self.ignore)

    def __str__(self) -> str:
        return self.code


def draft_rules(reference: nn.Module, port: Any) -> Draft:
    """Pairs layers by shape, name and order; of layers stacked in the port, block by block.

    Two layers of the same shapes and like names, and square matrices, are marked: a shape cannot
    tell them, `probe` and `locate` can. Where it is open in which order axes were reshaped, the
    tensor is unpaired, and the code has all rules to choose from.
    """
    ours = {name: tuple(x.shape) for name, x in reference.state_dict().items()}
    theirs = {name: np.shape(x) for name, x in variables(port).items()}
    counters = [name for name in ours if Pattern(COUNTERS).match(name)]
    left = {name: shape for name, shape in ours.items() if name not in counters}
    left_of_port = dict(theirs)
    lines: list[Line] = []
    for owner, module in reference.named_modules():
        if isinstance(module, COMPOSITE):
            lines += _of_composite(module, owner, left, left_of_port, kind_of(port))
    pairs = _pairs(reference, left, left_of_port)
    choices = open_rules(pairs, ours, theirs)
    sure, of_tied = with_tied([p for p in pairs if not p.fit.others], aliases(reference))
    lines += [*lines_of(sure, ours, theirs), *of_tied]
    links = Links(line.rule for line in lines)
    left = {name: shape for name, shape in left.items() if links.link(name) is None}
    used = {name: links.to(name, shape)[1] > 0 for name, shape in left_of_port.items()}
    left_of_port = {name: shape for name, shape in left_of_port.items() if not used[name].all()}
    halves = {owner for n, mask in used.items() if mask.any() for owner in by_owner({n: ()})}
    ignore = [COUNTERS] if counters else []
    return Draft(
        [line.rule for line in lines],
        ignore,
        python(lines, choices, ignore, left, left_of_port, halves),
        {", ".join(line.rule.references): line.doubt for line in lines if line.doubt},
        tuple(left),
        tuple(left_of_port),
    )


def _pairs(
    reference: nn.Module, ours: Mapping[str, Shape], theirs: Mapping[str, Shape]
) -> list[Drafted]:
    stacks = find_stacks(ours, theirs, lambda *given: len(draft_pairs(reference, *given)))
    return draft_pairs(reference, ours, unstacked(theirs, stacks), stacks)


def _of_composite(
    module: nn.Module, owner: str, left: dict[str, Shape], left_of_port: dict[str, Shape], kind: str
) -> list[Line]:
    """The rules of the first place in the port that has all their names; what they use is taken."""
    if kind not in ("nnx", "linen", "equinox"):
        return []
    prefixes = {""} | {
        ".".join(name.split(".")[:n])
        for name in left_of_port
        for n in range(1, name.count(".") + 1)
    }
    for cell in ("LSTMCell", "OptimizedLSTMCell"):
        for prefix in sorted(prefixes, key=lambda p: (-_likeness(p, owner), p)):
            try:
                rules = rules_for(module, cast(Target, kind), owner, prefix, cell=cell)
            except ValueError:  # no counterpart, or several cells: yours to say where
                return []
            if all(name in left_of_port for rule in rules for name in rule.ports):
                for rule in rules:
                    for name in rule.references:
                        del left[name]
                    for name in rule.ports:
                        del left_of_port[name]
                call = f'rules_for(ref.{owner}, "{kind}", "{owner}", "{prefix}"'
                call += f', cell="{cell}")' if cell != "LSTMCell" else ")"
                return [Line(rules[0], f"*{call}"), *(Line(rule, "") for rule in rules[1:])]
    return []


def _likeness(a: str, b: str) -> int:
    return len(set(a.split(".")) & set(b.split(".")))
