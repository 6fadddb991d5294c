"""Model FLOP utilisation: the arithmetic a model needs over what the device could do.

Convention (PaLM, nanoGPT): 6 FLOP for each parameter and token, forward and backward together, the
position table left out; and 12 L C T for the products of attention, the masked half counted too.
What a program computes twice, to save memory, is not counted twice.
"""

from __future__ import annotations

import jax

from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel, count_parameters

# Dense bfloat16 products with float32 sums, 10^12 FLOP/s, from the makers' data sheets. A device
# that is not here gets no figure: a wrong peak is worse than none.
BFLOAT16_PEAK = {
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H200": 989.4,
    "NVIDIA L4": 121.0,
    "NVIDIA L40S": 362.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
}


def flops_per_token(model: LanguageModel) -> float:
    """Forward and backward, averaged over a full context."""
    n_parameters = count_parameters(model)
    if not isinstance(model, GPT):
        return 6.0 * n_parameters
    c = model.config
    positions = c.block_size * c.n_embd
    return 6.0 * (n_parameters - positions) + 12.0 * c.n_layer * c.n_embd * c.block_size


def utilisation(model: LanguageModel, tokens_per_second: float, dtype: str) -> float | None:
    """MFU as a fraction of one device's peak; None where the peak is not known for sure."""
    peak = BFLOAT16_PEAK.get(jax.devices()[0].device_kind)
    if peak is None or dtype != "bfloat16":
        return None
    return tokens_per_second * flops_per_token(model) / (peak * 1e12)
