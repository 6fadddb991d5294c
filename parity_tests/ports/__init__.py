"""Other people's layers: correct ports, which the harness must not accuse, and faults to plant.

Each file is a family. Sizes differ and are even where that matters; inputs reach masks and windows.
"""

from parity_tests.ports import (
    attentions,
    boxes,
    caches,
    calls,
    convolutions,
    equinox_attention,
    equinox_models,
    equinox_ports,
    function_models,
    functions,
    gpt2,
    images,
    islands,
    layouts,
    linen_models,
    linen_ports,
    linen_transforms,
    llama,
    masks,
    norms,
    perceptrons,
    rotary,
    sequences,
    states,
    transforms,
)
from parity_tests.ports.port import Fault, Port

FAMILIES: dict[str, tuple[Port, ...]] = {
    "perceptrons, norms": perceptrons.PORTS + norms.PORTS,
    "convolutions": convolutions.PORTS + images.PORTS + sequences.PORTS,
    "attention": attentions.PORTS + rotary.PORTS,
    "arguments": calls.PORTS + masks.PORTS,
    "output objects": boxes.PORTS,
    "states and modes": states.PORTS + caches.PORTS,
    "layouts of weights": layouts.PORTS,
    "transformations": transforms.PORTS,
    "float32 islands": islands.PORTS,
    "transformers": gpt2.PORTS + llama.PORTS,
    "Linen": linen_ports.PORTS + linen_transforms.PORTS + linen_models.PORTS,
    "Equinox": equinox_ports.PORTS + equinox_models.PORTS + equinox_attention.PORTS,
    "functions": functions.PORTS + function_models.PORTS,
}
FAMILY_OF = {port.name: family for family, ports in FAMILIES.items() for port in ports}
PORTS = {port.name: port for ports in FAMILIES.values() for port in ports}

__all__ = ["FAMILIES", "FAMILY_OF", "PORTS", "Fault", "Port"]
