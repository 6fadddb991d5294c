"""tyro, which reads the command lines; a program without it ends with one line and exit code 2.

For the modules of command lines only: importing this may end the process.
"""

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Iterator
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
    with one_line_refusals(program, f"{prog} --help"):
        return tyro.cli(kind, prog=prog, description=description, registry=WORDS)


@contextlib.contextmanager
def one_line_refusals(program: str, see: str) -> Iterator[None]:
    """Inside, a mistake is a line that names the command `see`, where tyro would draw a box.

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
                f"{program}: error: {_unboxed(said.getvalue())}; all flags: {see}", file=sys.stderr
            )
        raise


def _unboxed(box: str) -> str:
    """The words of a box of tyro's, drawn in whatever way: what is above its first inner rule."""
    rows = [line.strip("│") for line in box.splitlines()]
    rules = [i for i, row in enumerate(rows) if re.match(r" *[─-]{4}|[╭╰]", row)]
    parts = [rows[a + 1 : b] for a, b in itertools.pairwise(rules)] or [rows]
    words = " ".join(row.strip() for row in parts[0])
    if words.startswith("Missing from "):
        names = re.findall(r"^ {5,6}(\S+)", "\n".join(parts[0]), re.MULTILINE)
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    if unknown := re.match(r"Unrecognized options: (.*)", words):
        flags = [row.split()[0] for part in parts[1:] for row in part if "--" in row.split()[0]]
        meant = f"; perhaps {' or '.join(dict.fromkeys(flags[:3]))} is meant" if flags else ""
        return f"{unknown[1].partition(', ')[0]} is not known here{meant}"
    return words.removesuffix(".")


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
