"""Which ready-made map takes a tensor of one shape to a tensor of another."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any

from torch import nn

from parity_tests.harness import layouts
from parity_tests.harness.layouts import flip_groups, trailing_ones
from parity_tests.harness.maps import Axes, Map, heads, permutation

Shape = tuple[int, ...]
SQUARE = "square: transposed or not? probe it"


@dataclass(frozen=True)
class Fit:
    """A map, as code and as itself; `doubt` says what the shapes leave open.

    `others`, if any, are as likely: then none of them is for a rule.
    """

    code: str  # "" for the tensor as it is
    map: Map | Axes | None
    doubt: str = ""
    others: "tuple[Fit, ...]" = ()


AS_IT_IS = Fit("", None)


def fit(module: nn.Module, leaf: str, reference: Shape, name: str, port: Shape) -> Fit | None:
    """The likeliest map for a layer's tensor, by both shapes, by its kind and the port's name.

    None if no ready-made one gives the port's shape.
    """
    found = list(_fits(module, leaf, reference, name, port))
    if not found:
        return None
    likeliest = found[0]
    square = len(reference) == 2 and reference[0] == reference[1]
    if square and _of_conv1d(module, name):
        return AS_IT_IS
    if square and not is_table(module):
        return Fit(likeliest.code, likeliest.map, SQUARE)
    if len(found) > 1:
        others = " or ".join(other.code or "as it is" for other in found[1:])
        return Fit(likeliest.code, likeliest.map, f"the shapes allow {others} too: probe it")
    return likeliest


def _fits(module: nn.Module, leaf: str, reference: Shape, name: str, port: Shape) -> Iterator[Fit]:
    n = len(reference)
    of_flax = name == "kernel"  # Flax's name for what is the other way round
    if isinstance(module, nn.modules.conv._ConvNd) and leaf == "weight":
        yield from _convolution(module, reference, port)
        return
    if not of_flax and reference == port:
        yield AS_IT_IS
    if n == 2 and not is_table(module) and port == reference[::-1]:
        yield Fit("LINEAR", layouts.LINEAR)
    if of_flax and reference == port and n != 2:
        yield AS_IT_IS
    if of_flax and n == 2 and reference == port and reference[0] != reference[1]:
        yield AS_IT_IS  # [in, out] on both sides, as GPT-2's Conv1D has it
    if n == 1 and len(port) == 2 and prod(port) == reference[0] and port[1] > 1:
        yield Fit(f"heads({port[0]}, {port[1]})", heads(*port))
    if n == 2 and len(port) == 3:
        out, n_in = reference
        if port[0] == n_in and prod(port[1:]) == out:
            yield Fit(f"heads({port[1]}, {port[2]})", heads(*port[1:]))
        if port[2] == out and prod(port[:2]) == n_in:
            yield Fit(f"heads({port[0]}, {port[1]}, axis=1)", heads(*port[:2], axis=1))
    if n == 1 and len(port) > 1 and port == reference + (1,) * (len(port) - 1):
        yield Fit(f"trailing_ones({len(port) - 1})", trailing_ones(len(port) - 1))
    if len(port) > n + 1 and n <= 2 and port[n:] != (1,) * (len(port) - n):
        yield from _reshaped(reference, port)
    if n > 2 and n == len(port) and reference != port:
        for axes in permutations(range(n)):
            if tuple(reference[axis] for axis in axes) == port:
                yield Fit(str(axes), axes)


def _reshaped(reference: Shape, port: Shape) -> Iterator[Fit]:
    """One side of a Linear, or its bias, as three axes or more: groups, queries of each, channels.

    In which order the reference has them no shape tells; the last of them is taken to be the last.
    """
    if len(reference) == 1:
        sides = [slice(0, None)] if prod(port) == reference[0] else []
    else:
        out, n_in = reference
        sides = [slice(1, None)] if port[0] == n_in and prod(port[1:]) == out else []
        sides += [slice(0, -1)] if port[-1] == out and prod(port[:-1]) == n_in else []
    for side in sides:
        outer = range(*side.indices(len(port)))[:-1]
        found: dict[str, Fit] = {}
        for order in permutations(outer):
            if [i for i in order if port[i] > 1] == [i for i in outer if port[i] > 1]:
                order = tuple(outer)  # axes of one channel may be anywhere
            axes = list(range(len(port)))  # the port's, in the order of the reference
            axes[outer[0] : outer[-1] + 1] = order
            how = _reshape(reference, port, tuple(axes))
            found.setdefault(how.code, how)
        first, *others = found.values()
        yield Fit(first.code, first.map, others=tuple(others))


def _reshape(reference: Shape, port: Shape, axes: tuple[int, ...]) -> Fit:
    """`axes` are the port's, in the order in which the reference's rows or columns have them."""
    split = tuple(port[axis] for axis in axes)
    back = tuple(axes.index(i) for i in range(len(axes)))
    turned, flat = (".T", reference[::-1]) if len(reference) == 2 else ("", reference)
    moves = axes != tuple(sorted(axes))
    code = f"to_port=lambda w: w{turned}.reshape{split}{f'.transpose{back}' if moves else ''}, "
    code += f"to_reference=lambda p: p{f'.transpose{axes}' if moves else ''}.reshape{flat}{turned}"

    def there(w: Any) -> Any:
        return w.T.reshape(split).transpose(back)

    def undone(p: Any) -> Any:
        return p.transpose(axes).reshape(flat).T

    return Fit(code, permutation(there, undone))


def _convolution(module: nn.modules.conv._ConvNd, reference: Shape, port: Shape) -> Iterator[Fit]:
    n = len(module.kernel_size)
    out, n_in, *width = reference
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        of_equinox = (n_in * module.groups, out // module.groups, *width)
        if port == (*width, out, n_in) and module.groups == 1:
            yield Fit(f"CONV_TRANSPOSE{n}D", getattr(layouts, f"CONV_TRANSPOSE{n}D"))
        if port == of_equinox:
            yield Fit(f"flip_groups({module.groups})", flip_groups(module.groups))
    elif port == reference:
        yield AS_IT_IS
    if port == (*width, n_in, out):
        yield Fit(f"CONV{n}D", getattr(layouts, f"CONV{n}D"))


def _of_conv1d(module: nn.Module, name: str) -> bool:
    """Whether both sides have [in, out]: GPT-2's Conv1D of transformers, and Flax's kernels."""
    return name == "kernel" and type(module).__name__ == "Conv1D"


def is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)
