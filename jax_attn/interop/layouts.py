"""The layouts by their names.

* `lecture`: the lecture's own `gpt.py` and `bigram.py`.
* `nanogpt`: nanoGPT and minGPT.
* `gpt2`: Hugging Face's GPT-2.
"""

from typing import Literal, get_args

from flax import nnx

from jax_attn.errors import InputError
from jax_attn.interop.entries import Buffer, Entries, Entry
from jax_attn.interop.gpt2_layouts import gpt2, nanogpt
from jax_attn.interop.lecture_layout import lecture
from jax_attn.interop.own_layers import require_names, require_own_layers

Layout = Literal["lecture", "nanogpt", "gpt2"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def entries_of(model: nnx.Module, layout: Layout) -> list[Entry | Buffer]:
    """All entries of a module.

    InputError for a module or layout without names, and for layers and parameters of a user's own.
    """
    require_own_layers(model)
    entries = list(_named(model, require_layout(layout)))
    require_names(model, [e.param for e in entries if isinstance(e, Entry)], layout)
    return entries


def _named(model: nnx.Module, layout: Layout) -> Entries:
    match layout:
        case "lecture":
            return lecture(model)
        case "nanogpt":
            return nanogpt(model)
        case "gpt2":
            return gpt2(model)


def require_layout(layout: str) -> Layout:
    """InputError unless there is such a layout."""
    for known in LAYOUTS:
        if layout == known:
            return known
    raise InputError(f"layout {layout!r} is unknown; choose lecture, nanogpt or gpt2")
