"""Programs for accelerators, compiled by their own compilers where there is no accelerator.

`targets` describes the accelerators and compiles for them, `roofline` reads what a compiled program
must cost there, and `plan` says both of a training run.
"""

from jax_attn.compiling.targets import TARGETS, Target, compile_for

__all__ = ["TARGETS", "Target", "compile_for"]
