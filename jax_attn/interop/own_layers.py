"""Whether a module has our own layers where a state dict has names for their weights.

A layer that a user has put in the place of one of ours may have other weights, or make something
else of the same ones: a LoRA's are in its adapters, too.
"""

from flax import nnx

from jax_attn.errors import InputError
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT, Block, FeedForward, LanguageModelHead
from jax_attn.models.single_head import SingleHeadLanguageModel
from jax_attn.nn.attention import Head, MultiHeadAttention
from jax_attn.nn.layers import Embedding, LayerNorm

# flax's own compute the same with the same weights; a subclass of theirs, as LoRALinear, may not.
LAYERS: dict[type, tuple[type, ...]] = {
    Embedding: (Embedding, nnx.Embed),
    nnx.Linear: (nnx.Linear,),
    LayerNorm: (LayerNorm, nnx.LayerNorm),
    LanguageModelHead: (LanguageModelHead, nnx.Linear),
}
_TABLES = {"token_embedding_table": Embedding, "position_embedding_table": Embedding}
PARTS: dict[type, dict[str, type]] = {
    BigramLanguageModel: {"token_embedding_table": Embedding},
    SingleHeadLanguageModel: _TABLES | {"sa_head": Head, "lm_head": nnx.Linear},
    GPT: _TABLES | {"blocks": Block, "ln_f": LayerNorm, "lm_head": LanguageModelHead},
    Block: {"ln1": LayerNorm, "sa": MultiHeadAttention, "ln2": LayerNorm, "ffwd": FeedForward},
    FeedForward: {"expand": nnx.Linear, "contract": nnx.Linear},
    MultiHeadAttention: {"qkv": nnx.Linear, "proj": nnx.Linear},
    Head: {"key": nnx.Linear, "query": nnx.Linear, "value": nnx.Linear},
}


def require_own_layers(model: nnx.Module, path: str = "") -> None:
    """InputError that names the first layer of another kind than ours."""
    for kind, parts in PARTS.items():
        if not isinstance(model, kind):
            continue
        for name, expected in parts.items():
            part = getattr(model, name)
            several = isinstance(part, nnx.List)
            for i, layer in enumerate(part if several else [part]):
                where = f"{path}{name}.{i}" if several else f"{path}{name}"
                exactly = LAYERS.get(expected)
                if type(layer) not in exactly if exactly else not isinstance(layer, expected):
                    article = "an" if expected is Embedding else "a"
                    raise InputError(
                        f"{where} is a {type(layer).__name__}; a state dict has names for {article}"
                        f" {expected.__name__} there: put one with the merged weights in its place"
                    )
                require_own_layers(layer, f"{where}.")


def require_names(model: nnx.Module, named: list[nnx.Param], layout: str) -> None:
    """InputError that names a parameter of `model` which is none of `named`."""
    for path, value in nnx.iter_graph(model):
        if isinstance(value, nnx.Param) and not any(value is param for param in named):
            where = ".".join(map(str, path))
            raise InputError(f"layout {layout!r} has no name for the parameter {where}")
