"""What the device can do at most, and what importing this package costs there."""

from __future__ import annotations

import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from benchmarks.device.record import Record
from benchmarks.device.runner import STOP
from benchmarks.device.sizes import REHEARSAL, Sizes
from benchmarks.device.timing import loop, timed


def measure(record: Record, sizes: Sizes) -> None:
    device = jax.devices()[0]
    if device.platform == "cpu" and sizes is not REHEARSAL:
        print("there is no accelerator here; --rehearse is for a CPU", flush=True)
        sys.exit(STOP)
    record.device = device.device_kind
    memory = (device.memory_stats() or {}).get("bytes_limit")
    record.add(
        "device",
        device.platform,
        version=device.client.platform_version,
        count=jax.device_count(),
        bytes_limit=memory,
        compute_capability=getattr(device, "compute_capability", None),
    )
    n = sizes.product
    # Random numbers: a product of zeros draws less power, and is faster than any real one.
    keys = jax.random.split(jax.random.key(0), 2)
    x, y = (jax.random.normal(key, (n, n), jnp.bfloat16) for key in keys)
    product = loop(lambda x, y: x @ y, sizes.repeats).lower(x, y).compile()
    seconds, low, high, _ = timed(product, (x, y), sizes)
    flops = 2 * n**3
    record.add(
        "bfloat16 product",
        flops / seconds / 1e12,
        "TFLOP/s",
        n=n,
        low=flops / high / 1e12,
        high=flops / low / 1e12,
    )
    x = jax.random.normal(keys[0], (sizes.copied_bytes // 4,))
    copy = loop(lambda x: -x, sizes.repeats).lower(x).compile()
    seconds, low, high, _ = timed(copy, (x,), sizes)
    moved = 2 * x.nbytes / 1e9
    record.add("copy", moved / seconds, "GB/s", bytes=x.nbytes, low=moved / high, high=moved / low)
    for package in ("jax", "jax_attn", "jax_attn"):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {package}"], check=True)
        record.add(f"import {package}", time.perf_counter() - begun, "s")
