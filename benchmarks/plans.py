"""What every preset costs on every accelerator: `python -m benchmarks.plans FILE [NAME ...]`.

`train.py PRESET --plan TARGET` for each, in a process of its own; no device is needed. A row is
written after each, and those that the file has already are not made again. Names of presets and
targets restrict it to them.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.estimate import minutes
from jax_attn.compiling.targets import TARGETS
from jax_attn.runs.plan_command import duration, scaled
from jax_attn.runs.presets import PRESETS
from jax_attn.runs.tyro_or_exit import read_arguments

ROOT = Path(__file__).parent.parent
COLUMNS = (
    "preset",
    "accelerator",
    "program",
    "compiled in",
    "memory",
    "moved",
    "products",
    "at least",
    "MFU",
    "rows that fit",
)


def make(preset: str, target: str) -> dict[str, Any]:
    """The plan, or the error that there was in its place."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", preset, "--plan", target, "--out", folder]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        path = Path(folder) / "plan.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
    lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
    return {"preset": preset, "target": target, "error": lines[-1]}


@dataclass(frozen=True)
class Arguments:
    """Compile every preset for every accelerator, and keep what it would cost there.

    What the file has already is not made again.
    """

    file: Annotated[Path, tyro.conf.Positional]  # JSON, written after every pair
    names: Annotated[
        tuple[str, ...], tyro.conf.Positional
    ] = ()  # presets, accelerators: only these


def main() -> int:
    every = estimate(list(product(PRESETS, TARGETS)))
    description = f"{inspect.getdoc(Arguments)}\n\nAll pairs{every}."
    arguments = read_arguments(Arguments, "benchmarks.plans", description)
    path, names = arguments.file, arguments.names
    known = [*PRESETS, *TARGETS]
    unknown = [name for name in names if name not in known]
    if unknown:
        return refuse(f"no such name: {', '.join(unknown)}; there are {', '.join(known)}")
    if not path.parent.is_dir():
        return refuse(f"{path.parent} is no folder; give another file")
    presets = [p for p in PRESETS if p in names] or list(PRESETS)
    targets = [t for t in TARGETS if t in names] or list(TARGETS)
    record: dict[str, Any] = {"plans": []}
    if path.exists():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            assert "plans" in record
        except (OSError, ValueError, AssertionError):
            return refuse(f"{path} is there and holds no plans; give another file")
    made = {(plan["preset"], plan["target"]) for plan in record["plans"] if "error" not in plan}
    pairs = [pair for pair in product(presets, targets) if pair not in made]
    print(f"{len(pairs)} pairs to make{estimate(pairs)}", flush=True)
    record |= {"date": date.today().isoformat(), "jax": version("jax")}
    for preset, target in pairs:
        plan = make(preset, target)
        others = [p for p in record["plans"] if (p["preset"], p["target"]) != (preset, target)]
        record["plans"] = sorted([*others, plan], key=_place)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{preset} on {target}: {plan.get('error', 'made')}", flush=True)
    return 0


def estimate(pairs: list[tuple[str, str]]) -> str:
    """What the programs of these pairs took when the results that are kept here were made."""
    kept = json.loads((ROOT / "benchmarks/results/plans.json").read_text(encoding="utf-8"))["plans"]
    seconds = {
        (plan["preset"], plan["target"]): sum(program["seconds"] for program in plan["programs"])
        for plan in kept
    }
    known = sum(seconds.get(pair, 0.0) for pair in pairs)
    return f": {minutes(known / 60)} on two cores, and more for the largest batches"


def refuse(message: str) -> int:
    print(f"benchmarks.plans: error: {message}", file=sys.stderr)
    return 2


def cells(plan: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row of the table for each program of a plan."""
    names = (plan["preset"], plan["target"])
    if "error" in plan:
        return [(*names, plan["error"], *[""] * (len(COLUMNS) - 3))]
    rows = []
    for program in plan["programs"]:
        bound, training = program["bound"], program["name"] == "training"
        config = plan["config"]
        what = f"{program['name']}, a {program['unit']}"
        if training:
            what += f" of {config['batch_size']} × {config['block_size']:,}"
        row = [*names, what, f"{program['seconds']:.0f} s"]
        if bound is None:
            row += [program["error"].split(":")[0], "", "", ""]
        else:
            flops = bound["flops"] + bound["attention_flops"]
            seconds = bound["seconds"] + bound["attention_seconds"]
            row += [scaled(program["needs"], "B"), scaled(bound["bytes"], "B")]
            row += [scaled(flops, "FLOP"), duration(seconds)]
        mfu, largest = plan["least_step_mfu"], plan["largest_batch"]
        row.append(f"{mfu:.0%}" if training and mfu is not None else "")
        row.append(f"{largest:,}" if training and largest is not None else "")
        rows.append(tuple(row))
    return rows


def _place(plan: dict[str, Any]) -> tuple[int, int]:
    return list(PRESETS).index(plan["preset"]), list(TARGETS).index(plan["target"])


if __name__ == "__main__":
    sys.exit(main())
