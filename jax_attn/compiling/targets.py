"""Accelerators by name, and compiling for one on a machine that has none.

XLA's GPU compiler takes a description of the GPU, the TPU's compiler a name; neither asks for a
device. The compiled programs cannot be run here, but they are those that would run there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax._src.cudnn import fused_attention_stablehlo as cudnn  # asks a device what it can do
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jax_attn.errors import InputError
from jax_attn.flash import Accelerator, compiling_for

CUDNN = (9, 12, 0)  # the oldest that jax's own `cuda` packages bring
TERA, GIB = 1e12, 1 << 30

# libtpu looks for the machine's TPUs, and waits for a metadata server, unless told where it is.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclass(frozen=True)
class Chip:
    """What XLA's GPU compiler must know of a GPU beyond its memory."""

    capability: tuple[int, int]  # compute capability
    cores: int  # streaming multiprocessors
    lanes: int  # float32 units of a core
    shared_memory: int  # bytes of a core
    l2_cache: int  # bytes
    clock: float  # GHz, at most


# NVIDIA's white papers of the two architectures, and the CUDA programming guide's table.
AMPERE = Chip((8, 0), 108, 64, 164 << 10, 40 << 20, 1.41)
HOPPER = Chip((9, 0), 132, 128, 228 << 10, 50 << 20, 1.98)


@dataclass(frozen=True)
class Target:
    """One accelerator: its rates from the maker's data sheet, dense, not what a program reaches."""

    name: str
    platform: Literal["cuda", "tpu"]
    device_kind: str  # as `jax.Device.device_kind` has it
    bfloat16_flops: float  # products of bfloat16, FLOP/s
    float32_flops: float  # products of float32 at JAX's default precision: TF32, bfloat16 on a TPU
    highest_flops: float  # products of float32 at the highest precision
    bandwidth: float  # of its memory, bytes/s
    memory: int  # bytes that programs can have in all
    topology: str  # of one device
    chip: Chip | None = None  # of a GPU

    def devices(self, topology: str | None = None) -> list[jax.Device]:
        """Devices to compile for, of one or of `topology`: "1x1x8" is a host of eight GPUs and
        "1x2x8" two of them, "v5e:4x4" sixteen TPUs.

        Raises InputError where the compiler is not installed, or knows no such topology.
        """
        return _devices(self, topology or self.topology)

    def place(self, tree: Any) -> Any:
        """Shapes on one of these devices, in the place of the arrays or shapes of a tree.

        Shapes that have a sharding keep it, and if that is of a mesh, the others are on all of it.
        """
        shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree)]
        meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding)]
        if meshes:
            default = NamedSharding(meshes[0], PartitionSpec())
        else:
            default = SingleDeviceSharding(self.devices()[0])

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            given = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
            aval = jax.typeof(leaf)
            return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=given or default)

        return jax.tree.map(placed, tree)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Inside, whatever is traced and compiled is what this target's own machine would compile.

        All that `flash` and JAX would ask a device is answered here.
        """
        device, answers = Accelerator("tpu"), {}
        if self.chip:
            capability = self.chip.capability
            device = Accelerator("cuda", float("{}.{}".format(*capability)))
            answers = _of_cudnn(capability)
        before = {name: getattr(cudnn, name) for name in answers}
        try:
            for name, answer in answers.items():
                setattr(cudnn, name, answer)
            with compiling_for(device), _kept_nowhere():
                yield
        finally:
            for name, answer in before.items():
                setattr(cudnn, name, answer)


@contextlib.contextmanager
def _kept_nowhere() -> Iterator[None]:
    """JAX would keep the programs from run to run, and cannot read them back without the device."""
    enabled = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # it looks at its settings once
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _of_cudnn(capability: tuple[int, int]) -> dict[str, Callable[..., Any]]:
    """What JAX asks before it takes cuDNN's attention."""

    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("."))

    major, minor, patch = CUDNN
    return {
        "check_cudnn_version": lambda: 10_000 * major + 100 * minor + patch,
        "check_compute_capability": lambda least: capability >= numbers(least),
        "is_cuda_compute_capability_equal": lambda exactly: capability == numbers(exactly),
    }


def _gpu(name: str, kind: str, chip: Chip, *rates: float, memory: int) -> Target:
    return Target(name, "cuda", kind, *rates, memory, "1x1x1", chip)


def _tpu(name: str, kind: str, flops: float, bandwidth: float, memory: int, one: str) -> Target:
    # A float32 product is one bfloat16 product, or at the highest precision six of them.
    return Target(name, "tpu", kind, flops, flops, flops / 6, bandwidth, memory, one)


