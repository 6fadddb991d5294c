"""What `locate` says of correct ports, and of the same with a fault planted in one layer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jax
import torch
from flax import nnx

from parity_tests.harness.locate import locate
from parity_tests.harness.location import Location
from parity_tests.harness.quick_programs import quickly_compiled
from parity_tests.harness.trace import ROOT
from parity_tests.ports import FAMILY_OF, PORTS, Fault, Port

Finding = Literal["same", "accused", "named", "elsewhere", "unnoticed", "raises"]
RIGHT: tuple[Finding, ...] = ("same", "named")


@dataclass(frozen=True)
class Answer:
    """On a correct port, whose `fault` is empty, or on one with a fault."""

    family: str
    port: str
    fault: str
    finding: Finding
    says: str  # the harness's own words
    seconds: float

    @property
    def ok(self) -> bool:
        return self.finding in RIGHT

    def __str__(self) -> str:
        what = f"{self.port}, {self.fault}" if self.fault else self.port
        return f"{self.family}: {what}: {self.finding}: {self.says}"


def ask_all(name: str) -> list[Answer]:
    """About one port and all its faults."""
    port = PORTS[name]
    answers = [ask(port), *(ask(port, fault) for fault in port.faults)]
    pair.cache_clear()
    return answers


def ask(port: Port, fault: Fault | None = None) -> Answer:
    started = time.perf_counter()
    finding: Finding = "raises"
    try:
        location = located(port, fault)
        finding, says = judged(location, fault), location.verdict
    except Exception as error:
        says = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    family = FAMILY_OF.get(port.name, "")
    return Answer(family, port.name, fault.name if fault else "", finding, says, seconds)


def located(port: Port, fault: Fault | None) -> Location:
    with jax.enable_x64(True), quickly_compiled(), port.around():
        reference, correct = pair(port)
        compared = correct if fault is None else fault.plant(copied(correct))
        return locate(
            reference, compared, port.inputs, port.names, bridge=port.bridge, **port.options
        )


@cache
def pair(port: Port) -> tuple[torch.nn.Module, Any]:
    return port.pair()


def copied(model: Any) -> Any:
    """What a fault may change: models of the other kinds cannot be changed."""
    return nnx.clone(model) if isinstance(model, nnx.Module) else model


def judged(location: Location, fault: Fault | None) -> Finding:
    """A fault is named where its layer is guilty, in its direction first, and no other.

    One of the state where its layer's buffers differ, and nothing else does.
    """
    if fault is None:
        return "same" if location.outcome == "same" else "accused"
    if location.outcome == "same":
        return "unnoticed"
    return "named" if fault.layer in named_by(location, fault) else "elsewhere"


def named_by(location: Location, fault: Fault) -> set[str]:
    """One layer, or none where several are guilty or the first in another direction."""
    state = location.state
    if fault.direction == "state":
        # Where the function itself differs, the state is no finding of its own.
        alone = location.outcome == "state differs"
        failures = state.failures if state is not None and alone else ()
        layers = {tensor.name.rpartition(".")[0] for tensor in failures}
    else:
        guilty = location.guilty
        in_direction = bool(guilty) and guilty[0].direction == fault.direction
        layers = {check.name or ROOT for check in guilty} if in_direction else set()
    return layers if len(layers) == 1 else set()


def count(answers: Sequence[Answer], finding: Finding, of_faults: bool) -> int:
    return sum(a.finding == finding and bool(a.fault) == of_faults for a in answers)
