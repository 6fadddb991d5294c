"""torch's GRU and LSTM, one cell of the port for each layer and direction.

torch holds all gates in one matrix and two biases a cell. Flax and Equinox order the gates as torch
does (r, z, n and i, f, g, o), hold them apart or together, and keep one bias where the two are only
ever added.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from torch import nn

from parity_tests.harness.layouts import LINEAR
from parity_tests.harness.maps import Axes, Map, add, chain, constant, split
from parity_tests.harness.rules import Rule
from parity_tests.harness.target import NoCounterpart, Target, under

DIRECTIONS = {"forward": "", "backward": "_reverse"}


def recurrent_rules(
    module: nn.GRU | nn.LSTM, target: Target, reference: str, port: str, cell: str
) -> list[Rule]:
    """A cell of the port for each, by the places {layer}, {direction} and {number} of `port`."""
    _refuse(module, target)
    rules, paths = [], set()
    directions = list(DIRECTIONS)[: 1 + module.bidirectional]
    cells = list(product(range(module.num_layers), directions))
    for number, (layer, direction) in enumerate(cells):
        places = {"layer": str(layer), "direction": direction, "number": str(number)}
        path = port
        for word, value in places.items():
            path = path.replace(f"{{{word}}}", value)
        paths.add(path)
        ends = f"_l{layer}{DIRECTIONS[direction]}"
        names = {
            kind: under(reference, f"{kind}{ends}")
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        if isinstance(module, nn.GRU):
            rules += _gru(names, path, target, module)
        else:
            rules += _lstm(names, path, target, module, cell)
    if len(paths) < len(cells):
        raise ValueError(
            f"{port!r} is one name for {len(cells)} cells: say where each is with {{layer}} and "
            "{direction}, or {number}, as in layers.{layer}.{direction}_rnn.cell"
        )
    return rules


def _refuse(module: nn.GRU | nn.LSTM, target: Target) -> None:
    if module.proj_size:
        raise NoCounterpart(
            "no JAX cell has proj_size, a projection of the hidden state: write a cell, with rules "
            "for weight_hr"
        )
    if isinstance(module, nn.GRU) and target == "nnx" and module.bias:
        raise NoCounterpart(
            "nnx.GRUCell has no bias inside the reset gate, where torch adds b_hn: use a cell that "
            "has (Linen's and Equinox's do), or GRU(bias=False)"
        )


def _gru(names: dict[str, str], port: str, target: Target, module: nn.GRU) -> list[Rule]:
    size, gates = module.hidden_size, ("r", "z", "n")
    both = (names["bias_ih"], names["bias_hh"])
    if target == "nnx":
        return [
            *_matrices(names, under(port, "dense_i.kernel"), under(port, "dense_h.kernel"), LINEAR),
            _no_bias(under(port, "dense_i.bias"), 3 * size),
        ]
    if target == "equinox":
        biases = (under(port, "bias"), under(port, "bias_n"))
        return [
            *_matrices(names, under(port, "weight_ih"), under(port, "weight_hh")),
            *([Rule(both, biases, _gru_biases(size, apart=False))] if module.bias else []),
        ]
    biases = tuple(under(port, f"{gate}.bias") for gate in ("ir", "iz", "in", "hn"))
    return [
        *_gates(names, port, gates),
        *(
            [Rule(both, biases, _gru_biases(size, apart=True))]
            if module.bias
            else [_no_bias(bias, size) for bias in biases]
        ),
    ]


def _lstm(
    names: dict[str, str], port: str, target: Target, module: nn.LSTM, cell: str
) -> list[Rule]:
    size, gates = module.hidden_size, ("i", "f", "g", "o")
    both = (names["bias_ih"], names["bias_hh"])
    if target == "equinox":
        bias = under(port, "bias")
        matrices = _matrices(names, under(port, "weight_ih"), under(port, "weight_hh"))
        return [*matrices, *([Rule(both, bias, add())] if module.bias else [])]
    if target == "nnx" and cell == "OptimizedLSTMCell":
        kernels = under(port, "dense_i.kernel"), under(port, "dense_h.kernel")
        biases: tuple[str, ...] = (under(port, "dense_h.bias"),)
        matrices, parts, width = _matrices(names, *kernels, LINEAR), add(), 4 * size
    else:
        biases = tuple(under(port, f"h{gate}.bias") for gate in gates)
        matrices = _gates(names, port, gates, f="if_" if target == "nnx" else "if")
        parts, width = chain(add(), split(4)), size
    if module.bias:
        return [*matrices, Rule(both, biases, parts)]
    return [*matrices, *(_no_bias(bias, width) for bias in biases)]


def _matrices(
    names: dict[str, str], of_input: str, of_hidden: str, axes: Axes | None = None
) -> list[Rule]:
    return [Rule(names["weight_ih"], of_input, axes), Rule(names["weight_hh"], of_hidden, axes)]


def _gates(names: dict[str, str], port: str, gates: Sequence[str], f: str = "if") -> list[Rule]:
    """A kernel for each gate. `f` is the forget gate's name, for which NNX avoids the keyword."""
    apart = chain(split(len(gates)), LINEAR)
    of_input = tuple(under(port, f"{f if g == 'f' else 'i' + g}.kernel") for g in gates)
    of_hidden = tuple(under(port, f"h{g}.kernel") for g in gates)
    return [Rule(names["weight_ih"], of_input, apart), Rule(names["weight_hh"], of_hidden, apart)]


def _gru_biases(size: int, apart: bool) -> Map:
    """b_ir + b_hr and b_iz + b_hz in one, b_in and b_hn each alone; `apart`: gate by gate."""

    def to_port(b_i: Any, b_h: Any) -> tuple[Any, ...]:
        added = b_i[: 2 * size] + b_h[: 2 * size]
        new, hidden = b_i[2 * size :], b_h[2 * size :]
        if apart:
            return added[:size], added[size:], new, hidden
        return _joined(added, new), hidden

    def parts(*values: Any) -> tuple[Any, Any, Any]:
        if apart:
            r, z, new, hidden = values
            return _joined(r, z), new, hidden
        first, hidden = values
        return first[: 2 * size], first[2 * size :], hidden

    def to_reference(*values: Any) -> tuple[Any, Any]:
        added, new, hidden = parts(*values)
        return _joined(added, new), _joined(np.zeros_like(added), hidden)

    def gradient(*values: Any) -> tuple[Any, Any]:
        added, new, hidden = parts(*values)
        return _joined(added, new), _joined(added, hidden)

    lost = "the sums of r and z come back in bias_ih, with zeros in bias_hh"
    return Map(to_port, to_reference, gradient, loses=lost)


def _joined(*parts: Any) -> Any:
    return parts[0].__array_namespace__().concat(parts)


def _no_bias(port: str, size: int) -> Rule:
    return Rule((), port, constant(np.zeros(size)))
