"""The least time a compiled program can take, kernel by kernel, from its optimised HLO text.

A kernel is what the device runs by itself: a fusion, a copy, a routine of a library. It reads its
operands and writes its results once, in the device's main memory, and it does the matrix products
inside it. So it takes at least

    max(bytes / bandwidth, FLOP / peak)

and the kernels, which run one after another, at least the sum; loops are unrolled. That is a lower
bound but for slices of large operands, which are counted whole: it says where time must go, not how
long a program takes.

Transfers that run beside other kernels (a TPU's into its fast memory) add to the bytes, whose sum
takes its time too, and not to the sum of times. What lies in a fast memory costs nothing.

XLA does not see into a routine that it calls. Of causal attention the products are known all the
same, over the half that is not masked: two of [T T K] forward; backward, with the scores formed
anew, five by cuDNN and seven by the TPU's two kernels. They are kept apart, as `attention_flops`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jax_attn.compiling.hlo import Computation, Instruction, Program
from jax_attn.compiling.targets import Target

FREE = {"parameter", "get-tuple-element", "tuple", "constant", "bitcast", "iota", "after-all"}
FREE_ROUTINES = {"ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound"}  # a TPU's
CUDNN_PRODUCTS = {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 5}
TPU_PRODUCTS = {"flash_mha_bwd_dkv": 4, "flash_mha_bwd_dq": 3, "flash_attention": 2}


@dataclass(frozen=True)
class Rates:
    """What a device can do in a second, at most."""

    bandwidth: float  # bytes
    products: dict[str, float]  # FLOP, by precision: "bfloat16", "float32", "highest"

    @classmethod
    def of(cls, target: Target) -> Rates:
        products = {
            "bfloat16": target.bfloat16_flops,
            "float32": target.float32_flops,
            "highest": target.highest_flops,
        }
        return cls(target.bandwidth, products)

    def seconds(self, n_bytes: int, flops: dict[str, int]) -> float:
        multiplying = sum(work / self.products[precision] for precision, work in flops.items())
        return max(n_bytes / self.bandwidth, multiplying)


@dataclass(frozen=True)
class Kernel:
    name: str
    label: str  # the instruction, or the routine called
    result: str  # its type
    times: int  # how often it runs
    bytes: int  # each time, as are the next two
    flops: dict[str, int]  # of products, by precision
    attention_flops: dict[str, int]
    beside: bool  # a transfer that runs beside other kernels

    def seconds(self, rates: Rates) -> float:
        """All times together, attention's products among them."""
        flops = dict(self.flops)
        for precision, work in self.attention_flops.items():
            flops[precision] = flops.get(precision, 0) + work
        return self.times * rates.seconds(self.bytes, flops)


@dataclass(frozen=True)
class Bound:
    """Of some kernels together."""

    kernels: int
    bytes: int
    flops: int
    attention_flops: int
    seconds: float  # at least, without attention's products
    attention_seconds: float  # that these add

    @classmethod
    def of(cls, kernels: Iterable[Kernel], rates: Rates) -> Bound:
        kernels = list(kernels)
        n_bytes = sum(k.times * k.bytes for k in kernels)
        alone = [k for k in kernels if not k.beside]
        bare = sum(k.times * rates.seconds(k.bytes, k.flops) for k in alone)
        whole = sum(k.seconds(rates) for k in alone)
        moving = n_bytes / rates.bandwidth
        return cls(
            kernels=sum(k.times for k in kernels),
            bytes=n_bytes,
            flops=sum(k.times * sum(k.flops.values()) for k in kernels),
            attention_flops=sum(k.times * sum(k.attention_flops.values()) for k in kernels),
            seconds=max(bare, moving),
            attention_seconds=max(whole, moving) - max(bare, moving),
        )


def kernels(program: Program, name: str, times: int = 1) -> Iterator[Kernel]:
    """Those of a computation, and of the loops in it (once where their turns are not known)."""
    computation = program.computations[name]
    for instruction in computation.values():
        op, rest = instruction.op, instruction.rest
        if op == "while":
            body = instruction.called("body") or ""
            yield from kernels(program, body, times * (program.turns(instruction) or 1))
            continue
        routine = re.search(r'custom_call_target="([^"]+)"', rest)
        label = routine[1] if routine else op
        if op in FREE or op.endswith("-done") or label in FREE_ROUTINES:
            continue
        beside = op.endswith("-start")
        yield Kernel(
            name=instruction.name,
            label=label,
            result=instruction.type,
            times=times,
            bytes=_moved(instruction) if beside else _traffic(computation, instruction),
            flops=program.products(instruction, computation),
            attention_flops=_attention(label, instruction, computation),
            beside=beside,
        )


def step_of(program: Program) -> str:
    """The computation that a program repeats until it is told to stop: one training step, or token.

    It is the largest body of a loop whose turns are not known and in which there is no other such
    loop; without any, the whole program.
    """

    def innermost(name: str) -> Iterator[str]:
        for loop in program.loops(name):
            body = loop.called("body") or ""
            inside = list(innermost(body))
            yield from inside
            if not inside and program.turns(loop) is None:
                yield body

    found = innermost(program.entry)
    return max(found, key=lambda body: len(program.computations[body]), default=program.entry)


def _traffic(computation: Computation, instruction: Instruction) -> int:
    """Bytes of the operands and the results in the main memory."""
    arrays = [*instruction.shapes]
    for operand in computation.operands(instruction):
        arrays += operand.shapes
    return sum(shape.bytes for shape in arrays if shape.memory == 0)


def _moved(transfer: Instruction) -> int:
    """Bytes that a `-start` reads or writes in the main memory.

    Its result holds what is moved, the source and the destination, and a signal.
    """
    arrays = [shape for shape in transfer.shapes if shape.dims]
    moved = min((shape.bytes for shape in arrays), default=0)
    return moved * sum(shape.memory == 0 for shape in arrays)


def _attention(label: str, instruction: Instruction, computation: Computation) -> dict[str, int]:
    """FLOP of the products of causal attention in a routine, half of each square counted."""
    products = CUDNN_PRODUCTS.get(label, 0)
    time_axis = 1  # cuDNN's arrays are [B T H K], the TPU's [B H T K]
    if label == "tpu_custom_call":
        kernel = (n for name, n in TPU_PRODUCTS.items() if name in instruction.rest)
        products, time_axis = next(kernel, 0), 2
    if not products:
        return {}
    query = computation.operands(instruction)[0].shapes[0]
    precision = "bfloat16" if query.dtype in ("bf16", "f16") else "float32"
    return {precision: products * math.prod(query.dims) * query.dims[time_axis]}
