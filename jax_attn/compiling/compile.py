"""Compiling for an accelerator on a machine that has none.

XLA's GPU compiler takes a description of the GPU, the TPU's compiler a name; neither asks for a
device. The compiled programs cannot be run here, but they are those that would run there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src.cudnn import fused_attention_stablehlo as cudnn  # asks a device what it can do
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jax_attn.compiling.targets import CUDNN, Target
from jax_attn.errors import InputError
from jax_attn.nn.flash import Accelerator, compiling_for

# libtpu looks for the machine's TPUs, and waits for a metadata server, unless told where it is.
TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is taken, so none need be kept from others
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


def compile_for(target: Target, function: Any, *args: Any, **kwargs: Any) -> jax.stages.Compiled:
    """`function`, jitted or of `compiler.compiled`, for arguments of these shapes on `target`.

    Arrays may be shapes; where one has a sharding over a mesh of `devices(target, topology)`, the
    program is for that mesh.
    """
    with compiling(target):
        args, kwargs = place(target, (args, kwargs))
        return function.lower(*args, **kwargs).compile()


def devices(target: Target, topology: str | None = None) -> list[Any]:
    """Devices to compile for: one, or those of a `topology`.

    "1x1x8" is a host of eight GPUs and "1x2x8" two of them, "v5e:4x4" sixteen TPUs. Raises
    InputError where the compiler is not installed, or knows no such topology.
    """
    return _devices(target, topology or target.topology)


def place(target: Target, tree: Any) -> Any:
    """A tree whose arrays and shapes are shapes on one device of `target`; the rest stays.

    Shapes that have a sharding keep it, and if that is of a mesh, the others are on all of it.
    """
    leaves = jax.tree.leaves(tree)
    given = [leaf.sharding for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]
    meshes = [sharding.mesh for sharding in given if isinstance(sharding, NamedSharding)]
    if meshes:
        default = NamedSharding(meshes[0], PartitionSpec())
    else:
        default = SingleDeviceSharding(devices(target)[0])

    def placed(leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        sharding = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding or default)

    return jax.tree.map(placed, tree)


def accelerator_of(target: Target) -> Accelerator:
    """What the choice of a kernel depends on."""
    if target.chip is None:
        return Accelerator("tpu")
    return Accelerator("cuda", float("{}.{}".format(*target.chip.capability)))


@contextlib.contextmanager
def compiling(target: Target) -> Iterator[None]:
    """Inside, whatever is traced and compiled is what the target's own machine would compile.

    All that `flash` and JAX would ask a device is answered here.
    """
    answers = _of_cudnn(target.chip.capability) if target.chip else {}
    before = {name: getattr(cudnn, name) for name in answers}
    try:
        for name, answer in answers.items():
            setattr(cudnn, name, answer)
        with compiling_for(accelerator_of(target)), _kept_nowhere():
            yield
    finally:
        for name, answer in before.items():
            setattr(cudnn, name, answer)


@contextlib.contextmanager
def _kept_nowhere() -> Iterator[None]:
    """JAX would keep the programs from run to run, and cannot read them back without the device."""
    settings: Any = jax.config
    enabled = settings.jax_enable_compilation_cache
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


@functools.cache
def _devices(target: Target, topology: str) -> list[Any]:
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
