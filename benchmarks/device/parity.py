"""The first rungs of the parity ladder on the device, side by side, as far as they come."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.device.commands import require_tyro, run_command
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes


def measure(record: Record, sizes: Sizes) -> None:
    require_tyro()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as threads:

        def climb(rung: str) -> None:
            path = Path(folder) / f"{rung}.json"
            command = ("-m", "parity_tests", "--rungs", rung, "--jobs", 1, "--json", path)
            run_command(record, f"rung {rung}", *command)
            if path.exists():  # also where it differs
                record.add(f"rung {rung}, ladder", json.loads(path.read_text(encoding="utf-8")))

        list(threads.map(climb, sizes.rungs))
