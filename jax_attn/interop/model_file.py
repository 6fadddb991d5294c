"""What a file of weights holds, of whatever format, and the model that it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jax_attn.config import GPTConfig, require_types
from jax_attn.data import Tokenizer
from jax_attn.errors import InputError
from jax_attn.interop.from_state_dict import model_of
from jax_attn.interop.layouts import Layout
from jax_attn.interop.model_record import model_record
from jax_attn.models.language_model import LanguageModel


@dataclass(frozen=True)
class ModelFile:
    """The tensors of a model, and what is said beside them."""

    name: str  # of the file, in messages
    tensors: Mapping[str, NDArray]
    layout: Layout | None = None  # None: the names tell
    fields: Mapping[str, Any] = field(default_factory=dict)  # of GPTConfig, as far as they are said
    kind: str | None = None  # of model, where it is said: gpt, head, bigram
    # Not read with the rest: it may need a library that a model does not.
    read_tokenizer: Callable[[], Tokenizer | None] = lambda: None

    def model(self, layout: Layout | None = None, **fields: Any) -> LanguageModel:
        """The model, with parameters of the tensors' dtype.

        `layout` and `fields` are what the file does not say; see `model_of`. InputError for what
        contradicts the file, and for what is missing.
        """
        try:
            said = {"layout": self.layout} if self.layout else {}
            _require_same(said, {"layout": layout} if layout else {})
            _require_same(self.fields, fields)
            _require_fields(self.fields, fields)
            model = model_of(
                self.tensors,
                layout or self.layout,
                param_dtype=_dtype_of(self.tensors),
                **{**self.fields, **fields},
            )
            made = model_record(model)
            if self.kind not in (None, made["kind"]):
                raise InputError(
                    f"it says that it is a {self.kind}; its tensors are a {made['kind']}"
                )
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        return model


def _require_same(said: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in said and said[name] != value:
            raise InputError(f"{name} is given as {value!s:.40}, but the file says {said[name]}")


def _require_fields(said: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """InputError for names that `model_of` does not take, and for what a file says wrongly."""
    known = {*get_type_hints(GPTConfig), "head_size"}
    for name in (*said, *given):
        if name not in known:
            raise InputError(f"there is no field {name!r:.100} of a model")
    try:
        require_types(GPTConfig, {k: v for k, v in said.items() if k != "head_size"})
    except TypeError as error:
        raise InputError(f"it says that {error}") from error


def _dtype_of(tensors: Mapping[str, NDArray]) -> np.dtype:
    """The floating dtype that all of the weights have; float32 where they differ.

    Causal masks are no weights, and have any.
    """
    found = {
        tensor.dtype
        for name, tensor in tensors.items()
        if jnp.issubdtype(tensor.dtype, jnp.floating) and not name.endswith((".tril", ".attn.bias"))
    }
    of_two_bytes_or_more = {dtype for dtype in found if dtype.itemsize > 1}
    if len(found) != 1 or not of_two_bytes_or_more:
        return np.dtype(np.float32)
    return np.dtype(jax.dtypes.canonicalize_dtype(found.pop()))
