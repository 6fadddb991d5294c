"""What modules and losses are given, checked where it enters: one sentence for each mistake.

All of it is known while a program is traced, so nothing of it is in a compiled program.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array

from jax_attn.errors import InputError

CONVERSIONS = {  # framework of an array: how to hand it over
    "torch": "jnp.asarray({0}.detach().cpu().numpy())",
    "tensorflow": "jnp.asarray({0}.numpy())",
}


def check_ids(ids: Any, name: str = "idx", longest: int | None = None) -> None:
    """InputError for ids that are no array of integers, or not [B T].

    `longest` is the largest T, if there is one.
    """
    _check_kind(ids, name, jnp.integer, "token ids must be integers")
    if len(ids.shape) != 2:
        remedy = f"; {name}[None] is a batch of one text" if len(ids.shape) == 1 else ""
        raise InputError(f"{name} must be [batch, time], got the shape {ids.shape}{remedy}")
    if longest is not None and ids.shape[1] > longest:
        raise InputError(
            f"{ids.shape[1]} tokens do not fit block_size {longest}; "
            "crop the input to its last block_size tokens"
        )
    if isinstance(ids, np.ndarray) and ids.size:
        # JAX keeps 32 bits of a NumPy array's 64, and another id would be left.
        narrow = np.iinfo(jax.dtypes.canonicalize_dtype(ids.dtype))
        if ids.max() > narrow.max or ids.min() < narrow.min:
            raise InputError(f"{name} holds {ids.max()}, which does not fit {narrow.bits} bits")


def check_pairs(ids: Any, targets: Any) -> None:
    """`check_ids` of both, and InputError unless there is one target for every id."""
    check_ids(ids)
    check_ids(targets, "targets")
    if targets.shape != ids.shape:
        raise InputError(f"targets have the shape {targets.shape}, but idx has {ids.shape}")


def check_channels(x: Any, channels: int | None, name: str = "x") -> None:
    """InputError for what is no array of real numbers, or not [B T channels].

    `channels` None is any number of them.
    """
    _check_kind(x, name, jnp.floating, "channels must be floating-point numbers")
    if len(x.shape) != 3:
        remedy = f"; {name}[None] is a batch of one" if len(x.shape) == 2 else ""
        raise InputError(f"{name} must be [batch, time, channels], got the shape {x.shape}{remedy}")
    if channels is not None and x.shape[-1] != channels:
        raise InputError(f"{name} has {x.shape[-1]} channels; this module was made for {channels}")


def check_context(x: Any, context: Any, channels: int) -> None:
    """`check_channels` of both; the context may be None, and has as many rows as `x`."""
    check_channels(x, channels)
    if context is not None:
        check_channels(context, channels, "context")
        if len(context) != len(x):
            raise InputError(f"context has a batch of {len(context)}, but x one of {len(x)}")


def check_model(model: Any) -> None:
    """InputError for what is no module that can be called with ids alone."""
    right = "a model is a module that gives logits [B T V] when it is called with ids [B T]"
    if not isinstance(model, nnx.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputError(f"{right}; got {what}")
    if not callable(model):
        raise InputError(f"{right}; {type(model).__name__} has no __call__")
    try:
        inspect.signature(model).bind(None)
    except TypeError as error:
        raise InputError(f"{right}; {type(model).__name__} takes others ({error})") from error


def check_logits(logits: Any, ids: Array) -> Array:
    """What a model has given for `ids` [B T]; InputError unless it is [B T V]."""
    if isinstance(logits, tuple):
        raise InputError("the model gives a tuple; it must give the logits [B T V] alone")
    _check_kind(logits, "logits", jnp.floating, "logits must be floating-point numbers")
    if logits.ndim != 3 or logits.shape[:2] != ids.shape:
        raise InputError(
            f"the model gives logits of the shape {logits.shape} for ids of the shape {ids.shape}; "
            "they must be [B T V]"
        )
    return logits


def check_targets(logits: Any, targets: Any) -> None:
    """InputError for other kinds, or unless there is one target for every row of logits."""
    _check_kind(logits, "logits", jnp.floating, "logits must be floating-point numbers")
    _check_kind(targets, "targets", jnp.integer, "targets are ids, so integers")
    if targets.shape != logits.shape[:-1]:
        raise InputError(
            f"targets have the shape {targets.shape}, but logits of the shape {logits.shape} need "
            f"{logits.shape[:-1]}"
        )


def check_arrays(**arrays: Any) -> None:
    """InputError for what is no array of floating-point numbers, by its name."""
    for name, array in arrays.items():
        _check_kind(array, name, jnp.floating, "it must be floating-point numbers")


def check_mask(mask: Any) -> None:
    """InputError unless it is an array of booleans."""
    _check_kind(mask, "mask", jnp.bool_, "it must be booleans, True where a key may be seen")


def check_rngs(rngs: Any) -> None:
    """InputError unless new weights can be drawn from them."""
    if not isinstance(rngs, nnx.Rngs):
        raise InputError(
            f"rngs must be flax's, nnx.Rngs(0) with any seed; got {type(rngs).__name__}"
        )


def check_key(key: Any, rows: int) -> None:
    """InputError unless it is one key of jax.random, of the new kind or the old, or `rows` keys."""
    what = type(key).__name__
    if isinstance(key, jax.Array | np.ndarray):
        new = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if new or (key.dtype == jnp.uint32 and key.ndim):
            shape = key.shape if new else key.shape[:-1]
            if shape in ((), (rows,)):
                return
        what = f"{key.dtype} of the shape {key.shape}"
    raise InputError(
        "key must be one key, jax.random.key(0) with any seed, or one for each row; got " + what
    )


def check_lengths(lengths: Any, rows: int, longest: int) -> None:
    """InputError unless they are integers [rows], each from 1 to `longest`."""
    _check_kind(lengths, "lengths", jnp.integer, "lengths are numbers of tokens, so integers")
    if lengths.shape != (rows,):
        raise InputError(
            f"lengths must be one for each of {rows} rows, got the shape {lengths.shape}"
        )
    if isinstance(lengths, Tracer):
        return
    outside = np.asarray(lengths)[(np.asarray(lengths) < 1) | (np.asarray(lengths) > longest)]
    if outside.size:
        raise InputError(
            f"lengths must be from 1 to {longest}, the prompts' width; got {outside[0]}"
        )


def check_allowed(allowed: Any) -> None:
    """InputError unless they are booleans [V], of which one is True."""
    _check_kind(allowed, "allowed", jnp.bool_, "it must be booleans, True where an id may be drawn")
    if allowed.ndim != 1:
        raise InputError(f"allowed must be [vocab], got the shape {allowed.shape}")
    if not isinstance(allowed, Tracer) and not np.asarray(allowed).any():
        raise InputError("allowed has no id that may be drawn")


def _check_kind(array: Any, name: str, kind: Any, rule: str) -> None:
    dtype = getattr(array, "dtype", None)
    # NumPy's types are what JAX's and NumPy's arrays have, and no others.
    if not isinstance(dtype, np.dtype) or isinstance(array, jax.ShapeDtypeStruct):
        what = type(array).__name__
        framework = type(array).__module__.partition(".")[0]
        if isinstance(array, str):
            raise InputError(f"{name} is a str; a tokenizer's encode() makes ids of it")
        if isinstance(array, jax.ShapeDtypeStruct):
            raise InputError(f"{name} is the shape of an array; jax.eval_shape takes that")
        if framework in CONVERSIONS:
            remedy = CONVERSIONS[framework].format(name)
            raise InputError(f"{name} is a {framework} {what}; give {remedy}")
        remedy = f"; give jnp.asarray({name})" if isinstance(array, list | tuple) else ""
        raise InputError(f"{name} must be an array, got {what}{remedy}")
    if not jnp.issubdtype(dtype, kind):
        raise InputError(f"{name} is of type {dtype}; {rule}")
