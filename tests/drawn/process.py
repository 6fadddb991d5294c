"""A command line as a process in the world that was drawn for it, and what came of it."""

import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.drawn.command_lines import CommandLine
from tests.drawn.texts import TEXTS, Given

ROOT = Path(__file__).parent.parent.parent
LONG_S = 25.0  # a run that was drawn long is then asked to stop
LONGEST_S = 90.0  # for a process that should have ended
HEAD_BYTES = 60  # that the reader of a pipe takes before it goes


@dataclass(frozen=True)
class Outcome:
    """What a process has come to; `code` None if it did not end."""

    code: int | None
    out: bytes
    err: bytes
    signals: tuple[int, ...]  # that it was sent
    run: Path
    text: Path | None

    @property
    def said(self) -> str:
        return self.out.decode("utf-8", errors="replace")


def carry_out(line: CommandLine, place: Path, finished_run: Path) -> Outcome:
    """In the empty folder `place`; resuming and generating begin from a copy of `finished_run`."""
    run, text, stdin = place / line.folder, None, None
    if line.program == "train":
        given = Given(TEXTS[line.text], line.way, place)
        text, stdin = given.path, given.stdin
        command = [ROOT / "train.py", *line.arguments, "--data", text, "--out", run]
    elif line.program == "help":
        command = list(line.arguments)
        command[0] = ROOT / command[0] if command[0] == "train.py" else command[0]
    else:
        run.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(finished_run, run)
        if line.program == "resume":
            command = [ROOT / "train.py", "--resume", run, *line.arguments]
        else:
            command = ["-m", f"jax_attn.{line.program}", run, *line.arguments]
    # Files that are named lie in the run that is sampled from or evaluated.
    folder = run if line.program in ("generate", "evaluate") else place
    process = _Process(line, [str(c) for c in command], stdin, place, folder)
    code, out, err, signals = process.to_its_end(None if line.program == "help" else LONG_S)
    return Outcome(code, out, err, signals, run, text)


def resume(run: Path, text: bytes | None) -> Outcome:
    """To its end, in an ordinary world; with the text again, if it cannot be read twice."""
    line = CommandLine("resume", ())
    command = [str(ROOT / "train.py"), "--resume", str(run)]
    if text is not None:
        again = run.parent / "again.txt"
        again.write_bytes(text)
        command += ["--data", str(again)]
    code, out, err, signals = _Process(line, command, None, run.parent, run.parent).to_its_end(None)
    return Outcome(code, out, err, signals, run, None)


class _Process:
    def __init__(
        self,
        line: CommandLine,
        command: list[str],
        stdin: bytes | None,
        place: Path,
        folder: Path,
    ) -> None:
        self._line = line
        self._out = b""
        environment = {"PYTHONPATH": str(ROOT), **os.environ, **line.environment}
        output, self._reads, self._file = self._output(place / "output.txt")
        program = [sys.executable, *command]
        if line.output == "closed":
            program = ["sh", "-c", 'exec "$@" >&-', "sh", *program]
        self._process = subprocess.Popen(
            program,
            cwd=ROOT if line.program == "help" else folder,
            env=environment,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
        )
        os.close(output)
        self._threads = [threading.Thread(target=self._read_errors, daemon=True)]
        if self._reads is not None:
            self._threads.append(threading.Thread(target=self._read_output, daemon=True))
        if stdin is not None:
            self._threads.append(threading.Thread(target=self._write, args=(stdin,), daemon=True))
        self._err = b""
        for thread in self._threads:
            thread.start()

    def _output(self, path: Path) -> tuple[int, int | None, Path | None]:
        """What the process writes to, what is read here, and a file that is read at the end."""
        kind = self._line.output
        if kind == "full":
            return os.open("/dev/full", os.O_WRONLY), None, None
        if kind == "file":
            return os.open(path, os.O_WRONLY | os.O_CREAT), None, path
        reads, writes = pty.openpty() if kind == "terminal" else os.pipe()
        return writes, reads, None

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            self._err = pipe.read()

    def _read_output(self) -> None:
        assert self._reads is not None
        with contextlib.suppress(OSError):  # a terminal whose other side is closed
            while select.select([self._reads], [], [])[0]:
                said = os.read(self._reads, 1 << 16)
                self._out += said
                if not said or (self._line.output == "head" and len(self._out) >= HEAD_BYTES):
                    break
        os.close(self._reads)

    def _write(self, content: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(content)

    def to_its_end(self, long_s: float | None) -> tuple[int | None, bytes, bytes, tuple[int, ...]]:
        sent = []
        if self._line.signal is not None:
            number, after = self._line.signal
            if self._wait(after) is None:
                sent.append(number)
                self._process.send_signal(number)
        elif long_s is not None and self._wait(long_s) is None:
            sent.append(2)
            self._process.send_signal(2)
        code = self._wait(LONGEST_S)
        if code is None:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(5.0)
        out = self._file.read_bytes() if self._file is not None else self._out
        return code, out, self._err, tuple(sent)

    def _wait(self, seconds: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None


def clear(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
