"""The harness accuses no correct port, and names every planted fault at its layer.

`python -m parity_tests --harness` prints the same as two counts.
"""

from dataclasses import replace

import jax.numpy as jnp
import pytest

from parity_tests.ports import FAMILIES, PORTS
from parity_tests.ports.perceptrons import MLP_PORT
from parity_tests.ports.planting import nnx_weight
from parity_tests.ports.port import Fault
from parity_tests.suite.controls import Answer, ask
from parity_tests.suite.controls_output import summary

FAULTS = [(port, fault) for port in PORTS.values() for fault in port.faults]


def test_how_many_there_are():
    assert len(PORTS) == sum(map(len, FAMILIES.values())) >= 40
    assert {port.front_end for port in PORTS.values()} == {"NNX", "Linen", "Equinox", "function"}
    assert len(FAULTS) >= 60
    assert all(len({f.name for f in port.faults}) == len(port.faults) for port in PORTS.values())


@pytest.mark.parametrize("name", PORTS)
def test_a_correct_port_is_not_accused(name):
    answer = ask(PORTS[name])
    assert answer.finding == "same", answer


@pytest.mark.parametrize(
    ("port", "fault"), FAULTS, ids=[f"{port.name}: {fault.name}" for port, fault in FAULTS]
)
def test_a_fault_is_named_at_its_layer(port, fault):
    answer = ask(port, fault)
    assert answer.finding == "named", answer


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
