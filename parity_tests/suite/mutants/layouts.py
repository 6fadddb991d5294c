"""Faults of the bridges to nanoGPT, minGPT and GPT-2, and of what is told by the weights alone."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from jax_attn.interop import from_state_dict, gpt2_layouts, names, state_dict, tensors
from jax_attn.models import gpt
from jax_attn.nn import attention, layers
from parity_tests.suite.mutants.planting import Mutant, Plant, edited, wrapped

GPT2 = gpt2_layouts.__name__
GPT = f"{GPT2}:_gpt"
OPENED = f"{from_state_dict.__name__}:gpt_config_of"
ACTIVATION = f"{from_state_dict.__name__}:_activation"
MULTI = f"{attention.__name__}:MultiHeadAttention"
PIECE = f"{state_dict.__name__}:_piece"
TENSOR = f"{tensors.__name__}:_of_torch"
STRIPPED = f"{names.__name__}:_stripped"


def _mutant(name: str, description: str, plant: Plant, caught_by: str = "layouts") -> Mutant:
    return Mutant(name, "bridge", description, caught_by, plant)


def _permuted(order: Callable[[int, int], Any]) -> Callable[..., Any]:
    """Query, key and value of the fused matrix in another order of channels."""

    def wrap(entries: Callable[..., Any]) -> Callable[..., Any]:
        def made(model: Any, *args: Any, **options: Any) -> Iterable[Any]:
            size, heads = model.config.n_embd, model.config.n_head
            for entry in entries(model, *args, **options):
                if ".c_attn." in entry.name:
                    yield replace(entry, index=(..., order(size, heads)))
                else:
                    yield entry

        return made

    return wrap


def _key_first(size: int, heads: int) -> Any:
    del heads
    query, key, value = np.split(np.arange(3 * size), 3)
    return np.concatenate([key, query, value])


def _interleaved(size: int, heads: int) -> Any:
    """Query, key and value of head 0, then of head 1, as GPT-NeoX keeps them."""
    return np.arange(3 * size).reshape(3, heads, -1).swapaxes(0, 1).ravel()


def _last_head_first(size: int, heads: int) -> Any:
    return np.arange(3 * size).reshape(3, heads, -1)[:, ::-1].ravel()


def _square_output_kept(entries: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any, **options: Any) -> Iterable[Any]:
        for entry in entries(*args, **options):
            square = entry.name == "lm_head.weight" and len(set(entry.shape)) == 1
            yield replace(entry, transposed=False) if square else entry

    return made


def _norms_swapped(entries: Callable[..., Any]) -> Callable[..., Any]:
    other = {".ln_1.": ".ln_2.", ".ln_2.": ".ln_1."}

    def made(*args: Any, **options: Any) -> Iterable[Any]:
        for entry in entries(*args, **options):
            found = next((part for part in other if part in entry.name), None)
            yield replace(entry, name=entry.name.replace(found, other[found])) if found else entry

    return made


MUTANTS = [
    _mutant(
        "nanoGPT's square matrices as Conv1D",
        "c_proj is [out, in] there, and no shape says so",
        edited(
            f"{GPT2}:nanogpt",
            "_gpt(model, linear,",
            "_gpt(model, lambda name, layer: (_conv1d if layer.in_features == layer.out_features"
            " else linear)(name, layer),",
        ),
    ),
    _mutant(
        "square output matrix not transposed",
        "as many ids as channels",
        wrapped(GPT, _square_output_kept),
    ),
    _mutant(
        "c_attn filled as key, query, value",
        "for query, key, value",
        wrapped(GPT, _permuted(_key_first)),
    ),
    _mutant(
        "c_attn interleaved by head",
        "q k v of head 0, then of head 1",
        wrapped(GPT, _permuted(_interleaved)),
    ),
    _mutant(
        "c_attn's heads in reverse", "the last first", wrapped(GPT, _permuted(_last_head_first))
    ),
    _mutant(
        "their blocks in reverse",
        "the last first",
        edited(GPT, "enumerate(model.blocks)", "enumerate(reversed(model.blocks))"),
    ),
    _mutant(
        "their norms swapped",
        "ln_1 for ln_2",
        wrapped(GPT, _norms_swapped),
    ),
    _mutant(
        "minGPT's masks not written",
        "its class asks for them",
        edited(f"{GPT2}:nanogpt", "is_mingpt(model.config)", "False"),
    ),
    _mutant(
        "masked scores not looked at",
        "a buffer that masks by nothing is taken",
        edited("jax_attn.interop.entries:MaskedScore.fault", "<= NO_WEIGHT", "< 0"),
    ),
    _mutant(
        "prefix of parallel training kept",
        "module. is no part of a name",
        edited(STRIPPED, 'while parts[:1] == ["module"]:', "while False:"),
    ),
    _mutant(
        "prefix of the compiler kept",
        "_orig_mod. is no part of a name",
        edited(STRIPPED, 'if part != "_orig_mod"', "if True"),
    ),
    _mutant(
        "prefix of the compiler taken off in front alone",
        "a compiled block has it in the middle",
        edited(STRIPPED, 'if part != "_orig_mod"', 'if part != "_orig_mod" or ".h." in name'),
    ),
    _mutant(
        "one of two names lost",
        "the last given counts",
        edited(f"{names.__name__}:plain_names", "if whole in plain:", "if False:"),
    ),
    _mutant(
        "a row too many is cut off",
        "a vocabulary of one id more passes",
        edited(
            PIECE,
            "if value.shape != entry.shape:",
            "value = value[: entry.shape[0]]\n    if value.shape != entry.shape:",
        ),
    ),
    _mutant(
        "tied twice",
        "an output matrix of its own beside the embedding that it is",
        edited(OPENED, "else _same(output, arrays[names.token])", "else False"),
    ),
    _mutant(
        "tied where it is not there",
        "a checkpoint of untied embeddings without its output matrix passes",
        edited(OPENED, "(defaults | told | untold)", "(defaults | told | untold | defaults)"),
    ),
    _mutant(
        "the fields given count for more than the arrays",
        "another number of layers is taken as it is said",
        edited(f"{from_state_dict.__name__}:_require_agreement", "value != told[name]:", "False:"),
    ),
    _mutant(
        "GPT-2's activation in nanoGPT",
        "tanh for exact",
        edited(ACTIVATION, 'else "gelu"', 'else "gelu_tanh"'),
    ),
    _mutant(
        "nanoGPT's activation in minGPT",
        "exact for tanh",
        edited(ACTIVATION, 'return "gelu_tanh" if masks', 'return "gelu" if masks'),
    ),
    _mutant(
        "bfloat16 tensors through float16",
        "three bits more and a smaller range",
        edited(TENSOR, "tensor.float()", "tensor.half()"),
    ),
    _mutant(
        "a norm's bias forgotten",
        "in the norm, which has it",
        edited(
            f"{layers.__name__}:LayerNorm.__call__",
            "None if self.bias is None else self.bias[...]",
            "None",
        ),
        "primitives",
    ),
    _mutant(
        "the heads' scale forgotten",
        "a scale of one's own in the output, not in the weights",
        edited(
            f"{MULTI}.__call__",
            "value, causal=causal, scale=self.scale",
            "value, causal=causal, scale=None",
        ),
        "attention",
    ),
    _mutant(
        "the heads' scale forgotten in the weights",
        "shown, not used",
        edited(f"{MULTI}.weights", "scale=self.scale", "scale=None"),
        "attention",
    ),
    _mutant(
        "the heads' scale forgotten in a step",
        "with the key/value cache alone",
        edited(f"{MULTI}.step", "scale=self.scale", "scale=None"),
        "generation",
    ),
    _mutant(
        "the configuration's scale not passed on",
        "to the blocks' attention",
        edited(f"{gpt.__name__}:Block.__init__", "scale=config.attention_scale", "scale=None"),
        "block",
    ),
]
