"""`python -m benchmarks.device OUT.jsonl [PART …]`: see the README beside the benchmarks."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.device.parts import IF_TIME_IS_LEFT, LIMITS, SECONDS, SLOWER, parts
from benchmarks.device.record import Record
from benchmarks.device.runner import run_parts

PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("torch", "triton", "nvidia-cudnn-cu13", "nvidia-cublas", "tyro", "pooch", "platformdirs"),
)
NVIDIA = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem"
# A rehearsal runs everything for a moment only.
COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def main() -> int:
    """Exit code 0 if no part is missing, 1 otherwise, 2 for arguments that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device",
        usage="%(prog)s [-h] [--rehearse] OUT.jsonl [PART ...]",
        description=f"Measures on an accelerator, in {at_most([], False)}; appends to OUT.jsonl.",
    )
    # Not required by argparse, which would then want a PART, too.
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.jsonl")
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=", ".join(f"{name} ({s:.0f} s)" for name, s in (LIMITS | IF_TIME_IS_LEFT).items()),
    )
    rehearsal = f"tiny sizes, on a CPU: {at_most([], True)}"
    parser.add_argument("--rehearse", action="store_true", help=rehearsal)
    arguments = parser.parse_intermixed_args()
    if arguments.out is None:
        return refuse("OUT.jsonl is missing: the file that the figures are appended to")
    known = [*LIMITS, *IF_TIME_IS_LEFT]
    unknown = [name for name in arguments.parts if name not in known]
    if unknown:
        return refuse(f"no such part: {', '.join(unknown)}; there are {', '.join(known)}")
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.open("a").close()
    except OSError as error:
        return refuse(f"{arguments.out} cannot be written ({error.strerror}); choose another file")

    print(at_most(arguments.parts, arguments.rehearse), flush=True)
    deadline = time.monotonic() + SECONDS * (SLOWER if arguments.rehearse else 1.0)
    run = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = Record(arguments.out, run, "run")
    record.add("machine", describe_machine(), rehearsal=arguments.rehearse)
    with tempfile.TemporaryDirectory() as folder:
        # What one part has compiled the next ones find, and autotuning by stopwatch happens once.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        # Several processes of one part share the accelerator's memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        os.environ["PYTHONUNBUFFERED"] = "1"
        if arguments.rehearse:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {COMPILE_FAST}".strip()
        chosen = parts(arguments.parts, arguments.out, run, arguments.rehearse)
        missing = run_parts(chosen, arguments.out, run, deadline)
    return 1 if missing else 0


def at_most(names: list[str], rehearse: bool) -> str:
    """How long these parts may take, or all of them if there are none."""
    limits = [limit for name, limit in (LIMITS | IF_TIME_IS_LEFT).items() if name in names]
    seconds = (min(SECONDS, sum(limits)) if limits else SECONDS) * (SLOWER if rehearse else 1)
    words = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    return f"at most {words}"


def describe_machine() -> dict[str, Any]:
    """Versions, date and hardware, in words that say nothing of whose machine it is."""
    machine: dict[str, Any] = {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }
    for name in PACKAGES:
        try:
            machine[name] = version(name)
        except PackageNotFoundError:
            machine[name] = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", f"--query-gpu={NVIDIA}", "--format=csv,noheader"]
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20)
        machine["nvidia-smi"] = {NVIDIA: asked.stdout.strip().splitlines()}
    return machine


def refuse(message: str) -> int:
    print(f"benchmarks.device: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
