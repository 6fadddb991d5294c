"""Rules to begin with: what two models' names, order and shapes say, as code to paste."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from parity_tests.harness.bridge import Bridge
from parity_tests.harness.draft_pairs import Drafted, draft_pairs, numbered_templates
from parity_tests.harness.draft_shapes import Shape
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.rules import Rule
from parity_tests.harness.rules_for import Target, rules_for
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
    """Pairs layers whose tensors fit as a whole, by name first and then by order.

    Two layers of the same shapes and like names, and square matrices, are marked: a shape cannot
    tell them, `probe` and `locate` can.
    """
    ours = {name: tuple(x.shape) for name, x in reference.state_dict().items()}
    theirs = {name: np.shape(x) for name, x in variables(port).items()}
    counters = [name for name in ours if Pattern(COUNTERS).match(name)]
    aliases = _aliases(reference)
    lines: list[tuple[Rule, str, str]] = []  # rule, its code, doubt
    left, left_of_port = dict(ours), dict(theirs)
    for name in (*counters, *aliases):
        del left[name]
    for owner, module in reference.named_modules():
        if isinstance(module, COMPOSITE):
            lines += _of_composite(module, owner, left, left_of_port, kind_of(port))
    pairs = draft_pairs(reference, left, left_of_port)
    lines += _lines(pairs, ours)
    for pair in pairs:
        del left[pair.reference], left_of_port[pair.port]
    by_reference = {pair.reference: pair for pair in pairs}
    for name, first in aliases.items():
        pair = by_reference.get(first)
        if pair is None:
            left[name] = ours[name]
        else:
            rule = Rule(name, pair.port, pair.fit.map, alias=True)
            lines.append((rule, _rule_code(name, pair.port, pair.fit.code, "alias=True"), ""))
    ignore = [COUNTERS] if counters else []
    return Draft(
        [rule for rule, _, _ in lines],
        ignore,
        _code(lines, ignore, left, left_of_port),
        {", ".join(rule.references): doubt for rule, _, doubt in lines if doubt},
        tuple(left),
        tuple(left_of_port),
    )


Line = tuple[Rule, str, str]


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
                return [(rules[0], f"*{call}", ""), *((rule, "", "") for rule in rules[1:])]
    return []


def _likeness(a: str, b: str) -> int:
    return len(set(a.split(".")) & set(b.split(".")))


def _lines(pairs: list[Drafted], names: Mapping[str, Any]) -> list[Line]:
    """One rule for all layers of a template, where every name that it matches is one of them."""
    groups: dict[Any, list[Drafted]] = defaultdict(list)
    for pair in pairs:
        for template in numbered_templates(pair.reference, pair.port):
            groups[(*template, pair.fit.code)].append(pair)
    lines: list[Line] = []
    done: set[str] = set()
    for pair in pairs:
        if pair.reference in done:
            continue
        members, name, port = [pair], pair.reference, pair.port
        for template in numbered_templates(pair.reference, pair.port):
            together = groups[(*template, pair.fit.code)]
            matched = {n for n in names if Pattern(template[0]).match(n) is not None}
            if len(together) > 1 and matched == {member.reference for member in together}:
                members, (name, port) = together, template
        done |= {member.reference for member in members}
        doubt = "; ".join(dict.fromkeys(member.doubt for member in members if member.doubt))
        code = _rule_code(name, port, pair.fit.code)
        lines.append((Rule(name, port, pair.fit.map), code, doubt))
    return lines


def _rule_code(name: str, port: str, *arguments: str) -> str:
    return f"Rule({', '.join([_quoted(name), _quoted(port), *filter(None, arguments)])})"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _code(
    lines: list[Line], ignore: list[str], left: Mapping[str, Shape], port: Mapping[str, Shape]
) -> str:
    body = [f"    {code},{f'  # {doubt}' if doubt else ''}" for _, code, doubt in lines if code]
    text = "\n".join(body)
    layouts = [f"{kind}{n}D" for kind in ("CONV", "CONV_TRANSPOSE") for n in (1, 2, 3)]
    ready = ("LINEAR", *layouts, "flip_groups", "heads", "rules_for", "trailing_ones")
    used = [name for name in ready if any(f"{name}{end}" in text for end in (")", "(", ","))]
    imports = ", ".join(sorted(["Bridge", "Rule", *used], key=lambda n: (not n.isupper(), n)))
    last = f", ignore={ignore}".replace("'", '"') if ignore else ""
    open_ends = [f"# unpaired, of the reference: {name} {shape}" for name, shape in left.items()]
    open_ends += [f"# unpaired, of the port: {name} {shape}" for name, shape in port.items()]
    head = [f"from parity_tests import {imports}", "", "rules = ["]
    return "\n".join([*head, *body, "]", *open_ends, f"bridge = Bridge(rules{last})"])


def _aliases(reference: torch.nn.Module) -> dict[str, str]:
    """Names of tied tensors, which torch lists once more, and the name that comes first."""
    seen: dict[Any, str] = {}
    aliases = {}
    for name, value in reference.state_dict(keep_vars=True).items():
        first = seen.setdefault(id(value), name)
        if first != name:
            aliases[name] = first
    return aliases
