"""Whether each layer trains or evaluates."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flax import nnx

from parity_tests.harness.kinds import kind_of

# Name of the flag -> its value in training.
_FLAGS = {"use_running_average": False, "deterministic": False}


@dataclass(frozen=True)
class LayerMode:
    trains: bool
    words: str  # "training", "eval", or the flags as they are
    drops: bool = False  # at random; of NNX and Linen


@contextmanager
def noted_modes(model: Any) -> Iterator[dict[str, LayerMode]]:
    """Dotted name -> mode of each layer that has one, filled by the time this is left.

    torch: `training` of layers without children. NNX: the attributes use_running_average and
    deterministic. Linen: the same of each module that is called meanwhile, as fields or as
    arguments of its call.
    """
    found: dict[str, LayerMode] = {}
    match kind_of(model):
        case "torch":
            for name, module in model.named_modules():
                if not any(module.children()):
                    words = "training" if module.training else "eval"
                    found[name] = LayerMode(module.training, words)
        case "nnx":
            for path, module in nnx.iter_modules(model):
                _note(found, path, vars(module), isinstance(module, nnx.Dropout))
        case "linen":
            import flax.linen

            def note(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
                module = context.module
                if context.method_name == "__call__":
                    names = list(inspect.signature(type(module).__call__).parameters)[1:]
                    given = dict(zip(names, args, strict=False)) | kwargs
                    attributes = vars(module) | {k: v for k, v in given.items() if v is not None}
                    dropout = isinstance(module, flax.linen.Dropout)
                    _note(found, module.path, attributes, dropout)
                return call(*args, **kwargs)

            with flax.linen.intercept_methods(note):
                yield found
            return
    yield found


def _note(
    found: dict[str, LayerMode], path: Any, attributes: Mapping[str, Any], dropout: bool
) -> None:
    flags = {n: attributes[n] for n in _FLAGS if isinstance(attributes.get(n), bool)}
    if flags:
        trains = all(value is _FLAGS[name] for name, value in flags.items())
        words = ", ".join(f"{name}={value}" for name, value in flags.items())
        drops = dropout and trains and attributes.get("rate", 0) > 0
        found[".".join(map(str, path))] = LayerMode(trains, words, drops)
