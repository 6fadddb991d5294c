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
    block: tuple[int, int]  # among those whose names differ in the numbers of what they are in
    kin: tuple[int, int]  # among those of as many numbers, which may be exchanged
    share: float


def places(owned: Owned, blocks: Mapping[str, Any]) -> dict[str, Place]:
    """`blocks` says in which of some stacked layers each is: kin is counted inside it."""
    alike: dict[str, int] = defaultdict(int)
    ranks: dict[Any, int] = defaultdict(int)

    def block_and_kin(name: str) -> tuple[Any, Any]:
        container, _, own = name.rpartition(".")
        return (words(container), own), (blocks.get(name), *sorted(map(prod, owned[name].values())))

    counts = Counter(key for name in owned for key in block_and_kin(name))
    found = {}
    # torch lists layers as they were made, JAX's trees by name; numbers count in both.
    for i, name in enumerate(sorted(owned, key=natural) if _is_sorted(owned) else owned):
        block, kin = block_and_kin(name)
        of_block, of_kin = ((ranks[key], counts[key]) for key in (block, kin))
        found[name] = Place(alike[words(name)], of_block, of_kin, i / len(owned))
        alike[words(name)] += 1
        for key in (block, kin):
            ranks[key] += 1
    return found


def score(a: str, b: str, of_a: Place, of_b: Place) -> tuple[float, float]:
    """Of two layers, by order and by name alone: 1 for the same words, 0.5 for the same number."""
    by_words = likeness(words(a), words(b)) + 0.3 * _share_of_words(a, b)
    same_block = of_a.block == of_b.block
    order = 0.25 * (of_a.rank == of_b.rank) + 0.35 * (of_a.block[0] == of_b.block[0])
    order += 0.25 * (of_a.kin == of_b.kin) - 0.1 * abs(of_a.share - of_b.share)
    numbers = re.findall(r"\d+", a) == re.findall(r"\d+", b)
    return by_words + order, by_words + 0.5 * (numbers or (same_block and of_a.block[1] > 1))


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
