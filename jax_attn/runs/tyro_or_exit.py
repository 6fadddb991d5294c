"""tyro, which reads the command lines; a program without it ends with one line and exit code 2.

For the modules of command lines only: importing this may end the process.
"""

import sys
from typing import Any

try:
    import tyro
except ModuleNotFoundError as error:
    print(
        f"error: {error.name} is not installed, and the command line is read with it: "
        "pip install tyro",
        file=sys.stderr,
    )
    sys.exit(2)

__all__ = ["NUMBERS", "tyro"]

NUMBERS = tyro.constructors.ConstructorRegistry()  # for `tyro.cli(registry=)`


@NUMBERS.primitive_rule
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
