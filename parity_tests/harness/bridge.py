"""Weights of any torch module to any JAX model and back, by rules, as a bijection.

Every tensor of the reference and every number of the port is used once; whatever is left over,
used twice, of another shape or rounded on the way is an error that names it.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from numpy.typing import NDArray

from parity_tests.harness.adjoint import gradients_of_reference
from parity_tests.harness.layouts import CONV1D, CONV2D, LINEAR
from parity_tests.harness.links import Links
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.rules import BridgeError, Rule, raise_if
from parity_tests.harness.tensors import named_leaves, to_numpy
from parity_tests.harness.ties import aliases
from parity_tests.harness.variables import variables, with_variables

__all__ = ["CONV1D", "CONV2D", "LINEAR", "Bridge", "BridgeError", "Rule"]

ModelT = TypeVar("ModelT")
T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
Reference = torch.nn.Module | Mapping[str, Any]


class Bridge:
    """For each tensor the first rule that matches its name counts.

    `ignore` names tensors of the reference that have no place in the port: "inv_freq", "**.tril",
    "**.num_batches_tracked". `ignore_port` names arrays of the port that nothing fills. There,
    everything but the state of random streams is a weight, plain arrays and nnx.data included.
    """

    def __init__(
        self, rules: Iterable[Rule], ignore: Iterable[str] = (), ignore_port: Iterable[str] = ()
    ) -> None:
        ignored = [Rule(name, ()) for name in _several(ignore)]
        self._links = Links([*ignored, *rules])
        self._ignored_of_port = [Pattern(name) for name in _several(ignore_port)]

    def to_port(self, reference: Reference, port: ModelT) -> ModelT:
        """The port with the weights of a torch module or state dict.

        An NNX module is filled and returned; of any other model (a bound Linen module, an Equinox
        module, a function with parameters) a new one is returned. BridgeError, and an unchanged
        port, unless the rules pair them one to one without rounding.
        """
        own = self._of_port(variables(port))
        values = {name: to_numpy(value) for name, value in own.items()}
        filled = {name: np.zeros(value.shape, bool) for name, value in values.items()}
        weights = self._weights(reference)
        problems, aliases = [], []
        for link in self._links.of_reference(weights, values, problems):
            try:
                given = [weights[name] for name in link.references]
                pieces = link.to_port(given)
                if not link.undone(given, pieces):
                    problems.append(f"to_reference of {link.rule} does not undo its to_port")
            except BridgeError as error:
                problems.append(str(error))
                continue
            name = " and ".join(link.references) or "a constant"
            for target, piece in zip(link.ports, pieces, strict=True):
                place = values[target][link.part]
                if piece.shape != place.shape:
                    problems.append(f"{name} gives {piece.shape} where {target} has {place.shape}")
                elif not _equal(piece.astype(place.dtype), piece):
                    problems.append(
                        f"{name} {piece.dtype} would be rounded to {place.dtype}, as {target} is"
                    )
                elif link.rule.alias:
                    aliases.append((name, piece, target, link.part))
                elif filled[target][link.part].any():
                    problems.append(f"{name} -> {target}, which another tensor has filled")
                else:
                    values[target][link.part] = piece
                    filled[target][link.part] = True
        for name, piece, target, part in aliases:
            if not _equal(piece, values[target][part]):
                problems.append(f"{name} differs from {target}, to which it is tied")
        problems += [
            f"{name} of the port is not filled ({int((~mask).sum())} of {mask.size} numbers)"
            ", nor in `ignore_port`"
            for name, mask in filled.items()
            if not mask.all()
        ]
        raise_if(problems)
        links = {link for name, x in values.items() for link in self._links.to(name, x.shape)[0]}
        back = {name for link in links for name in link.references}
        raise_if(
            f"{name} of the reference would not come back by this name"
            for name in weights.keys() - back
        )
        return _filled(port, values, own)

    def to_reference(self, port: Any) -> Arrays:
        """The port's weights as a state dict of the reference: the inverse of `to_port`.

        Exact but for the rounding of maps that compute. Ignored tensors are not in it.
        """
        given = {name: to_numpy(x) for name, x in self._of_port(variables(port)).items()}
        result: Arrays = {}
        for link in self._links.complete(given, partly=False):
            pieces = [given[target][link.part] for target in link.ports]
            # Copies in C order: transposed views would come back as they lie in the port.
            values = [np.array(x, order="C") for x in link.to_reference(pieces)]
            result |= zip(link.references, values, strict=True)
        return result

    def map_gradients(self, gradients: Any, reference: Reference | None = None) -> Arrays:
        """Gradients with respect to the port's weights, by the reference's names and layout.

        `gradients` is a tree of arrays with the port's names (an nnx.State, Linen's variables or
        its "params", an Equinox module), of all weights or of some: a tensor of the reference that
        is several of the port is left out unless all are there. Tied tensors appear once, as in
        torch's `named_parameters()`. `reference` gives the weights to maps whose derivative depends
        on them, as weight norm's does; given as a module, it adds the gradients of a tied weight
        that is two arrays of the port.
        """
        weights = reference.state_dict() if isinstance(reference, torch.nn.Module) else reference
        given = {name: to_numpy(x) for name, x in self._of_port(self._named(gradients)).items()}
        result: Arrays = {}
        for link in self._links.complete(given, partly=True):
            if not link.rule.alias:
                pieces = [given[target][link.part] for target in link.ports]
                of_link = gradients_of_reference(link, pieces, weights)
                result |= zip(link.references, of_link, strict=True)
        if isinstance(reference, torch.nn.Module):
            for name, first in aliases(reference).items():
                if name in result and first in result:  # one weight, two arrays of the port
                    result[first] = result[first] + result.pop(name)
        return result

    def parted(self, reference: torch.nn.Module) -> Iterator[str]:
        """A sentence for each weight that the reference ties and the port holds twice."""
        for name, first in aliases(reference).items():
            links = [self._links.link(each) for each in (first, name)]
            ports = [link.ports for link in links if link and link.ports]
            if len(ports) == 2 and ports[0] != ports[1]:
                arrays = " and ".join(dict.fromkeys([*ports[0], *ports[1]]))
                yield (
                    f"{first} and {name}, tied in the reference, are {arrays} of the port: their "
                    "gradients are added, and training parts them"
                )

    def outside(
        self, reference: str, port: str, tensors: Iterable[str], shapes: Mapping[str, Any]
    ) -> str:
        """Of two layers that stand for one another, a weight that only one holds; "" if none.

        `tensors` are all of the reference's, `shapes` of all of the port's arrays.
        """
        for name in _inside(port, shapes):
            links = self._links.to(name, shapes[name])[0]
            names = [other for link in links for other in link.references]
            if names and not _inside(reference, names):
                return f"its {name} is {names[0]}, which the reference's layer does not hold"
        for name in _inside(reference, tensors):
            link = self._links.link(name)
            if link and link.ports and not link.rule.alias and not _inside(port, link.ports):
                return f"{name} is {link.ports[0]}, which the port's layer does not hold"
        return ""

    def without_ignored(self, named: Mapping[str, T]) -> dict[str, T]:
        """What is named as the reference's tensors are, less those that the port does without."""
        return {
            name: value
            for name, value in named.items()
            if (link := self._links.link(name)) is None or link.ports
        }

    def _named(self, gradients: Any) -> dict[str, Any]:
        """Linen's collection goes off, unless the port has one tree by that name."""
        of_linen = isinstance(gradients, Mapping) and set(gradients) == {"params"}
        if of_linen and not any(name.startswith("params.") for name in self._links.ports):
            gradients = gradients["params"]
        return _named(gradients)

    def _weights(self, reference: Reference) -> Arrays:
        if isinstance(reference, torch.nn.Module):
            reference = reference.state_dict()
        return {name: to_numpy(value) for name, value in self.without_ignored(reference).items()}

    def _of_port(self, named: Mapping[str, T]) -> dict[str, T]:
        return {
            name: value
            for name, value in named.items()
            if all(pattern.match(name) is None for pattern in self._ignored_of_port)
        }


