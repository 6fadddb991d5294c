"""The layers of a model as a draft sees them: the arrays of each, its name and its place."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from math import prod
from typing import Any

from parity_tests.harness.draft_shapes import Shape

KINDS = {
    "weight": ("weight", "kernel", "scale", "embedding", "embeddings", "w", "g", "gamma"),
    "bias": ("bias", "b", "beta", "offset"),
    "mean": ("mean", "running_mean"),
    "var": ("var", "running_var"),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of LayerNorm, layer_norm, c_attn
Owned = dict[str, dict[str, Shape]]  # layer -> its own arrays; "" is one that is the layer itself


def by_owner(shapes: Mapping[str, Shape]) -> Owned:
    """In a plain tree an array may be a layer itself, "q_proj": what is not called as the arrays
    of a layer are."""
    owned: Owned = {}
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        if leaf not in KIND_OF:
            owner, leaf = name, ""
        owned.setdefault(owner, {})[leaf] = shape
    return owned


def kind(owner: str, leaf: str) -> str:
    """ "weight", "bias", …, of an array that is a layer itself by the end of its name: "ln1_b";
    "" if that does not tell.
    """
    last = re.split(r"[._]", leaf or owner)[-1]
    return KIND_OF.get(leaf or last.rstrip("0123456789"), "")


@dataclass(frozen=True)
class Place:
    """A layer's among others; each rank is a number and of how many."""

    rank: int  # among those whose names differ in numbers alone
    blocks: tuple[tuple[int, int], ...]  # of numbered blocks, from the outside in
    kin: tuple[int, int]  # among those of as many numbers, which may be exchanged
    share: float


def places(owned: Owned, stacked: Mapping[str, Any]) -> dict[str, Place]:
    """`stacked` says in which row of which stack each is: kin is counted inside it."""
    alike: dict[str, int] = defaultdict(int)
    ranks: dict[Any, int] = defaultdict(int)

    def kin(name: str) -> Any:
        return (stacked.get(name), *sorted(map(prod, owned[name].values())))

    counts = Counter(map(kin, owned))
    blocks = _blocks(owned)
    found = {}
    # torch lists layers as they were made, JAX's trees by name; numbers count in both.
    for i, name in enumerate(sorted(owned, key=natural) if _is_sorted(owned) else owned):
        own = kin(name)
        of_kin = ranks[own], counts[own]
        found[name] = Place(alike[words(name)], blocks[name], of_kin, i / len(owned))
        alike[words(name)] += 1
        ranks[own] += 1
    return found


def _blocks(names: Iterable[str]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Of each layer, which of how many blocks it is in that are called alike but for a number."""
    numbers: dict[str, set[int]] = defaultdict(set)
    of_layers: dict[str, list[tuple[str, int]]] = {}
    for name in names:
        of_layers[name] = []
        parts = name.split(".")
        for i, part in enumerate(parts[:-1]):
            if number := re.search(r"\d+$", part):
                family = ".".join([*parts[:i], part[: number.start()]])
                numbers[family].add(int(number[0]))
                of_layers[name].append((family, int(number[0])))
    return {
        name: tuple(
            (sorted(numbers[family]).index(number), len(numbers[family]))
            for family, number in families
            if len(numbers[family]) > 1
        )
        for name, families in of_layers.items()
    }


def score(a: str, b: str, of_a: Place, of_b: Place) -> tuple[float, float]:
    """Of two layers, by order and by name alone: 1 for the same words, 0.5 for the same number."""
    by_name = likeness(words(a), words(b)) + 0.3 * _share_of_words(a, b)
    by_name += _same_block(of_a, of_b) + 0.25 * (a.rpartition(".")[2] == b.rpartition(".")[2])
    order = 0.25 * (of_a.rank == of_b.rank)
    order += 0.25 * (of_a.kin == of_b.kin) - 0.1 * abs(of_a.share - of_b.share)
    numbers = re.findall(r"\d+", a) == re.findall(r"\d+", b)
    return by_name + order, by_name + 0.5 * numbers


def _same_block(a: Place, b: Place) -> float:
    """Positive in blocks of the same number, negative in others, where there are as many."""
    total, weight = 0.0, 1.0
    for of_a, of_b in zip(a.blocks, b.blocks, strict=False):
        if of_a[1] != of_b[1]:
            break
        total += weight if of_a == of_b else -weight
        weight /= 2
    return total


def _share_of_words(a: str, b: str) -> float:
    """Of the layers' own names: all of "query", half of "query" and "query_proj"."""
    own, other = (_WORD.findall(name.rpartition(".")[2]) for name in (a, b))
    own, other = ({word.lower() for word in found} for found in (own, other))
    return len(own & other) / max(len(own), len(other), 1)


@cache
def likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def words(name: str) -> str:
    return re.sub(r"[\d_.]+", " ", name).lower().strip()


def natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _is_sorted(names: Iterable[str]) -> bool:
    """By letters, as JAX sorts the keys of a tree: layer 10 before layer 2."""
    names = list(names)
    return names == sorted(names)


def join(owner: str, leaf: str) -> str:
    return f"{owner}.{leaf}" if owner and leaf else owner or leaf