# GPUs: NVIDIA's data sheets of the SXM boards (half of "with sparsity"), memory as CUDA reports it.
# TPUs: cloud.google.com/tpu/docs, a page for each.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _gpu(
            *("h100", "NVIDIA H100 80GB HBM3", HOPPER),
            *(989.4 * TERA, 494.7 * TERA, 66.9 * TERA, 3.35 * TERA),
            memory=84_942_979_072,
        ),
        _gpu(
            *("h200", "NVIDIA H200", HOPPER),
            *(989.4 * TERA, 494.7 * TERA, 66.9 * TERA, 4.8 * TERA),
            memory=150_110_011_392,
        ),
        _gpu(
            *("a100", "NVIDIA A100-SXM4-80GB", AMPERE),
            *(312 * TERA, 156 * TERA, 19.5 * TERA, 2.039 * TERA),
            memory=84_987_740_160,
        ),
        _tpu("tpu-v5e", "TPU v5 lite", 197 * TERA, 0.819 * TERA, 16 * GIB, "v5e:1x1"),
        _tpu("tpu-v5p", "TPU v5", 459 * TERA, 2.765 * TERA, 95 * GIB, "v5p:1x1x1"),
        _tpu("tpu-v6e", "TPU v6 lite", 918 * TERA, 1.64 * TERA, 32 * GIB, "v6e:1x1"),
    )
}


def compile_for(
    target: Target, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> jax.stages.Compiled:
    """`function`, jitted or of `compiler.compiled`, for arguments of these shapes on `target`.

    Arrays may be shapes; those with a sharding over a mesh of `target.devices(topology)` are
    compiled for that mesh.
    """
    with target.compiling():
        args, kwargs = (_place_arrays(target, part) for part in (args, kwargs))
        return function.lower(*args, **kwargs).compile()


def _place_arrays(target: Target, tree: Any) -> Any:
    """`Target.place` for what has a shape; the rest are static arguments."""
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")]
    for i, leaf in zip(places, target.place([leaves[i] for i in places]), strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


@functools.cache
def _devices(target: Target, topology: str) -> list[jax.Device]:
    if target.chip:
        _require("compile-cuda", "jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
        options: dict[str, Any] = {"target_config": _description(target), "topology": topology}
        topology = target.name
    else:
        _require("compile-tpu", "libtpu")
        for name, value in TPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        one = topology == target.topology
        options = {"chips_per_host_bounds": [1, 1, 1]} if one else {}
    try:
        description = topologies.get_topology_desc(topology, target.platform, **options)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"{target.name} has no topology {options.get('topology', topology)!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return description.devices


def _require(extra: str, *modules: str) -> None:
    """Raises InputError unless one of the modules is installed."""
    for module in modules:
        with contextlib.suppress(ModuleNotFoundError):  # of the package that it would be in
            if importlib.util.find_spec(module):
                return
    raise InputError(
        f'the compiler is not installed; pip install "jax-attn[{extra}]" brings it, '
        "and needs no device"
    )


def _description(target: Target) -> str:
    """A `GpuTargetConfigProto` in text."""
    chip = target.chip
    assert chip is not None
    major, minor = chip.capability
    # The instructions of a Hopper GPU that later ones do not have.
    feature = " feature_extension: ACCELERATED_FEATURES" if major == 9 else ""
    cudnn = "major: {} minor: {} patch: {}".format(*CUDNN)
    return f"""
gpu_device_info {{
  name: "{target.device_kind}"
  cuda_compute_capability {{ major: {major} minor: {minor}{feature} }}
  core_count: {chip.cores}
  fpus_per_core: {chip.lanes}
  clock_rate_ghz: {chip.clock}
  device_memory_size: {target.memory}
  memory_bandwidth: {target.bandwidth:.0f}
  l2_cache_size: {chip.l2_cache}
  shared_memory_per_core: {chip.shared_memory}
  shared_memory_per_block: {48 << 10}
  shared_memory_per_block_optin: {chip.shared_memory - (1 << 10)}
  registers_per_core_limit: {1 << 16}
  registers_per_block_limit: {1 << 16}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: {(1 << 31) - 1}
  block_dim_limit_y: {(1 << 16) - 1}
  block_dim_limit_z: {(1 << 16) - 1}
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "{".".join(map(str, CUDNN))}"
}}
platform_name: "CUDA"
dnn_version_info {{ {cudnn} }}
device_description_str: "{target.device_kind}"
"""
