"""Optimised HLO, as `jax.stages.Compiled.as_text` gives it: instructions and matrix products."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4} | {
    "s32": 4,
    "u32": 4,
    "f64": 8,
    "s64": 8,
    "u64": 8,
}
SHAPE = re.compile(rf"\b({'|'.join(SIZES)})\[([0-9,]*)\](?:\{{([^}}]*)\}})?")
HEAD = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
LINE = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
NAME = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Shape:
    dtype: str
    dims: tuple[int, ...]
    memory: int  # 0 is the device's main one

    @property
    def bytes(self) -> int:
        return SIZES[self.dtype] * math.prod(self.dims)


@functools.lru_cache(1 << 16)
def shapes(text: str) -> tuple[Shape, ...]:
    """All arrays of a type, those of a tuple one by one."""
    found = []
    for dtype, dims, layout in SHAPE.findall(text):
        memory = re.search(r"S\((\d+)\)", layout)
        found.append(Shape(dtype, _numbers(dims), int(memory[1]) if memory else 0))
    return tuple(found)


@dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    op: str
    rest: str  # from the operands on

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return shapes(self.type)

    def called(self, as_what: str) -> str | None:
        """The computation that this one calls, say `as_what` "body" or "calls"."""
        found = re.search(rf"\b{as_what}=%([\w.\-]+)", self.rest)
        return found and found[1]


class Computation(dict[str, Instruction]):
    """Instructions by name, in their order."""

    def operands(self, instruction: Instruction) -> list[Instruction]:
        names = NAME.findall(instruction.rest.split("), ")[0])
        return [self[name] for name in names if name in self]


@dataclass(frozen=True)
class Program:
    computations: dict[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str) -> Program:
        """Raises ValueError where there is no entry."""
        computations: dict[str, Computation] = {}
        entry, current = None, Computation()
        for line in text.splitlines():
            if head := HEAD.match(line):
                current = computations[head[2]] = Computation()
                entry = head[2] if head[1] else entry
            elif found := LINE.match(line):
                current[found[1]] = Instruction(*found.groups())
        if entry is None:
            raise ValueError("the text is no HLO program: it has no ENTRY")
        return cls(computations, entry)

    def loops(self, name: str) -> Iterator[Instruction]:
        """The `while`s of a computation, not those inside them."""
        return (i for i in self.computations[name].values() if i.op == "while")

    def turns(self, loop: Instruction) -> int | None:
        """How often a loop runs; None where that is not known before it does."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self.computations[loop.called("condition") or ""]
        for instruction in condition.values():
            if instruction.op == "compare" and "direction=LT" in instruction.rest:
                limit = condition.operands(instruction)[-1]
                if limit.op == "constant":  # counted from 0, as all of ours are
                    return int(limit.rest.split(")")[0])
        return None

    def products(self, instruction: Instruction, within: Computation) -> dict[str, int]:
        """FLOP of the matrix products in an instruction and in what it calls, by precision."""
        flops: dict[str, int] = {}
        if instruction.op in ("dot", "convolution", "custom-call"):
            operands = within.operands(instruction)
            work = _PRODUCTS[instruction.op](instruction, *(o.shapes for o in operands[:2]))
            if work:
                flops[_precision(instruction, operands[0].shapes[0])] = work
        inside = self.computations.get(instruction.called("calls") or "", Computation())
        for inner in inside.values():
            for precision, work in self.products(inner, inside).items():
                flops[precision] = flops.get(precision, 0) + work
        return flops


def _precision(instruction: Instruction, operand: Shape) -> str:
    """What decides a product's rate: "bfloat16" stands for all types of two bytes or fewer."""
    if SIZES[operand.dtype] <= 2:
        return "bfloat16"
    asked = re.search(r'operand_precision"?[=:][{\[]"?(\w+)', instruction.rest)
    return "highest" if asked and asked[1].lower() == "highest" else "float32"


def _dot(instruction: Instruction, left: tuple[Shape, ...], *_: object) -> int:
    found = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", instruction.rest)
    contracted = math.prod(left[0].dims[i] for i in _numbers(found[1])) if found else 1
    return 2 * math.prod(instruction.shapes[0].dims) * contracted


def _cublas(instruction: Instruction, *operands: tuple[Shape, ...]) -> int:
    """Of cuBLAS's matrix products; other routines are not seen into."""
    target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
    found = re.search(r'lhs_contracting_dimensions":\[([^\]]*)\]', instruction.rest)
    if not (target and found and ("cublas" in target[1] or "gemm" in target[1])):
        return 0
    contracted = math.prod(operands[0][0].dims[int(i)] for i in re.findall(r"\d+", found[1]))
    return 2 * math.prod(instruction.shapes[0].dims) * contracted


def _convolution(
    instruction: Instruction, left: tuple[Shape, ...], right: tuple[Shape, ...]
) -> int:
    """As which a TPU's compiler writes products: batches may be places of a window."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    assert labels is not None, instruction
    inputs, kernel, outputs = labels.groups()
    out, window = instruction.shapes[0].dims, right[0].dims
    flops = 2 * out[outputs.index("b")] * out[outputs.index("f")] * window[kernel.index("i")]
    places = re.search(r"window=\{([^}]*)\}", instruction.rest)
    settings = dict(pair.split("=") for pair in places[1].split()) if places else {}
    for axis in range(len(inputs) - 2):

        def setting(name: str, default: str, axis: int = axis) -> list[int]:
            values = settings[name].split("x") if name in settings else [default] * (axis + 1)
            return [int(x) for x in values[axis].split("_")]

        flops *= _pairs(
            size=left[0].dims[inputs.index(str(axis))],
            window=window[kernel.index(str(axis))],
            out=out[outputs.index(str(axis))],
            stride=setting("stride", "1")[0],
            pad=setting("pad", "0_0")[0],
            spread=setting("lhs_dilate", "1")[0],
            reach=setting("rhs_dilate", "1")[0],
        )
    return flops


def _pairs(
    *, size: int, window: int, out: int, stride: int, pad: int, spread: int, reach: int
) -> int:
    """Of a place of the output and one of the window: those that meet an element of the input."""
    last = (size - 1) * spread
    places = (o * stride + w * reach - pad for o in range(out) for w in range(window))
    return sum(0 <= place <= last and place % spread == 0 for place in places)


_PRODUCTS = {"dot": _dot, "convolution": _convolution, "custom-call": _cublas}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
