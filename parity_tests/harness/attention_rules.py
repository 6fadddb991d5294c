"""torch's MultiheadAttention: packed or separate projections, to the three of a JAX attention."""

from torch import nn

from parity_tests.harness.maps import Axes, Map, as_map, chain, heads, split
from parity_tests.harness.rules import Rule
from parity_tests.harness.target import NoCounterpart, Target, under

NAMES = ("query", "key", "value")


def attention_rules(
    module: nn.MultiheadAttention, target: Target, reference: str, port: str
) -> list[Rule]:
    """To nnx.MultiHeadAttention, Linen's MultiHeadDotProductAttention, Equinox's own."""
    _refuse(module, target)
    n, k = module.num_heads, module.head_dim
    if target == "equinox":
        weight, into, out = "weight", as_map(None), as_map(None)
        suffix = "_proj"
        last = "output_proj"
    else:
        weight, into, out = "kernel", heads(n, k), heads(n, k, axis=1)
        suffix, last = "", "out"
    rules = []
    for of_torch, of_jax in (("weight", weight), ("bias", "bias")):
        targets = tuple(under(port, f"{name}{suffix}.{of_jax}") for name in NAMES)
        packed = getattr(module, f"in_proj_{of_torch}")
        if packed is not None:
            rules.append(
                Rule(under(reference, f"in_proj_{of_torch}"), targets, chain(split(3), into))
            )
        elif of_torch == "weight":  # torch packs them unless key or value have another size
            rules += [
                Rule(under(reference, f"{name[0]}_proj_weight"), to, into)
                for name, to in zip(NAMES, targets, strict=True)
            ]
        if getattr(module.out_proj, of_torch) is not None:
            step: Map | Axes | None = out if of_torch == "weight" else None
            ours = under(reference, f"out_proj.{of_torch}")
            rules.append(Rule(ours, under(port, f"{last}.{of_jax}"), step))
    return rules


def _refuse(module: nn.MultiheadAttention, target: Target) -> None:
    if module.bias_k is not None or module.bias_v is not None:
        raise NoCounterpart(
            "add_bias_kv puts a learnt key and value after the others, which no JAX attention "
            "holds: append them in the port's own attention, with rules for bias_k and bias_v"
        )
    if module.add_zero_attn:
        raise NoCounterpart(
            "add_zero_attn puts a key and value of zeros after the others, which no JAX attention "
            "does: append them in the port's own attention"
        )
    if target == "nnx" and module.kdim != module.vdim:
        raise NoCounterpart(
            f"nnx.MultiHeadAttention takes keys and values of one size, in_kv_features, and these "
            f"are {module.kdim} and {module.vdim}: use three nnx.LinearGeneral in their place"
        )
