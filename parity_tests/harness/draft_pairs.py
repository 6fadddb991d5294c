"""Which layers of two models are likely the same, by shapes, by name and by order."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import torch

from parity_tests.harness.draft_layers import KIND_OF, by_owner, join, kind, places, score
from parity_tests.harness.draft_shapes import SQUARE, Fit, Shape, fit, is_table
from parity_tests.harness.draft_stacks import Stack, stack_of
from parity_tests.harness.layouts import LINEAR

CLOSE = 0.15  # of a score; nearer ones are told apart by the order alone
TOLD = 0.3  # for a layer that is of the port's kind by the name of its array


@dataclass(frozen=True)
class Rival:
    """A layer that might be meant as well."""

    side: Literal["reference", "port"]
    name: str
    sentence: str  # with a {} for the name


@dataclass(frozen=True)
class Drafted:
    """One tensor of the reference, the port's, and how it goes there.

    What the port holds stacked is named as if it did not: "layers.0.fc.weight", with its `stack`.
    """

    reference: str
    port: str
    fit: Fit
    rival: Rival | None = None
    doubt: str = ""
    stack: Stack | None = None


@dataclass(frozen=True)
class _Layers:
    reference: str
    port: str
    fits: Mapping[str, tuple[str, Fit]]  # leaf -> the port's leaf
    score: float
    by_name: float  # the score without the order


def draft_pairs(
    model: torch.nn.Module,
    reference: Mapping[str, Shape],
    port: Mapping[str, Shape],
    stacks: Sequence[Stack] = (),
) -> list[Drafted]:
    """In the reference's order. Layers that fit as a whole come first, then those of which one has
    arrays that the other has not, then what is left over of both.
    """
    left, left_of_port = dict(reference), dict(port)
    pairs: list[Drafted] = []
    rounds = 0
    while found := _round(model, (reference, port), (left, left_of_port), stacks, rounds):
        for pair in found:
            del left[pair.reference], left_of_port[pair.port]
        pairs += found
        rounds += 1
    order = {name: i for i, name in enumerate(reference)}
    pairs = _turned_as_others(model, pairs, reference)
    return sorted(pairs, key=lambda pair: order[pair.reference])


def _turned_as_others(
    model: torch.nn.Module, pairs: list[Drafted], reference: Mapping[str, Shape]
) -> list[Drafted]:
    """A square matrix as those that are not, if the port calls them alike: "w", or by no name."""
    ways: dict[str, set[str]] = defaultdict(set)

    def called(pair: Drafted) -> str:
        leaf = pair.port.rpartition(".")[2]
        return leaf if leaf in KIND_OF else ""

    for pair in pairs:
        rows, *columns = reference[pair.reference] or (1,)
        of_table = is_table(model.get_submodule(pair.reference.rpartition(".")[0]))
        if len(columns) == 1 and rows != columns[0] and not of_table:
            ways[called(pair)].add(pair.fit.code)
    return [
        replace(pair, fit=Fit("LINEAR", LINEAR, SQUARE))
        if pair.fit.doubt == SQUARE and ways[called(pair)] == {"LINEAR"}
        else pair
        for pair in pairs
    ]


def _round(
    model: torch.nn.Module,
    everything: tuple[Mapping[str, Shape], Mapping[str, Shape]],
    left: tuple[Mapping[str, Shape], Mapping[str, Shape]],
    stacks: Sequence[Stack],
    number: int,
) -> list[Drafted]:
    whole, whole_of_port = map(by_owner, everything)
    blocks = {name: stack_of(name, stacks, "reference") for name in whole}
    blocks_of_port = {name: stack_of(name, stacks, "port") for name in whole_of_port}
    of_ours, of_theirs = places(whole, blocks), places(whole_of_port, blocks_of_port)
    ours, theirs = map(by_owner, left)
    candidates: dict[tuple[str, str], _Layers] = {}
    for a, leaves in ours.items():
        module = model.get_submodule(a.rpartition(".")[0] if "" in leaves else a)
        for b, others in theirs.items():
            if blocks[a] == blocks_of_port[b]:
                fits = _leaves(module, (a, leaves), (b, others), partly=number > 0)
                if fits:
                    scores = score(a, b, of_ours[a], of_theirs[b])
                    told = TOLD * _told_by_array(module, others)
                    candidates[a, b] = _Layers(a, b, fits, *(s + told for s in scores))
    chosen: dict[str, _Layers] = {}
    taken: set[str] = set()
    for layers in sorted(candidates.values(), key=lambda layers: -layers.score):
        if layers.reference not in chosen and layers.port not in taken:
            chosen[layers.reference] = layers
            taken.add(layers.port)
    return [
        Drafted(
            join(owner, leaf),
            join(layers.port, name),
            how,
            _rival(layers, chosen, candidates),
            "left over on both sides" if number > 1 else "",
            place[0] if (place := blocks[owner]) else None,
        )
        for owner, layers in chosen.items()
        for leaf, (name, how) in layers.fits.items()
    ]


def _rival(
    layers: _Layers, chosen: Mapping[str, _Layers], candidates: Mapping[tuple[str, str], _Layers]
) -> Rival | None:
    """The layer that might be exchanged for this, or stand in its place: no name tells."""
    for other in chosen.values():
        swapped = candidates.get((layers.reference, other.port))
        back = candidates.get((other.reference, layers.port))
        if other is layers or swapped is None or back is None:
            continue
        if layers.by_name + other.by_name - swapped.by_name - back.by_name < CLOSE:
            return Rival("port", other.port, "paired by order: could be {} as well")
    taken = {other.port for other in chosen.values()}
    for (a, b), other in candidates.items():
        if layers.by_name - other.by_name < CLOSE:
            if a == layers.reference and b not in taken:
                return Rival("port", b, "{} is like it")
            if b == layers.port and a not in chosen:
                return Rival("reference", a, "{} is like it")
    return None


def _told_by_array(module: torch.nn.Module, others: Mapping[str, Shape]) -> int:
    """An "embedding" of Flax is a table: a tied head has its shape, too."""
    if not {"embedding", "embeddings"} & others.keys():
        return 0
    return 1 if is_table(module) else -1


def _leaves(
    module: torch.nn.Module,
    ours: tuple[str, Mapping[str, Shape]],
    theirs: tuple[str, Mapping[str, Shape]],
    partly: bool,
) -> dict[str, tuple[str, Fit]]:
    """For each array of a layer one of the other of its kind; `partly`, one side may have more.

    The best by kinds; {} if there are none such.
    """
    (owner, leaves), (other_owner, others) = ours, theirs
    if len(leaves) != len(others) and not partly:
        return {}
    n = min(len(leaves), len(others))
    best: dict[str, tuple[str, Fit]] = {}
    most = -1
    for some in permutations(leaves, n) if len(leaves) > n else [tuple(leaves)]:
        for names in permutations(others, n):
            kinds = [
                (kind(owner, leaf), kind(other_owner, name))
                for leaf, name in zip(some, names, strict=True)
            ]
            if any(a and b and a != b for a, b in kinds):
                continue
            known = sum(bool(a) and a == b for a, b in kinds)
            fits = {
                leaf: (name, how)
                for leaf, name in zip(some, names, strict=True)
                if (how := fit(module, leaf, leaves[leaf], name, others[name])) is not None
            }
            if len(fits) == n and known > most:
                best, most = fits, known
    return best
