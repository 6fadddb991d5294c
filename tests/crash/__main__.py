"""`python -m tests.crash --kills 200`: at least so many kills, over all scenarios, and controls."""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.crash.killing import Killer, Unsound
from tests.crash.planted import FAULTS
from tests.crash.scenario import SCENARIOS, TEXT, Scenario, differences, finished

KILLS_A_RUN = 8  # then it may finish


def reference(scenario: Scenario, folder: Path) -> tuple[dict, float]:
    """What a run left alone comes to, and how many seconds its training takes."""
    run, log = folder / "alone", folder / "alone.log"
    process = scenario.start(folder / "text.txt", run, log)
    begun = ended = None
    while process.poll() is None:
        if begun is None and b"compiled" in log.read_bytes():
            begun = time.monotonic()
        if ended is None and (run / "checkpoints" / str(scenario.steps)).exists():
            ended = time.monotonic()
        time.sleep(0.005)
    if process.returncode != 0 or begun is None or ended is None:
        raise Unsound(log.read_text()[-3000:])
    # Compiles what only a resumed run compiles, so that no killed run waits for it.
    shutil.copytree(run, folder / "resumed")
    for path in (folder / "resumed" / "checkpoints").iterdir():
        if path.name == str(scenario.steps):
            shutil.rmtree(path)
    scenario.start(folder / "text.txt", folder / "resumed", log).wait()
    return finished(run), ended - begun


def controls(scenario: Scenario, folder: Path, expected: dict) -> list[str]:
    """The planted faults that the comparison does not find."""
    missed = []
    for fault in FAULTS:
        run, log = folder / fault, folder / f"{fault}.log"
        process = scenario.start(folder / "text.txt", run, log)
        while process.poll() is None and not (run / "checkpoints" / "9").exists():
            time.sleep(0.001)
        process.kill()
        process.wait()
        if scenario.start(folder / "text.txt", run, log, fault).wait() != 0:
            raise Unsound(log.read_text()[-3000:])
        found = differences(expected, finished(run))
        print(f"planted fault {fault}: {len(found)} differences", flush=True)
        if not found:
            missed.append(fault)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time")
    arguments = parser.parse_args()
    begun = time.monotonic()
    kills: Counter[str] = Counter()
    runs, bad, lock = 0, 0, threading.Lock()

    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, str(i)) for i in range(len(SCENARIOS))]
        alone = []
        for scenario, folder in zip(SCENARIOS, folders, strict=True):
            folder.mkdir()
            (folder / "text.txt").write_text(TEXT, encoding="utf-8")
            alone.append(reference(scenario, folder))
            print(f"{scenario.name}: {alone[-1][1]:.1f} s of training, left alone", flush=True)
        missed = controls(SCENARIOS[0], folders[0], alone[0][0])

        def one_run(i: int) -> None:
            nonlocal runs, bad
            which = i % len(SCENARIOS)
            expected, training_s = alone[which]
            run = folders[which] / f"run-{i}"
            text = folders[which] / "text.txt"
            killer = Killer(SCENARIOS[which], text, run, arguments.seed + i, KILLS_A_RUN)
            try:
                killer.until_done(training_s)
                with lock:
                    wrong = differences(expected, finished(run))
            except Unsound as fault:
                wrong = [str(fault)]
            with lock:
                kills.update(killer.kills)
                runs += 1
                bad += bool(wrong)
                print(f"run {i}: {killer.kills.total()} kills, {wrong or 'no difference'}")
                sys.stdout.flush()

        def worker(first: int) -> None:
            i = first
            while kills.total() < arguments.kills:
                one_run(i)
                i += arguments.at_once

        with ThreadPoolExecutor(arguments.at_once) as pool:
            list(pool.map(worker, range(arguments.at_once)))

    for what, count in sorted(kills.items()):
        print(f"{count:5} {what}")
    print(
        f"{kills.total()} kills of {runs} runs in {time.monotonic() - begun:.0f} s: {bad} runs "
        f"with differences or unusable checkpoints; planted faults missed: {missed or 'none'}"
    )
    return 1 if bad or missed else 0


if __name__ == "__main__":
    sys.exit(main())
