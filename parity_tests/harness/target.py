"""The frameworks that rules lead to, and the error where one cannot hold the weights."""

from typing import Literal

Target = Literal["nnx", "linen", "equinox"]


class NoCounterpart(ValueError):
    """The target has no place for the weights of this layer; the message says which, and a way."""


def under(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
