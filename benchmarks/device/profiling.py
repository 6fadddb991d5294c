"""Where a step of GPT-2's training goes: kernels by time, memory, and the optimised program."""

from __future__ import annotations

import gzip
import tempfile
from collections import defaultdict
from pathlib import Path

import jax

from benchmarks.device.jax_gpt2 import JaxGPT2
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes

MOST_KERNELS = 60
# The lines of a plane that hold its kernels; others sum them up by module, step or scope.
LINES = {"/device:GPU": "Stream", "/device:TPU": "XLA Ops", "/host:CPU": "tf_XLA"}


def measure(record: Record, sizes: Sizes) -> None:
    side = JaxGPT2(sizes.gpt2, sizes.steps)  # its program was kept by the part that trained
    report = side.report()
    record.device = report["device"]
    record.add("compiled", report["compile_seconds"], "s", batch_size=sizes.gpt2.batch_size)
    record.add("planned memory", report["planned_bytes"], "bytes")
    side.run()
    # In a folder that does not stay: the profiler's files bear the machine's name.
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            side.run()
        traces = list(Path(folder).rglob("*.xplane.pb"))
        for trace in traces:
            record_kernels(record, trace, sizes.steps)
    if not traces:
        record.failed("kernels", "the profiler has written nothing")
    text = side.program.as_text() or ""
    path = record.path.with_name(f"{record.path.stem}-gpt2.hlo.gz")
    path.write_bytes(gzip.compress(text.encode("utf-8")))
    record.add("optimised program", path.name, lines=text.count("\n"))


def record_kernels(record: Record, trace: Path, steps: int) -> None:
    """Seconds a step by kernel, largest first, of every device in a trace."""
    on_cpu = jax.default_backend() == "cpu"
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        prefix = next((p for p in LINES if plane.name.startswith(p)), None)
        if prefix is None or on_cpu != (prefix == "/host:CPU"):
            continue
        seconds: dict[str, float] = defaultdict(float)
        calls: dict[str, int] = defaultdict(int)
        lines = []
        for line in plane.lines:
            lines.append(line.name)
            if not line.name.startswith(LINES[prefix]):
                continue
            for event in line.events:
                seconds[event.name] += event.duration_ns * 1e-9 / steps
                calls[event.name] += 1
        if not seconds:
            record.failed(f"kernels of {plane.name}", f"no kernels among the lines {lines[:20]}")
            continue
        largest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:MOST_KERNELS]
        record.add(
            f"kernels of {plane.name}",
            sum(seconds.values()),
            "s",
            of="a step",
            kernels=[
                {"name": n[:120], "seconds": seconds[n], "calls": calls[n] / steps} for n in largest
            ],
            different=len(seconds),
            lines=lines[:20],
        )
