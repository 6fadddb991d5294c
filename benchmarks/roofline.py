"""What the machine can do at most: matrix products and memory, measured in a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.interleave import Side

SIZE = 2048  # of the square matrices
BYTES = 1 << 28  # read and written
REPEATS = 7


@dataclass(frozen=True)
class Roofline:
    device: str
    gflops: float  # 10^9 floating-point operations a second, float32 products
    gigabytes: float  # 10^9 bytes read and written a second


class Probe:
    units = 1

    def result(self) -> np.ndarray:
        import jax
        import jax.numpy as jnp

        from jax_attn.compiling.options import compiler_options

        x = jnp.ones((SIZE, SIZE))
        product = jax.jit(jnp.matmul, compiler_options=compiler_options())
        # In place: memory that is new to the process costs more to get than to write.
        add = jax.jit(lambda x: x + 1, donate_argnums=0)
        best = {}
        works = {"product": (lambda _: product(x, x), x), "add": (add, jnp.ones(BYTES // 4))}
        for name, (work, value) in works.items():
            value = work(value).block_until_ready()
            times = []
            for _ in range(REPEATS):
                begun = time.perf_counter()
                value = work(value).block_until_ready()
                times.append(time.perf_counter() - begun)
            best[name] = min(times)
        figures = [2 * SIZE**3 / best["product"] / 1e9, 2 * BYTES / best["add"] / 1e9]
        return np.array([*figures, jax.devices()[0].device_kind], object)

    def run(self) -> None:
        self.result()


def measure_roofline() -> Roofline:
    side = Side("roofline", Probe)
    try:
        gflops, gigabytes, device = side.ask("result")
    finally:
        side.close()
    return Roofline(device, gflops, gigabytes)
