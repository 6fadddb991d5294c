"""Programs for accelerators, compiled by their own compilers where there is no accelerator.

`targets` describes the accelerators, `compile` compiles for them, `roofline` reads what a compiled
program must cost there, and `plan` says all that of a training run.
"""

from jax_attn.compiling.compile import compile_for
from jax_attn.compiling.targets import TARGETS, Target

__all__ = ["TARGETS", "Target", "compile_for"]
