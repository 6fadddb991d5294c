"""The registry of planted bugs: one fault each, in every part of the port."""

from parity_tests.suite.mutants import (
    accelerators,
    attention,
    bridge,
    data,
    dropout,
    generation,
    layouts,
    loss_and_gradient,
    model,
    optimizer,
    run,
)
from parity_tests.suite.mutants.planting import Mutant

REGISTRY: tuple[Mutant, ...] = (
    *attention.MUTANTS,
    *model.MUTANTS,
    *loss_and_gradient.MUTANTS,
    *optimizer.MUTANTS,
    *data.MUTANTS,
    *bridge.MUTANTS,
    *layouts.MUTANTS,
    *generation.MUTANTS,
    *dropout.MUTANTS,
    *run.MUTANTS,
    *accelerators.MUTANTS,
)

__all__ = ["REGISTRY", "Mutant"]