def _filled(port: ModelT, values: Arrays, own: Mapping[str, Any]) -> ModelT:
    # A Python number stays one; an array's dtype must be one that JAX has now.
    arrays = {
        name: type(own[name])(value) if isinstance(own[name], float | int) else jnp.asarray(value)
        for name, value in values.items()
    }
    raise_if(
        f"{name} is {values[name].dtype}: do this under jax.enable_x64(True)"
        for name, array in arrays.items()
        if isinstance(array, jax.Array) and array.dtype != values[name].dtype
    )
    new = with_variables(port, arrays)
    if not isinstance(port, nnx.Module):
        return new
    nnx.update(port, nnx.state(new, nnx.Not(nnx.RngState)))
    return port


def _named(gradients: Any) -> dict[str, Any]:
    """Leaves by the names that `variables` gives the port's."""
    named = dict(named_leaves(gradients))
    of_nnx = isinstance(gradients, nnx.State)
    if of_nnx or all(isinstance(x, nnx.Variable) or hasattr(x, "shape") for x in named.values()):
        return named
    return variables(partial(_named, gradients))  # a tree of JAX's own, as a function's parameters


def _inside(layer: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{layer}." if layer else "")]


def _several(names: Iterable[str]) -> Iterable[str]:
    return [names] if isinstance(names, str) else names


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=jnp.issubdtype(b.dtype, jnp.inexact))
