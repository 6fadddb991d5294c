"""Which layers of two models are likely the same, by shapes, by name and by order."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import permutations
from typing import Any

import torch

from parity_tests.harness.draft_shapes import Fit, Shape, fit

CLOSE = 0.15  # of a score; nearer ones are told apart by the order alone
KNOWN = {
    "weight": ("kernel", "scale", "embedding", "weight"),
    "running_mean": ("mean",),
    "running_var": ("var",),
}
Owned = dict[str, dict[str, Shape]]  # layer -> its own tensors


@dataclass(frozen=True)
class Drafted:
    """One tensor of the reference, the port's, and how it goes there."""

    reference: str
    port: str
    fit: Fit
    doubt: str


@dataclass(frozen=True)
class _Layers:
    reference: str
    port: str
    fits: Mapping[str, tuple[str, Fit]]  # leaf -> the port's leaf
    score: float
    by_name: float  # the score without the order


def draft_pairs(
    model: torch.nn.Module, reference: Mapping[str, Shape], port: Mapping[str, Shape]
) -> list[Drafted]:
    """In the reference's order; what is not in it has no counterpart that fits as a whole layer."""
    ours, theirs = _by_owner(reference), _by_owner(port)
    of_ours, of_theirs = _places(ours), _places(theirs)
    candidates = {
        (a, b): _Layers(a, b, fits, *_score(a, b, of_ours[a], of_theirs[b]))
        for a, leaves in ours.items()
        for b, others in theirs.items()
        if (fits := _leaves(model.get_submodule(a), leaves, others)) is not None
    }
    chosen: dict[str, _Layers] = {}
    taken: set[str] = set()
    for layers in sorted(candidates.values(), key=lambda layers: -layers.score):
        if layers.reference not in chosen and layers.port not in taken:
            chosen[layers.reference] = layers
            taken.add(layers.port)
    return [
        Drafted(
            _join(owner, leaf),
            _join(layers.port, name),
            how,
            "; ".join(d for d in (how.doubt, _rival(layers, chosen, candidates)) if d),
        )
        for owner in ours
        if (layers := chosen.get(owner)) is not None
        for leaf, (name, how) in layers.fits.items()
    ]


def _rival(
    layers: _Layers, chosen: Mapping[str, _Layers], candidates: Mapping[tuple[str, str], _Layers]
) -> str:
    """The doubt that two layers might be exchanged, which neither shape nor name decides."""
    for other in chosen.values():
        swapped = candidates.get((layers.reference, other.port))
        back = candidates.get((other.reference, layers.port))
        if other is layers or swapped is None or back is None:
            continue
        if layers.by_name + other.by_name - swapped.by_name - back.by_name < CLOSE:
            return f"paired by order: could be {other.port} as well"
    return ""


def _leaves(
    module: torch.nn.Module, ours: Mapping[str, Shape], theirs: Mapping[str, Shape]
) -> dict[str, tuple[str, Fit]] | None:
    """For each tensor one of the port's layer, all used; of those that fit, the best by name."""
    if len(ours) != len(theirs):
        return None
    best, best_names = None, -1
    for names in permutations(theirs) if len(theirs) <= 4 else [tuple(theirs)]:
        fits = {
            leaf: (name, how)
            for (leaf, shape), name in zip(ours.items(), names, strict=True)
            if (how := fit(module, leaf, shape, name, theirs[name])) is not None
        }
        known = sum(
            name in KNOWN.get(leaf, (leaf,)) for leaf, name in zip(ours, names, strict=True)
        )
        if len(fits) == len(ours) and known > best_names:
            best, best_names = fits, known
    return best


@dataclass(frozen=True)
class _Place:
    """A layer's among those whose names differ in numbers alone, and among all."""

    rank: int
    block: int  # the rank among those whose names differ in the numbers of what they are in
    share: float


def _places(owned: Owned) -> dict[str, _Place]:
    alike: dict[str, int] = defaultdict(int)
    blocks: dict[tuple[str, str], int] = defaultdict(int)
    places = {}
    # torch lists layers as they were made, JAX's trees by name; numbers count in both.
    for i, name in enumerate(sorted(owned, key=_natural) if _is_sorted(owned) else owned):
        container, _, own = name.rpartition(".")
        block = _words(container), own
        places[name] = _Place(alike[_words(name)], blocks[block], i / len(owned))
        alike[_words(name)] += 1
        blocks[block] += 1
    return places


def _is_sorted(names: Iterable[str]) -> bool:
    """By letters, as JAX sorts the keys of a tree: layer 10 before layer 2."""
    names = list(names)
    return names == sorted(names)


def _score(a: str, b: str, of_a: _Place, of_b: _Place) -> tuple[float, float]:
    """Of two layers, by order and by name alone: 1 for the same words, 0.5 for the same number."""
    words = SequenceMatcher(None, _words(a), _words(b)).ratio()
    order = 0.25 * (of_a.rank == of_b.rank) + 0.35 * (of_a.block == of_b.block)
    order -= 0.1 * abs(of_a.share - of_b.share)
    return words + order, words + 0.5 * (re.findall(r"\d+", a) == re.findall(r"\d+", b))


def _by_owner(shapes: Mapping[str, Shape]) -> Owned:
    owned: Owned = {}
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        owned.setdefault(owner, {})[leaf] = shape
    return owned


def _words(name: str) -> str:
    return re.sub(r"[\d_.]+", " ", name).lower().strip()


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _join(owner: str, leaf: str) -> str:
    return f"{owner}.{leaf}" if owner else leaf


def numbered_templates(reference: str, port: str) -> Iterator[tuple[str, str]]:
    """Both names with a place for each number, if they have the same ones."""
    ours, theirs = re.split(r"(\d+)", reference), re.split(r"(\d+)", port)
    if not (ours[1::2] and ours[1::2] == theirs[1::2]):
        return
    places = [f"{{{letter}}}" for letter in "ijklmn"]
    if len(ours[1::2]) > len(places):
        return
    for parts in (ours, theirs):
        parts[1::2] = places[: len(parts[1::2])]
    yield "".join(ours), "".join(theirs)
