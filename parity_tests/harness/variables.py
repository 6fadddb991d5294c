"""The arrays that a JAX model holds, by dotted name, and the model with others in their place."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity_tests.harness.kinds import is_partial, kind_of

ModelT = TypeVar("ModelT")
Values = dict[str, Any]


def variables(model: Any) -> Values:
    """Weights, statistics and whatever else is an array, by dotted name.

    NNX: variables and plain arrays, without the state of random streams. Linen: names without
    the collection ("bn.mean"); with it ("batch_stats.bn.mean") where two collections have the same.
    Equinox and other trees: arrays by the way to them ("layers.0.weight"). Functions: what
    `functools.partial` binds to them; one tree goes without a prefix, several by number or keyword.
    """
    return take_apart(model)[0]


def with_variables(model: ModelT, values: Mapping[str, Any]) -> ModelT:
    """A new model of the same kind, with these arrays in the place of its own; a subset will do.

    KeyError for a name that the model does not have.
    """
    own, rebuild = take_apart(model)
    unknown = sorted(values.keys() - own.keys())
    if unknown:
        raise KeyError(f"the model has no {', '.join(unknown)}")
    return rebuild({**own, **values})


def parameters(model: Any) -> frozenset[str]:
    """The names of those with a gradient.

    nnx.Param, Linen's collection "params", floating-point arrays elsewhere.
    """
    match kind_of(model):
        case "nnx":
            state = nnx.state(model, nnx.Param)
            names = frozenset(_name(path) for path, _ in nnx.to_flat_state(state))
        case "linen":
            _, tree = model.unbind()
            names = frozenset(
                name
                for name, (collection, _) in _linen_paths(tree).items()
                if collection == "params"
            )
        case _:
            names = frozenset(variables(model))
    return frozenset(n for n, value in variables(model).items() if n in names and _is_float(value))


def take_apart(model: Any) -> tuple[Values, Callable[[Values], Any]]:
    """Its arrays, and what makes a new model of others by the same names.

    What is not an array stays as it was now, whatever becomes of the model.
    """
    match kind_of(model):
        case "nnx":
            return _take_nnx_apart(model)
        case "linen":
            return _take_linen_apart(model)
        case "function" if is_partial(model):
            return _take_partial_apart(model)
        case "equinox" | "function":
            return _take_tree_apart(model)
        case _:
            raise TypeError("a torch module's weights are in its state_dict()")


def _take_nnx_apart(model: nnx.Module) -> tuple[Values, Callable[[Values], Any]]:
    graphdef, random, rest = nnx.split(model, nnx.RngState, ...)
    flat = {_name(path): (path, leaf) for path, leaf in nnx.to_flat_state(rest)}
    values = {name: _value(leaf) for name, (_, leaf) in flat.items()}
    of_random = jax.tree.leaves(random)

    def rebuild(values: Values) -> nnx.Module:
        leaves = [
            (path, leaf.replace(values[name]) if isinstance(leaf, nnx.Variable) else values[name])
            for name, (path, leaf) in flat.items()
        ]
        streams = jax.tree.unflatten(jax.tree.structure(random), of_random)
        return nnx.merge(graphdef, streams, nnx.from_flat_state(leaves))

    return values, rebuild


def _take_linen_apart(model: Any) -> tuple[Values, Callable[[Values], Any]]:
    module, tree = model.unbind()
    scope = model.scope
    random = {name: stream.as_jax_rng() for name, stream in scope.rngs.items()}
    paths = _linen_paths(tree)
    leaves, structure = jax.tree.flatten(tree)
    values = dict(zip(paths, leaves, strict=True))

    def rebuild(values: Values) -> Any:
        tree = jax.tree.unflatten(structure, [values[name] for name in paths])
        return module.bind(tree, rngs=random, mutable=scope.mutable)

    return values, rebuild


def _linen_paths(tree: Any) -> dict[str, tuple[str, str]]:
    """Name -> collection and name inside it, in the tree's order."""
    inside = []
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        collection, *rest = path
        # A box around an array, as of nn.with_partitioning, is no part of its name.
        keys = [key for key in rest if not isinstance(key, jax.tree_util.GetAttrKey)]
        inside.append((str(collection.key), _of_keys(keys)))
    names = [name for _, name in inside]
    return {
        f"{collection}.{name}" if names.count(name) > 1 else name: (collection, name)
        for collection, name in inside
    }


def _take_partial_apart(model: Any) -> tuple[Values, Callable[[Values], Any]]:
    bound = {str(i): tree for i, tree in enumerate(model.args)} | model.keywords
    holding = {key for key, tree in bound.items() if any(map(_is_array, jax.tree.leaves(tree)))}
    values, rebuild_bound = _take_tree_apart(bound, holding if len(holding) == 1 else set())

    def rebuild(values: Values) -> Any:
        new = rebuild_bound(values)
        arguments = [new[str(i)] for i in range(len(model.args))]
        keywords = {key: new[key] for key in model.keywords}
        return type(model)(model.func, *arguments, **keywords)

    return values, rebuild


def _take_tree_apart(
    tree: Any, without_prefix: set[str] | frozenset[str] = frozenset()
) -> tuple[Values, Callable[[Values], Any]]:
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = []
    for path, _ in flat:
        skipped = bool(path) and getattr(path[0], "key", None) in without_prefix
        names.append(_of_keys(path[1:] if skipped else path))
    values = {name: leaf for name, (_, leaf) in zip(names, flat, strict=True) if _is_array(leaf)}

    def rebuild(values: Values) -> Any:
        leaves = [values.get(name, leaf) for name, (_, leaf) in zip(names, flat, strict=True)]
        return jax.tree_util.tree_unflatten(structure, leaves)

    return values, rebuild


def _of_keys(path: Any) -> str:
    return _name(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k))) for k in path)


def _name(path: Any) -> str:
    return ".".join(map(str, path)) or "value"


def _value(leaf: Any) -> Any:
    return leaf[...] if isinstance(leaf, nnx.Variable) else leaf


def _is_array(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array | np.ndarray):
        return False
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating))
