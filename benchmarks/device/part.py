"""One part, in the process that `benchmarks.device.runner` has started for it."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.device.record import Record
from benchmarks.device.sizes import FULL, REHEARSAL


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device.part")
    parser.add_argument("name")
    parser.add_argument("path", type=Path)
    parser.add_argument("run")
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    module = importlib.import_module(f"benchmarks.device.{arguments.name}")
    record = Record(arguments.path, arguments.run, arguments.name)
    module.measure(record, REHEARSAL if arguments.rehearse else FULL)


if __name__ == "__main__":
    main()
