"""tyro, which reads the command lines; a program without it ends with one line and exit code 2.

For the modules of command lines only: importing this may end the process.
"""

import contextlib
import difflib
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin

from jax_attn.errors import InputError

try:
    import tyro
except ModuleNotFoundError as error:
    print(
        f"error: {error.name} is not installed, and the command line is read with it: "
        "pip install tyro",
        file=sys.stderr,
    )
    sys.exit(2)

__all__ = ["WORDS", "one_line_refusals", "read_arguments", "tyro"]

WORDS = tyro.constructors.ConstructorRegistry()  # for `tyro.cli(registry=)`
Arguments = TypeVar("Arguments")


def read_arguments(
    kind: type[Arguments], program: str, description: str | None = None
) -> Arguments:
    """Of the command line of `python -m PROGRAM`. Ends the process for --help and for a mistake."""
    prog = f"python -m {program}"

    def read(arguments: list[str] | None = None) -> Arguments:
        return tyro.cli(kind, prog=prog, args=arguments, description=description, registry=WORDS)

    with one_line_refusals(program, f"{prog} --help", lambda: read(["--help"])):
        return read()


@contextlib.contextmanager
def one_line_refusals(program: str, see: str, show_help: Callable[[], object]) -> Iterator[None]:
    """Inside, a mistake is a line that names the command `see`, where tyro would draw a box.

    `show_help` prints what that command prints: there the flags are that may have been meant.
    What a configuration has against its own values is raised as its InputError.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        if stop.code:
            print(
                f"{program}: error: {_unboxed(said.getvalue(), show_help)}; all flags: {see}",
                file=sys.stderr,
            )
        raise


def _unboxed(box: str, show_help: Callable[[], object]) -> str:
    """The words of a box of tyro's, drawn in whatever way: what is above its first inner rule."""
    rows = [line.strip("│") for line in box.splitlines()]
    rules = [i for i, row in enumerate(rows) if re.match(r" *[─-]{4}|[╭╰]", row)]
    parts = [rows[a + 1 : b] for a, b in itertools.pairwise(rules)] or [rows]
    words = " ".join(row.strip() for row in parts[0])
    if words.startswith("Missing from "):
        names = re.findall(r"^ {5,6}(\S+)", "\n".join(parts[0]), re.MULTILINE)
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    if unknown := re.match(r"Unrecognized options: (.*)", words):
        flag = unknown[1].partition(", ")[0]
        flags = _alike(flag, show_help) if flag.startswith("-") else []
        meant = f"; perhaps {' or '.join(flags)} is meant" if flags else ""
        return f"{flag} is not known here{meant}"
    return words.removesuffix(".")


def _alike(word: str, show_help: Callable[[], object]) -> list[str]:
    """The flags most like a word: of the same last name, or else at most three of a similar one."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        show_help()
    flags = list(dict.fromkeys(re.findall(r"--[a-z][a-z0-9.-]*", text.getvalue())))
    names = {flag: flag.removeprefix("--").rpartition(".")[2] for flag in flags}
    name = word.partition("=")[0].lstrip("-").replace("_", "-").rpartition(".")[2]
    same = [flag for flag in flags if names[flag] == name]
    near = difflib.get_close_matches(name, list(dict.fromkeys(names.values())), 3, 0.7)
    longer = [flag for flag in flags if name in names[flag].split("-")]
    return same or [f for n in near for f in flags if names[f] == n][:3] or longer[:3]


@WORDS.primitive_rule
def _choice(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """One of some words, in their order; that none is given is no word of its own."""
    kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
    optional = len(kinds) == 1 and type(None) in get_args(info.type)
    literal = kinds[0] if optional else info.type
    choices = get_args(literal)
    if get_origin(literal) is not Literal or not all(isinstance(c, str) for c in choices):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda x: x in choices or (optional and x is None),
        str_from_instance=lambda x: [str(x)],
        choices=choices,
    )


@WORDS.primitive_rule
def _number(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """A word that is no number is left to the setting's domain, which says more than tyro knows."""
    if info.type not in (int, float, int | None):
        return None
    number = float if info.type is float else int
    optional = info.type == int | None

    def read(words: list[str]) -> Any:
        (word,) = words
        if optional and word == "None":
            return None
        try:
            return number(word)
        except ValueError:
            return word

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=number.__name__.upper() + ("|None" if optional else ""),
        instance_from_str=read,
        is_instance=lambda x: isinstance(x, number) or (optional and x is None),
        str_from_instance=lambda x: [str(x)],
    )
