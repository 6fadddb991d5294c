"""Targets, meshes, what is read off a program's text, and the largest batch that fits."""

from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_attn import InputError
from jax_attn.compiling import TARGETS, compile_for
from jax_attn.compiling.compile import compiling, devices
from jax_attn.compiling.hlo import Program
from jax_attn.compiling.memory import Memory, about_the_largest, largest_that_fits
from jax_attn.compiling.roofline import Bound, Rates, kernels, step_of
from jax_attn.config import TargetName
from jax_attn.models.flops import BFLOAT16_PEAK
from jax_attn.nn.flash import accelerator

PROGRAMS = Path(__file__).parent / "programs"
SQUARE = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)


@jax.jit
def product(x, y):
    return jnp.tanh(x @ y)


def test_targets_are_those_that_the_command_line_names():
    assert list(TARGETS) == list(get_args(TargetName))
    for target in TARGETS.values():
        assert target.bfloat16_flops / 1e12 == BFLOAT16_PEAK[target.device_kind]


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_compiles_and_says_what_it_does(name):
    target = TARGETS[name]
    assert devices(target)[0].device_kind == target.device_kind
    compiled = compile_for(target, product, SQUARE, SQUARE)
    assert Memory.of(compiled).arguments == 2 * 256 * 256 * 2
    program = Program.parse(compiled.as_text())
    bound = Bound.of(kernels(program, program.entry), Rates.of(target))
    assert bound.flops == 2 * 256**3


@pytest.mark.parametrize(
    ("name", "topology", "n"),
    [("h100", "1x1x8", 8), ("h100", "1x2x8", 16), ("tpu-v5e", "v5e:2x2", 4)],
)
def test_a_mesh_of_many(name, topology, n):
    target = TARGETS[name]
    mesh = Mesh(np.array(devices(target, topology)), ("data",))
    rows = jax.ShapeDtypeStruct(
        (16 * n, 128), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    weights = jax.ShapeDtypeStruct((128, 128), jnp.float32)  # on all of them

    compiled = compile_for(target, jax.jit(lambda x, w: (x @ w).sum(axis=0)), rows, weights)
    assert "all-reduce" in compiled.as_text()
    assert Memory.of(compiled).arguments == 4 * (16 * 128 + 128 * 128)  # of one device


def test_unknown_topologies_are_one_line():
    with pytest.raises(InputError, match="tpu-v5e has no topology 'v5e:3x1'") as caught:
        devices(TARGETS["tpu-v5e"], "v5e:3x1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["h100", "tpu-v6e"])
def test_a_missing_compiler_is_one_line_that_names_the_extra(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    target = TARGETS[name]
    extra = "compile-cuda" if target.chip else "compile-tpu"
    with pytest.raises(InputError, match=rf'pip install "jax-attn\[{extra}\]"'):
        devices(target, "1x1x3" if target.chip else "v6e:2x4")


def test_the_target_is_forgotten_afterwards():
    before = jax.config.jax_enable_compilation_cache
    with compiling(TARGETS["h100"]):
        assert accelerator().compute_capability == 9.0
        assert not jax.config.jax_enable_compilation_cache
    assert accelerator() is None
    assert jax.config.jax_enable_compilation_cache == before


# Two turns of the inner loop; cuBLAS, cuDNN and a fused product in the outer one.
CUDA = (PROGRAMS / "cuda.hlo").read_text(encoding="utf-8")
RATES = Rates(bandwidth=1e3, products={"bfloat16": 1e4, "float32": 1e3, "highest": 1e2})


def test_a_gpu_program_kernel_by_kernel():
    program = Program.parse(CUDA)
    assert step_of(program) == "step"
    found = {kernel.name: kernel for kernel in kernels(program, "step")}
    sizes = {name: (k.times, k.bytes) for name, k in found.items()}
    assert sizes == {
        "f": (2, 3 * 256),
        "g": (1, 4096 + 1024 + 4096),
        "c": (1, 2 * 8192 + 16384 + 100),
        "o": (1, 4 * 2048),
    }
    assert found["g"].flops == {"bfloat16": 2 * 64 * 32 * 16}
    assert found["c"].flops == {"highest": 2 * 64 * 64 * 32}
    # Two products of [8 8 16] for 2 · 4 heads, two operations each, half of them masked.
    assert found["o"].attention_flops == {"bfloat16": 2 * 2 * (2 * 4 * 8 * 8 * 16) // 2}

    bound = Bound.of(found.values(), RATES)
    assert bound.kernels == 5
    assert bound.bytes == 1536 + 9216 + 32868 + 8192
    assert bound.seconds == pytest.approx(1.536 + 9.216 + 262144 / 100 + 8.192)
    assert bound.attention_seconds == 0  # less than its bytes take


# A batch of two products as a TPU's compiler writes it, and transfers beside them.
TPU = (PROGRAMS / "tpu.hlo").read_text(encoding="utf-8")


def test_a_tpu_program_kernel_by_kernel():
    program = Program.parse(TPU)
    assert step_of(program) == "main"  # its only loop has known turns
    found = {kernel.name: kernel for kernel in kernels(program, "main")}
    assert {name: (k.times, k.bytes, k.beside) for name, k in found.items()} == {
        "start": (3, 512, True),  # read; written into the fast memory
        "f": (3, 256 + 128, False),  # what lies there is free
    }
    # Of the window's two places each output meets one element: the other falls between two.
    assert found["f"].flops == {"bfloat16": 2 * (2 * 8 * 4 * 16)}

    bound = Bound.of(found.values(), RATES)
    assert bound.seconds == pytest.approx(3 * (512 + 384) / 1e3)  # of all bytes: the sum is less


@pytest.mark.parametrize("text", ["", "HloModule m\n"])
def test_no_program(text):
    with pytest.raises(ValueError, match="no ENTRY"):
        Program.parse(text)


@pytest.mark.parametrize(
    ("need", "first", "largest"),
    [
        (lambda n: 50 + 10 * n, 8, 88),  # 95 would do, but not as a multiple of 8
        (lambda n: 50 + 10 * n, 512, 88),  # from above
        (lambda n: 50 + 100 * n, 1, 9),
        (lambda n: None if n > 90 else 50 + 10 * n, 512, 88),  # a compiler that gives up
        (lambda n: 50 + 10 * n + 100 * (n > 40), 8, 80),  # a step in the line
        (lambda n: 900 * n, 1, 1),
        (lambda n: 2000 + n, 4, None),
        (lambda n: 1, 2, 128),  # 64 times as many
    ],
)
def test_the_largest_batch_takes_few_compilations(need, first, largest):
    calls = []

    def counted(n):
        calls.append(n)
        return need(n)

    found = largest_that_fits(counted, first, need(first), 1000)
    assert found == (None if largest is None else (largest, need(largest)))
    assert len(calls) <= 5


@pytest.mark.parametrize(
    ("need", "first", "largest"),
    [
        (lambda n: 50 + 10 * n, 8, (88, 930)),
        (lambda n: 50 + 100 * n, 1, (9, 950)),
        (lambda n: None if n > 90 else 50 + 10 * n, 50, (50, 550)),
        (lambda n: 50 + 18 * n, 50, (50, 950)),  # where the next multiple of 8 is below
        (lambda n: 1, 2, (128, 1)),  # 64 times as many
    ],
)
def test_the_largest_batch_by_one_more_compilation(need, first, largest):
    calls = []

    def counted(n):
        calls.append(n)
        return need(n)

    assert about_the_largest(counted, first, need(first), 1000) == largest
    assert calls == [2 * first]
