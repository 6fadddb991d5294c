"""Other people's layers: correct ports, which the harness must not accuse, and faults to plant.

Each file is a family. Sizes differ and are even where that matters; inputs reach masks and windows.
"""

from parity_tests.ports import (
    attentions,
    calls,
    convolutions,
    equinox_models,
    equinox_ports,
    function_models,
    functions,
    hugging_face,
    islands,
    layouts,
    linen_models,
    linen_ports,
    perceptrons,
    states,
    transforms,
)
from parity_tests.ports.port import Fault, Port

FAMILIES: dict[str, tuple[Port, ...]] = {
    "perceptrons": perceptrons.PORTS,
    "convolutions": convolutions.PORTS,
    "attention": attentions.PORTS,
    "arguments and results": calls.PORTS,
    "states and modes": states.PORTS,
    "layouts of weights": layouts.PORTS,
    "transformations": transforms.PORTS,
    "float32 islands": islands.PORTS,
    "transformers": hugging_face.PORTS,
    "Linen": linen_ports.PORTS + linen_models.PORTS,
    "Equinox": equinox_ports.PORTS + equinox_models.PORTS,
    "functions": functions.PORTS + function_models.PORTS,
}
FAMILY_OF = {port.name: family for family, ports in FAMILIES.items() for port in ports}
PORTS = {port.name: port for ports in FAMILIES.values() for port in ports}

__all__ = ["FAMILIES", "FAMILY_OF", "PORTS", "Fault", "Port"]
