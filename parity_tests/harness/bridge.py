"""Weights of any torch module to any NNX module and back, by rules, as a bijection.

Every tensor of the reference and every number of the port is used once; whatever is left over,
used twice, of another shape or rounded on the way is an error that names it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from numpy.typing import NDArray

from parity_tests.harness.patterns import Pattern
from parity_tests.harness.tensors import named_leaves, to_numpy

ModuleT = TypeVar("ModuleT", bound=nnx.Module)
Index = Any  # what NumPy's basic indexing takes
Reference = torch.nn.Module | Mapping[str, Any]

WHOLE: Index = (...,)
LINEAR = (1, 0)  # torch [out, in] -> flax [in, out]
CONV1D = (2, 1, 0)  # torch [out, in, width] -> flax [width, in, out]
CONV2D = (2, 3, 1, 0)  # torch [out, in, height, width] -> flax [height, width, in, out]

MOST_PROBLEMS = 8  # in one error message


class BridgeError(ValueError):
    """The rules do not pair the two models' weights one to one."""


@dataclass(frozen=True)
class Rule:
    """`reference` names become `port` names, and the axes are permuted by `axes`.

    Names are patterns: "blocks.{i}.fc.weight" -> "blocks.{i}.fc.kernel", "**.bias" -> "**.bias".

    Several tensors that make up one of the port: `over` gives the values of a place that only the
    reference's name has, and `at` the part of the port's tensor for each of them:
    `Rule("heads.{h}.key.weight", "keys.kernel", LINEAR, over={"h": range(3)},
    at=lambda h: np.s_[:, 5 * h : 5 * h + 5])`.

    `alias` is for a tied tensor that the reference lists a second time: it may be absent, and must
    agree with what another rule has put there.
    """

    reference: str
    port: str
    axes: Sequence[int] | None = None
    over: Mapping[str, Iterable[int]] = field(default_factory=dict)
    at: Callable[..., Index] | None = None
    alias: bool = False

    def part(self, places: Mapping[str, str]) -> Index:
        return WHOLE if self.at is None else self.at(**{k: int(places[k]) for k in self.over})

    def to_port(self, value: NDArray) -> NDArray:
        if self.axes is None or len(self.axes) != value.ndim:
            return value  # the caller's check of the shape speaks of a wrong rank
        return value.transpose(self.axes)

    def to_reference(self, value: NDArray) -> NDArray:
        if self.axes is None:
            return np.array(value)
        return np.ascontiguousarray(value.transpose(np.argsort(self.axes)))


@dataclass(frozen=True)
class _Link:
    """One tensor of the reference and the part of the port's tensor that it is."""

    reference: str
    port: str
    rule: Rule
    part: Index


