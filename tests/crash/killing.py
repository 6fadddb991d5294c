"""Starts a run, kills it at some moment, goes on with it, until it is done."""

import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from tests.crash.scenario import Scenario

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = ("any", "training", "training", "saving", "sealing", "removing")
POLL_S = 0.0005
LONGEST_S = 120.0


class Unsound(Exception):
    """The run did what no run may do."""


class Killer:
    """Kills one run at most `most` times; `kills` counts them by signal and by what they hit."""

    def __init__(self, scenario: Scenario, text: Path, run: Path, seed: int, most: int) -> None:
        self._scenario = scenario
        self._text = text
        self._run = run
        self._log = run.with_name(f"{run.name}.log")
        self._dice = random.Random(seed)
        self._most = most
        self.kills: Counter[str] = Counter()

    def until_done(self, training_s: float) -> None:
        """Raises Unsound, with the log's end, for a wrong exit code or a checkpoint not usable."""
        while self.kills.total() < self._most:
            if self._one_life(training_s):
                return
        process = self._scenario.start(self._text, self._run, self._log)
        self._require(process.wait(LONGEST_S) == 0, "a resumed run did not finish")
        self._require("passed over" not in self._log.read_text(), "a checkpoint was not usable")

    def _one_life(self, training_s: float) -> bool:
        """Whether the run came to its end before it was killed."""
        begin = self._log.stat().st_size if self._log.exists() else 0
        number = self._dice.choice(SIGNALS)
        remnants = self._remnants()
        process = self._scenario.start(self._text, self._run, self._log)
        self._wait_for_moment(process, begin, training_s)
        if process.poll() is None:
            process.send_signal(number)
            if number != signal.SIGKILL and self._dice.random() < 0.25:
                time.sleep(self._dice.uniform(0, 0.1))
                process.send_signal(number)
        code = process.wait(LONGEST_S)
        said = self._log.read_bytes()[begin:].decode()
        if code == 0:
            return True
        if "model" in said:  # before, SIGINT ends Python's imports as it ends any program's
            self._require(code in (-number, 128 + number), f"code {code} after signal {number}")
            self._require("Traceback" not in said, "a traceback")
            self._require("error" not in said, "an error")
        stopped = "go on with: python train.py --resume" in said
        hit = "stopped after saving" if stopped else self._what_was_hit(said, remnants)
        self.kills[f"{signal.Signals(number).name} {hit}"] += 1
        return False

    def _wait_for_moment(self, process: subprocess.Popen, begin: int, training_s: float) -> None:
        moment = self._dice.choice(MOMENTS)

        def trains() -> bool:
            return b"compiled" in self._log.read_bytes()[begin:]

        def there_is(pattern: str) -> bool:
            try:
                return trains() and any(self._run.glob(f"checkpoints/{pattern}"))
            except FileNotFoundError:  # a folder got its name while it was looked through
                return False

        signs = {
            "any": lambda: True,
            "training": trains,
            "saving": lambda: there_is("*.writing"),
            "sealing": lambda: there_is("*.writing/checksums.json*"),
            "removing": lambda: there_is("*.removing"),
        }
        longest = {"any": training_s, "training": training_s / 3}.get(moment, 0.03)
        while process.poll() is None and not signs[moment]():
            time.sleep(POLL_S)
        instant = time.monotonic() + self._dice.uniform(0, longest)
        while process.poll() is None and time.monotonic() < instant:
            time.sleep(POLL_S)

    def _what_was_hit(self, said: str, before: set[tuple[Path, int]]) -> str:
        """From what this life has left lying about."""
        left = {str(path) for path, _ in self._remnants() - before}
        if any(path.endswith(".removing") for path in left):
            return "between renaming and the end of clearing away"
        if any(".writing/checksums.json" in path for path in left):
            return "between checksums and renaming"
        if any(path.endswith(".writing") for path in left):
            return "while a checkpoint was written"
        if "compiled" not in said:
            return "before the first step"
        return "between two checkpoints"

    def _remnants(self) -> set[tuple[Path, int]]:
        patterns = ("*.removing", "*.writing", "*.writing/checksums.json*")
        found = [path for p in patterns for path in self._run.glob(f"checkpoints/{p}")]
        return {(path, path.stat().st_ino) for path in found}

    def _require(self, sound: bool, what: str) -> None:
        if not sound:
            raise Unsound(f"{self._run.name}: {what}\n{self._log.read_text()[-3000:]}")
