"""A model from somebody's weights alone: what the arrays do not tell is given, or refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from numpy.typing import NDArray

from jax_attn.config import GPTConfig
from jax_attn.errors import InputError
from jax_attn.interop.layouts import Layout, require_layout
from jax_attn.interop.names import layout_of
from jax_attn.interop.state_dict import fill
from jax_attn.interop.tensors import arrays_of
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel
from jax_attn.models.single_head import SingleHeadLanguageModel

__all__ = ["layout_of", "model_of"]

Arrays = Mapping[str, NDArray]


@dataclass(frozen=True)
class Names:
    """Of a GPT's parameters in a layout, as far as they tell its shape; after a block's number."""

    token: str
    position: str
    blocks: str
    qkv_bias: str
    proj_bias: str
    norm_bias: str
    expand: str
    expand_axis: int  # of the feed-forward's channels


LECTURE = Names(
    "token_embedding_table.weight",
    "position_embedding_table.weight",
    "blocks.",
    "sa.heads.0.query.bias",
    "sa.proj.bias",
    "ln1.bias",
    "ffwd.net.0.weight",
    expand_axis=0,
)
NANOGPT = Names(
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "transformer.h.",
    "attn.c_attn.bias",
    "attn.c_proj.bias",
    "ln_1.bias",
    "mlp.c_fc.weight",
    expand_axis=0,
)
GPT2 = replace(NANOGPT, expand_axis=1)
NAMES: dict[Layout, Names] = {"lecture": LECTURE, "nanogpt": NANOGPT, "gpt2": GPT2}


def model_of(
    state_dict: Mapping[str, Any],
    layout: Layout | None = None,
    *,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    **fields: Any,
) -> LanguageModel:
    """The model that the weights in `state_dict` are of: bigram, single head or GPT.

    `layout` None is found by `layout_of`. Values are those that `load_state_dict` takes. `fields`
    are fields of `GPTConfig`. What the arrays tell must agree with them: vocabulary, block size,
    layers, channels, biases, and in layout lecture the heads. For the rest they are needed (the
    heads of nanogpt and gpt2), or else it is:

    * dropout rate 0, epsilon 1e-5, the scale head_size**-0.5; the last cell of the lecture's
      notebook has `attention_scale=n_embd**-0.5`, of which weights tell nothing;
    * activation: relu in layout lecture; gelu_tanh in gpt2, Hugging Face's default; in nanogpt the
      exact gelu, which nanoGPT computes, but gelu_tanh, minGPT's, where there are an output matrix
      that is not tied, causal masks and biases: minGPT has all three, nanoGPT ties its matrix.
      What nanoGPT of before 2023-06 trained wants `activation="gelu_tanh"`;
    * tied embeddings: where the output matrix is missing or is the embedding over again.

    The model computes in `dtype` (None: the parameters') and drops nothing; no weights are drawn.
    InputError names what is missing and how to give it, and what `load_state_dict` refuses.
    """
    arrays = arrays_of(state_dict)
    found = layout_of(arrays)
    if layout is not None and require_layout(layout) != found:
        raise InputError(f"these are weights of layout {found!r}, not {layout!r}")
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    if found == "lecture" and len(_shape(arrays, LECTURE.token)) == 2:
        if LECTURE.position not in arrays:
            return _bigram(arrays, fields, dtypes)
        if any(name.startswith("sa_head.") for name in arrays):
            return _single_head(arrays, fields, dtypes)
    config = gpt_config_of(arrays, found, fields)
    return _filled(lambda: GPT(config, rngs=nnx.Rngs(0), **dtypes), arrays, found)


def _bigram(arrays: Arrays, given: Mapping[str, Any], dtypes: Any) -> BigramLanguageModel:
    vocab_size, _ = _shape(arrays, LECTURE.token)
    _require_known("a bigram model", given, ["vocab_size"])
    _require_agreement(given, {"vocab_size": vocab_size})
    return _filled(
        lambda: BigramLanguageModel(vocab_size, rngs=nnx.Rngs(0), **dtypes), arrays, "lecture"
    )


def _single_head(arrays: Arrays, given: Mapping[str, Any], dtypes: Any) -> SingleHeadLanguageModel:
    told = {
        "vocab_size": _shape(arrays, LECTURE.token)[0],
        "block_size": _shape(arrays, LECTURE.position)[0],
        "n_embd": _shape(arrays, LECTURE.token)[1],
        "head_size": _shape(arrays, "sa_head.key.weight")[0],
    }
    _require_known("a model of one head", given, list(told))
    _require_agreement(given, told)
    return _filled(
        lambda: SingleHeadLanguageModel(**told, rngs=nnx.Rngs(0), **dtypes), arrays, "lecture"
    )


def gpt_config_of(arrays: Arrays, layout: Layout, given: Mapping[str, Any]) -> GPTConfig:
    """A GPT's configuration by its arrays and what is `given` of it; see `model_of`."""
    _require_known("a GPT", given, [field.name for field in fields(GPTConfig)])
    names = NAMES[layout]
    vocab_size, n_embd = _shape(arrays, names.token)
    told: dict[str, Any] = {
        "vocab_size": vocab_size,
        "n_embd": n_embd,
        "block_size": _shape(arrays, names.position)[0],
        "n_layer": _count(arrays, names.blocks),
        "qkv_bias": _in_a_block(arrays, names, names.qkv_bias),
        "linear_bias": _in_a_block(arrays, names, names.proj_bias),
        "norm_bias": _in_a_block(arrays, names, names.norm_bias),
        "head_bias": "lm_head.bias" in arrays,
    }
    inner = _shape(arrays, f"{names.blocks}0.{names.expand}")[names.expand_axis]
    told["n_inner"] = 0 if inner == 4 * n_embd else inner
    if layout == "lecture":
        told["n_head"] = _count(arrays, f"{names.blocks}0.sa.heads.")
    elif "n_head" not in given:
        raise InputError(
            "n_head, the number of heads, cannot be told from the arrays: give it, as n_head=12 "
            "or --n-head 12, of train.py --model.n-head 12 (nanoGPT keeps it in model_args, "
            "Hugging Face in config.json)"
        )
    if given.get("n_inner") == 4 * n_embd:
        given = {**given, "n_inner": 0}
    _require_agreement(given, told)
    untold = {name: value for name, value in given.items() if name not in told}
    output = arrays.get("lm_head.weight")
    # What should be there and is not is missing, and no sign of anything, in the lecture's names.
    tied = layout != "lecture" if output is None else _same(output, arrays[names.token])
    defaults = {
        "tie_embeddings": tied,
        "activation": _activation(arrays, layout, told, untold.get("tie_embeddings", tied)),
    }
    return GPTConfig(**(defaults | told | untold))


def _activation(arrays: Arrays, layout: Layout, told: Mapping[str, Any], tied: bool) -> str:
    if layout != "nanogpt":
        return "relu" if layout == "lecture" else "gelu_tanh"
    masks = any(name.endswith(".attn.bias") for name in arrays)
    return "gelu_tanh" if masks and told["linear_bias"] and not tied else "gelu"


def _require_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{what} has no {name}; it has {', '.join(known)}")


def _require_agreement(given: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """InputError for given fields that the arrays contradict."""
    for name, value in given.items():
        if name in told and value != told[name]:
            raise InputError(f"{name} is given as {value!s:.40}, but the arrays have {told[name]}")


def _filled(build: Callable[[], Any], arrays: Arrays, layout: Layout) -> Any:
    """What `build` makes, with the arrays for weights; none are drawn."""
    model = nnx.eval_shape(build)
    if jax.tree.leaves(nnx.state(model, nnx.RngState)):
        nnx.update(model, jax.jit(lambda: nnx.state(build(), nnx.RngState))())
    return fill(model, arrays, layout)


def _shape(arrays: Arrays, name: str) -> tuple[int, int]:
    if name not in arrays:
        raise InputError(f"missing: {name}")
    if arrays[name].ndim != 2:
        raise InputError(f"{name} has shape {arrays[name].shape}; it must be a matrix")
    rows, columns = arrays[name].shape
    return rows, columns


def _count(arrays: Arrays, prefix: str) -> int:
    """How many different numbers come after the prefix."""
    found = {
        name.removeprefix(prefix).partition(".")[0] for name in arrays if name.startswith(prefix)
    }
    return len(found)


def _in_a_block(arrays: Arrays, names: Names, name: str) -> bool:
    return any(key.startswith(names.blocks) and key.endswith(f".{name}") for key in arrays)


def _same(a: NDArray, b: NDArray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)
