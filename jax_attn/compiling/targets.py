"""Accelerators by name: what they can do, and what their compilers must know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jax_attn.config import TargetName

GPU_FRACTION = 0.75  # of a GPU's memory JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says more
CUDNN = (9, 12, 0)  # the oldest that jax's own `cuda` packages bring
GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """What XLA's GPU compiler must know of a GPU beyond its memory."""

    capability: tuple[int, int]  # compute capability
    cores: int  # streaming multiprocessors
    lanes: int  # float32 units of a core
    shared_memory: int  # bytes of a core
    l2_cache: int  # bytes
    clock: float  # GHz, at most


@dataclass(frozen=True)
class Target:
    """One accelerator. Rates are the maker's, dense: no program reaches them."""

    name: TargetName
    platform: Literal["cuda", "tpu"]
    device_kind: str  # as `jax.Device.device_kind` has it
    bfloat16_flops: float  # products of bfloat16, FLOP/s
    float32_flops: float  # products of float32 at JAX's default precision
    highest_flops: float  # products of float32 at the highest precision
    bandwidth: float  # of its memory, bytes/s
    memory: int  # bytes
    topology: str  # of one device
    chip: Chip | None = None  # of a GPU

    @property
    def usable_memory(self) -> int:
        """Bytes that JAX's programs can have there by default, their arrays among them."""
        return int(GPU_FRACTION * self.memory) if self.chip else self.memory


def _tpu(
    name: TargetName, device_kind: str, *, flops: float, bandwidth: float, gib: float, topology: str
) -> Target:
    """A float32 product is one bfloat16 product there, or at the highest precision six."""
    memory = int(gib * GIB)
    return Target(
        name, "tpu", device_kind, flops, flops, flops / 6, bandwidth, memory, topology=topology
    )


# NVIDIA's white papers of the two architectures, and the CUDA programming guide's table.
AMPERE = Chip((8, 0), 108, 64, 164 << 10, 40 << 20, 1.41)
HOPPER = Chip((9, 0), 132, 128, 228 << 10, 50 << 20, 1.98)

# GPUs: NVIDIA's data sheets of the SXM boards (half of "with sparsity", TF32 for float32), memory
# as CUDA reports it. TPUs: cloud.google.com/tpu/docs, a page for each; memory as the compiler says
# that it is available.
TARGETS: dict[TargetName, Target] = {
    target.name: target
    for target in (
        Target(
            name="h100",
            platform="cuda",
            device_kind="NVIDIA H100 80GB HBM3",
            bfloat16_flops=989.4e12,
            float32_flops=494.7e12,
            highest_flops=66.9e12,
            bandwidth=3.35e12,
            memory=84_942_979_072,
            topology="1x1x1",
            chip=HOPPER,
        ),
        Target(
            name="h200",
            platform="cuda",
            device_kind="NVIDIA H200",
            bfloat16_flops=989.4e12,
            float32_flops=494.7e12,
            highest_flops=66.9e12,
            bandwidth=4.8e12,
            memory=150_110_011_392,
            topology="1x1x1",
            chip=HOPPER,
        ),
        Target(
            name="a100",
            platform="cuda",
            device_kind="NVIDIA A100-SXM4-80GB",
            bfloat16_flops=312e12,
            float32_flops=156e12,
            highest_flops=19.5e12,
            bandwidth=2.039e12,
            memory=84_987_740_160,
            topology="1x1x1",
            chip=AMPERE,
        ),
        _tpu(
            "tpu-v5e",
            "TPU v5 lite",
            flops=197e12,
            bandwidth=0.819e12,
            gib=15.75,
            topology="v5e:1x1",
        ),
        _tpu(
            "tpu-v5p", "TPU v5", flops=459e12, bandwidth=2.765e12, gib=95.74, topology="v5p:1x1x1"
        ),
        _tpu(
            "tpu-v6e", "TPU v6 lite", flops=918e12, bandwidth=1.64e12, gib=31.25, topology="v6e:1x1"
        ),
    )
}