class Bridge:
    """For each tensor the first rule that matches its name counts.

    `ignore` names tensors of the reference that are no weights: "**.tril",
    "**.num_batches_tracked". In the port, everything but the state of random streams is a weight.
    """

    def __init__(self, rules: Iterable[Rule], ignore: Iterable[str] = ()) -> None:
        self._rules = [(Pattern(rule.reference), Pattern(rule.port), rule) for rule in rules]
        self._ignored = [Pattern(text) for text in ignore]
        for reference, port, rule in self._rules:
            if reference.places != port.places | set(rule.over) or (rule.at is None) != (
                not rule.over
            ):
                raise BridgeError(
                    f"{rule.reference} -> {rule.port}: the places of both names must be the same, "
                    "but for those in `over`, which go with `at`"
                )

    def to_port(self, reference: Reference, port: ModuleT) -> ModuleT:
        """Fills `port` with the weights of a torch module or state dict and returns it.

        BridgeError, and an unchanged port, unless the rules pair them one to one without rounding.
        """
        variables = _variables(port)
        values = {name: np.array(v[...]) for name, v in variables.items()}
        filled = {name: np.zeros(value.shape, bool) for name, value in values.items()}
        problems, aliases = [], []
        weights = self._weights(reference)
        for name, given in weights.items():
            link = self._link(name)
            if link is None:
                problems.append(f"{name} of the reference matches no rule")
                continue
            if link.port not in values:
                problems.append(f"{name} -> {link.port}, which the port does not have")
                continue
            piece, place = link.rule.to_port(given), values[link.port][link.part]
            if piece.shape != place.shape:
                problems.append(f"{name} gives {piece.shape} where {link.port} has {place.shape}")
            elif not np.array_equal(piece.astype(place.dtype), piece, equal_nan=True):
                problems.append(f"{name} {piece.dtype} would be rounded to {place.dtype}")
            elif link.rule.alias:
                aliases.append((name, piece, place, link.port))
            elif filled[link.port][link.part].any():
                problems.append(f"{name} -> {link.port}, which another tensor has filled")
            else:
                place[...] = piece  # a view: `part` is a basic index
                filled[link.port][link.part] = True
        for name, piece, place, target in aliases:
            if not np.array_equal(piece, place, equal_nan=True):
                problems.append(f"{name} differs from {target}, to which it is tied")
        problems += [
            f"{name} of the port is not filled ({int((~mask).sum())} of {mask.size} numbers)"
            for name, mask in filled.items()
            if not mask.all()
        ]
        _raise_if(problems)
        back = {
            link.reference
            for name, value in values.items()
            for link in self._links_to(name, value.shape)[0]
        }
        _raise_if(
            f"{name} of the reference would not come back by this name"
            for name in weights.keys() - back
        )
        arrays = {name: jnp.asarray(value) for name, value in values.items()}
        _raise_if(
            f"{name} is {values[name].dtype}: do this under jax.enable_x64(True)"
            for name, array in arrays.items()
            if array.dtype != values[name].dtype
        )
        for name, variable in variables.items():
            variable[...] = arrays[name]
        return port

    def to_reference(self, port: nnx.Module) -> dict[str, NDArray[Any]]:
        """The port's weights as a state dict of the reference: the exact inverse of `to_port`.

        Ignored tensors are not in it.
        """
        return self._to_reference(_variables(port), with_aliases=True)

    def map_gradients(self, gradients: Any) -> dict[str, NDArray[Any]]:
        """Gradients with respect to the port's weights, by the reference's names and layout.

        `gradients` is an nnx.State or a tree of arrays with the port's names, of all weights or of
        some. Tied tensors appear once, as in torch's `named_parameters()`.
        """
        return self._to_reference(dict(named_leaves(gradients)), with_aliases=False)

    def _to_reference(self, port: Mapping[str, Any], with_aliases: bool) -> dict[str, NDArray[Any]]:
        result: dict[str, NDArray[Any]] = {}
        problems = []
        for target, leaf in port.items():
            value = to_numpy(leaf)
            links, used = self._links_to(target, value.shape)
            if (used != 1).any():
                problems.append(
                    f"of the {used.size} numbers of {target} in the port, {int((used == 0).sum())} "
                    f"match no rule and {int((used > 1).sum())} match several"
                )
            for link in links:
                if with_aliases or not link.rule.alias:
                    result[link.reference] = link.rule.to_reference(value[link.part])
        _raise_if(problems)
        return result

    def _weights(self, reference: Reference) -> dict[str, NDArray[Any]]:
        if isinstance(reference, torch.nn.Module):
            reference = reference.state_dict()
        return {
            name: to_numpy(value)
            for name, value in reference.items()
            if not any(pattern.match(name) for pattern in self._ignored)
        }

    def _link(self, reference: str) -> _Link | None:
        for pattern, port, rule in self._rules:
            places = pattern.match(reference)
            if places is not None and all(
                places[word] in {str(value) for value in values}
                for word, values in rule.over.items()
            ):
                return _Link(reference, port.fill(places), rule, rule.part(places))
        return None

    def _links_to(
        self, target: str, shape: tuple[int, ...]
    ) -> tuple[list[_Link], NDArray[np.int_]]:
        """The reference's tensors that make up one of the port, and how often each number is used.

        Here too the first rule counts: one whose numbers an earlier rule has used is left out.
        """
        links = []
        used = np.zeros(shape, int)
        for reference, pattern, rule in self._rules:
            places = pattern.match(target)
            if places is None:
                continue
            before = used.copy()
            for values in product(*rule.over.values()):
                more = {word: str(value) for word, value in zip(rule.over, values, strict=True)}
                link = self._link(reference.fill(places | more))
                if link is None or link.rule is not rule or link.port != target:
                    continue  # an earlier rule takes the tensor of this name elsewhere
                if rule.alias:
                    links.append(link)
                elif not before[link.part].all():
                    links.append(link)
                    used[link.part] += 1
        return links, used


def _variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    return dict(named_leaves(nnx.state(module, nnx.Not(nnx.RngState))))


def _raise_if(problems: Iterable[str]) -> None:
    problems = list(problems)
    if problems:
        more = len(problems) - MOST_PROBLEMS
        text = "\n  ".join(problems[:MOST_PROBLEMS]) + (f"\n  and {more} more" if more > 0 else "")
        raise BridgeError(f"the weights do not fit one to one:\n  {text}")
