"""What is drawn: a program, its flags and their values, a text, and the world around it."""

import dataclasses
import random
import shlex
import signal
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jax_attn import PRESETS
from tests.drawn.texts import TEXTS, WAYS

INTEGERS = ["-1", "0", "1", "2", "3", "7", "64", "1000003", str(2**31), str(2**63), "1" + "0" * 30]
FLOATS = ["nan", "inf", "-inf", "-1", "0", "1e-300", "1e-38", "1e-3", "0.5", "0.999", "1", "1e38"]
NO_NUMBERS = ["", "x", "1,5", "0x10", "½", "1e", "--steps"]
SEEDS_OF_TEXT = ["fox", "", "€", "\n", "the quick", ":smile:", "[bold]", "\x1b[31m", "a" * 300]

FILES = ["config.json", "sample.txt", "nowhere.txt", "."]  # in the folder of the run

ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"FORCE_COLOR": "1"},
    {"NO_COLOR": "1", "TERM": "dumb"},
    {"COLUMNS": "20"},
    {"MPLBACKEND": "nonsense"},
    {"MPLCONFIGDIR": "/nowhere/at/all", "HOME": "/nowhere"},
    {"JAX_PLATFORMS": "cuda"},
    {"JAX_PLATFORMS": "nonsense"},
]
OUTPUTS = ["pipe", "file", "terminal", "head", "full", "closed"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
FOLDERS = ["run", "a run", "[red]run", "run:smile:", "лес", "deep/er/run"]

# So small that a run takes seconds; drawn flags take the place of these.
SMALL: dict[str, dict[str, str]] = {
    "bigram": {},
    "head": {"--model.n-embd": "8", "--model.head-size": "4"},
    "mini": {"--model.n-layer": "1", "--model.n-head": "2", "--model.n-embd": "8"},
}
SHORT = {
    "--steps": "6",
    "--eval-every": "3",
    "--checkpoint-every": "3",
    "--batch-size": "2",
    "--block-size": "8",
    "--sample-tokens": "12",
}
PROGRAMS = ("train", "resume", "generate", "evaluate", "help")
NOT_DRAWN = {"data", "rng"}  # drawn as texts; and what draws as torch does takes long


@dataclass(frozen=True)
class CommandLine:
    """One draw. `text` and `way` are of tests.drawn.texts; `signal` comes after some seconds."""

    program: Literal["train", "resume", "generate", "evaluate", "help"]
    arguments: tuple[str, ...]
    text: str = "fox"
    way: str = "file"
    folder: str = "run"
    environment: dict[str, str] = field(default_factory=dict)
    output: str = "pipe"
    signal: tuple[int, float] | None = None

    def __str__(self) -> str:
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        said = shlex.join([*variables, self.program, *self.arguments])
        said += f"  # text {self.text!r} by {self.way}, run {self.folder!r}, output {self.output}"
        if self.signal is not None:
            said += f", {signal.Signals(self.signal[0]).name} after {self.signal[1]:.2f} s"
        return said


def draw(dice: random.Random) -> CommandLine:
    program = dice.choices(PROGRAMS, [6, 2, 3, 2, 1])[0]
    arguments: tuple[str, ...] = {
        "train": _train,
        "resume": _resume,
        "generate": _generate,
        "evaluate": _evaluate,
        "help": _help,
    }[program](dice)
    training = program in ("train", "resume")
    return CommandLine(
        program,
        arguments,
        text=dice.choice(["fox", dice.choice(list(TEXTS))]) if program == "train" else "fox",
        way=dice.choice(["file", "file", dice.choice(WAYS)]) if program == "train" else "file",
        folder=dice.choice(["run", dice.choice(FOLDERS)]),
        environment=dice.choice([{}, dice.choice(ENVIRONMENTS)]),
        output=dice.choice(["pipe", dice.choice(OUTPUTS)]),
        signal=(dice.choice(SIGNALS), dice.uniform(0.5, 7.0))
        if training and dice.random() < 0.25
        else None,
    )


def _train(dice: random.Random) -> tuple[str, ...]:
    preset = dice.choices(["bigram", "head", "mini"], [4, 1, 1])[0]
    given = SHORT | SMALL[preset]
    offered = dict(settings_of(PRESETS[preset][1]))
    for name in dice.sample(sorted(offered), dice.choice([0, 0, 1, 1, 2, 3])):
        given[name] = _value(dice, offered[name])
    words = [word for name, value in given.items() for word in _flag(name, value)]
    if dice.random() < 0.05:
        words += dice.choice([["--stepz", "3"], ["surplus"], ["--out"], ["--debug-nans"]])
    return (preset, *words)


def _resume(dice: random.Random) -> tuple[str, ...]:
    words: list[str] = []
    if dice.random() < 0.6:
        words += ["--steps", dice.choice([*INTEGERS, *NO_NUMBERS, "12"])]
    if dice.random() < 0.2:
        words += ["--debug-nans"]
    return tuple(words)


def _generate(dice: random.Random) -> tuple[str, ...]:
    offered: dict[str, list[str]] = {
        "--prompt": SEEDS_OF_TEXT,
        "--prompt-file": [*FILES, "-"],
        "--tokens": INTEGERS,
        "--temperature": FLOATS,
        "--top-k": INTEGERS,
        "--top-p": FLOATS,
        "--stop": [*SEEDS_OF_TEXT, "o", "e "],
        "--num-samples": ["1", "2", "3", dice.choice(INTEGERS)],
        "--unknown": ["error", "skip"],
        "--seed": INTEGERS,
    }
    return _some(dice, offered, {"--tokens": "20"})


def _evaluate(dice: random.Random) -> tuple[str, ...]:
    offered: dict[str, list[str]] = {
        "--data": [*FILES, "tinyshakespeare"],
        "--split": ["all", "train", "validation"],
        "--encoding": ["utf-8", "utf-16", "latin-1", "nonsense"],
        "--block-size": INTEGERS,
        "--batch-size": INTEGERS,
        "--eval-tokens": INTEGERS,
        "--unknown": ["error", "skip"],
    }
    words = _some(dice, offered, {})
    return (*words, "--json") if dice.random() < 0.5 else words


def _some(
    dice: random.Random, offered: dict[str, list[str]], given: dict[str, str]
) -> tuple[str, ...]:
    """A few of the flags that are offered, beside those `given` unless they are drawn, too."""
    for name in dice.sample(sorted(offered), dice.choice([0, 1, 1, 2, 3])):
        given[name] = dice.choice([*offered[name], dice.choice(NO_NUMBERS)])
    return tuple(word for name, value in given.items() for word in (name, value))


def _help(dice: random.Random) -> tuple[str, ...]:
    return dice.choice(
        [
            ("train.py", "--help"),
            ("train.py", "mini", "--help"),
            ("train.py", "--resume", "nowhere", "--help"),
            ("-m", "jax_attn.generate", "--help"),
            ("-m", "jax_attn.evaluate", "--help"),
            ("-m", "jax_attn.lecture", "--help"),
            ("-m", "parity_tests", "--help"),
            ("-m", "benchmarks", "--help"),
            ("-m", "benchmarks.device", "--help"),
        ]
    )


def settings_of(config: Any, prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    """The flags of a configuration, as tyro names them, and the types of their values."""
    hints = typing.get_type_hints(type(config))
    for place in dataclasses.fields(config):
        name = f"{prefix}{place.name.replace('_', '-')}"
        value = getattr(config, place.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{name}.")
        elif place.name not in NOT_DRAWN:
            yield f"--{name}", hints[place.name]


def _value(dice: random.Random, kind: Any) -> str:
    if dice.random() < 0.1:
        return dice.choice(NO_NUMBERS)
    if kind is bool:
        return dice.choice(["True", "False"])
    if typing.get_origin(kind) is Literal:
        return dice.choice([*map(str, typing.get_args(kind)), "nonsense"])
    kinds = {kind, *typing.get_args(kind)}
    if int in kinds:
        return dice.choice(INTEGERS)
    if float in kinds:
        return dice.choice(FLOATS)
    return dice.choice(["utf-8", "nonsense", ""])


def _flag(name: str, value: str) -> tuple[str, ...]:
    """As tyro wants it: a switch says by its name what it is."""
    if value in ("True", "False"):
        parent, dot, last = name.removeprefix("--").rpartition(".")
        return (f"--{parent}{dot}{'' if value == 'True' else 'no-'}{last}",)
    return name, value


def path_of(folder: str, place: Path) -> Path:
    return place / folder
