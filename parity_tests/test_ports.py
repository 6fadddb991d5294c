"""The harness accuses no correct port, and names planted faults at their layer.

Here every correct port is asked about, and some of each one's faults. `python -m parity_tests
--harness` asks about all of them and prints two counts.
"""

from collections.abc import Hashable, Iterator
from dataclasses import replace

import jax.numpy as jnp
import pytest

from parity_tests.harness.trace import ROOT
from parity_tests.ports import FAMILIES, FAMILY_OF, PORTS
from parity_tests.ports.perceptrons import MLP_PORT
from parity_tests.ports.planting import nnx_weight
from parity_tests.ports.port import Fault, Port
from parity_tests.suite import controls
from parity_tests.suite.controls import Answer, ask, ask_all
from parity_tests.suite.controls_output import summary

FAULTS = [(port, fault) for port in PORTS.values() for fault in port.faults]


def kinds(port: Port, fault: Fault) -> set[Hashable]:
    """Each port has one in each direction, each family one in a layer and one between layers."""
    family = FAMILY_OF[port.name], port.front_end
    return {(port.name, fault.direction), (family, fault.direction, fault.layer == ROOT)}


def first_of_every_kind() -> Iterator[tuple[Port, Fault]]:
    seen: set[Hashable] = set()
    for port, fault in FAULTS:
        if not kinds(port, fault) <= seen:
            seen |= kinds(port, fault)
            yield port, fault


CHOSEN = list(first_of_every_kind())


def test_how_many_there_are():
    assert len(PORTS) == sum(map(len, FAMILIES.values())) >= 40
    assert {port.front_end for port in PORTS.values()} == {"NNX", "Linen", "Equinox", "function"}
    assert len(FAULTS) >= 60
    assert all(len({f.name for f in port.faults}) == len(port.faults) for port in PORTS.values())
    assert {kind for pair in CHOSEN for kind in kinds(*pair)} == {
        kind for pair in FAULTS for kind in kinds(*pair)
    }
    assert 60 <= len(CHOSEN) <= len(FAULTS) // 2


@pytest.mark.parametrize("name", PORTS)
def test_a_correct_port_is_not_accused(name):
    answer = ask(PORTS[name])
    assert answer.finding == "same", answer


@pytest.mark.parametrize(
    ("port", "fault"), CHOSEN, ids=[f"{port.name}: {fault.name}" for port, fault in CHOSEN]
)
def test_a_fault_is_named_at_its_layer(port, fault):
    answer = ask(port, fault)
    assert answer.finding == "named", answer


def test_the_command_asks_about_every_fault(monkeypatch):
    def note(port, fault=None):
        asked.append((port, fault))

    asked = []
    monkeypatch.setattr(controls, "ask", note)
    for name in PORTS:
        ask_all(name)
    assert [(port, fault) for port, fault in asked if fault is not None] == FAULTS
    assert [port for port, fault in asked if fault is None] == list(PORTS.values())


def test_each_wrong_answer_has_its_name():
    fault = MLP_PORT.faults[0]
    faulty = replace(MLP_PORT, port=lambda: fault.plant(MLP_PORT.port()))
    assert ask(faulty).finding == "accused"
    assert ask(MLP_PORT, replace(fault, layer="fc1")).finding == "elsewhere"
    assert ask(MLP_PORT, replace(fault, direction="backward")).finding == "elsewhere"
    harmless = Fault("none", "fc1", nnx_weight("fc1.kernel", jnp.asarray))
    assert ask(MLP_PORT, harmless).finding == "unnoticed"
    assert ask(replace(MLP_PORT, rules=())).finding == "raises"


def test_the_counts():
    def answer(fault, finding):
        return Answer("family", "port", fault, finding, "", 0.0)

    answers = [answer("", "same"), answer("", "accused"), answer("a", "named")]
    answers += [answer("b", "elsewhere"), answer("c", "unnoticed"), answer("d", "raises")]
    assert summary(answers) == (
        "1 accusations of 2 correct ports. 1 of 4 planted faults are named at the right layer and "
        "no other, 1 not noticed."
    )
