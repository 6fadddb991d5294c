"""Models as the files of others: whole, never over what is there, and how to open them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from jax_attn.config import GPTConfig
from jax_attn.data import CharTokenizer, Tokenizer
from jax_attn.data.file_bytes import shown
from jax_attn.interop.held import BIASES, Held, held
from jax_attn.interop.huggingface_config import config_of
from jax_attn.interop.huggingface_tokenizer import tokenizer_files
from jax_attn.interop.meta_pickle import write_meta
from jax_attn.interop.new_path import new_path
from jax_attn.interop.safetensors_file import model_metadata, write_tensors
from jax_attn.interop.torch_file import write_torch
from jax_attn.json_files import write_json
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel

NEVER = 1e9  # nanoGPT's best_val_loss before the first evaluation


def export_lecture(model: LanguageModel, tokenizer: Tokenizer | None, path: Path) -> Iterator[str]:
    """A bare state dict for the lecture's class, of torch.save or, by its suffix, safetensors.

    Lines about what was written. InputError for what the class cannot hold, and where something is
    at `path`.
    """
    found = held(model, "lecture")
    safe = path.suffix == ".safetensors"
    if safe:
        write_tensors(path, found.written_out(), model_metadata(found.record, "lecture", tokenizer))
    else:
        write_torch(path, found.tensors, found.aliases)
    yield f"wrote {shown(path)}: {_class_of(model)}"
    yield from _about_zeros(found)
    if isinstance(model, GPT) and model.config.attention_scale is not None:
        yield "its scale is n_embd**-0.5, as in the last cell of the lecture's notebook"
    load = "safetensors.torch.load_file" if safe else "torch.load"
    yield f"open it with: model.load_state_dict({load}({str(path)!r}))"


def export_nanogpt(model: LanguageModel, tokenizer: Tokenizer | None, path: Path) -> Iterator[str]:
    """A folder with `ckpt.pt` and `meta.pkl` for nanoGPT's sample.py; minGPT's is a bare file."""
    found = held(model, "nanogpt")
    assert isinstance(model, GPT)
    config = model.config
    if not config.tie_embeddings:
        write_torch(path, found.tensors)
        yield f"wrote {shown(path)}: {_class_of(model)}"
        yield from _about_zeros(found)
        yield "its output matrix is not tied, as minGPT's, which nanoGPT's class cannot hold"
        yield f"open it with: model.load_state_dict(torch.load({str(path)!r})), minGPT's model"
        return
    with new_path(path) as partial:
        partial.mkdir()
        beside = {
            "model_args": _model_args(config, found),
            "iter_num": 0,
            "best_val_loss": NEVER,
            # sample.py joins it to "data", of which nothing is left before an absolute path.
            "config": {"dataset": os.path.abspath(path)},
        }
        write_torch(partial / "ckpt.pt", found.tensors, found.aliases, "model", beside)
        if isinstance(tokenizer, CharTokenizer):
            write_meta(partial / "meta.pkl", tokenizer)
    yield f"wrote {shown(path)}: ckpt.pt, {_class_of(model)}"
    yield from _about_zeros(found)
    if isinstance(tokenizer, CharTokenizer):
        yield "and meta.pkl, its characters, which ckpt.pt says are there"
    elif tokenizer is not None:
        yield "without its tokenizer: sample.py takes GPT-2's tokens where there is no meta.pkl"
    flag = shlex.quote(f"--out_dir={os.path.abspath(path)}")
    yield f"open it in nanoGPT's folder with: python sample.py {flag}"


def export_gpt2(model: LanguageModel, tokenizer: Tokenizer | None, path: Path) -> Iterator[str]:
    """A folder with config.json, model.safetensors and the tokenizer's files."""
    found = held(model, "gpt2")
    assert isinstance(model, GPT)
    end_of_text = None if tokenizer is None else tokenizer.end_of_text
    files = {"config.json": config_of(model.config, end_of_text)}
    if tokenizer is not None:
        files |= tokenizer_files(tokenizer, model.block_size)
    with new_path(path) as partial:
        partial.mkdir()
        for name, content in files.items():
            write_json(partial / name, content)
        metadata = model_metadata(found.record, "gpt2", tokenizer)
        write_tensors(partial / "model.safetensors", found.tensors, metadata)
    yield f"wrote {shown(path)}: {', '.join((*files, 'model.safetensors'))}"
    yield from _about_zeros(found)
    yield f"open it with: transformers.GPT2LMHeadModel.from_pretrained({str(path)!r})"
    if "tokenizer.json" in files:
        yield f"and its tokens: transformers.AutoTokenizer.from_pretrained({str(path)!r})"


def _model_args(config: GPTConfig, found: Held) -> dict[str, int | float | bool]:
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "block_size": config.block_size,
        "bias": config.qkv_bias or "qkv_bias" in found.added,
        "vocab_size": config.vocab_size,
        "dropout": config.dropout_rate,
    }


def _class_of(model: LanguageModel) -> str:
    """Which shape the class must have that takes it."""
    vocab_size = model.token_embedding_table.num_embeddings
    if isinstance(model, BigramLanguageModel):
        return f"vocab_size={vocab_size}"
    sizes = f"vocab_size={vocab_size}, block_size={model.block_size}"
    if isinstance(model, GPT):
        config = model.config
        sizes += f", n_layer={config.n_layer}, n_head={config.n_head}, n_embd={config.n_embd}"
    return sizes


def _about_zeros(found: Held) -> Iterator[str]:
    if found.added:
        names = ", ".join(BIASES[name] for name in found.added)
        yield f"biases that the model has not are zeros there: {names}"


EXPORTS = {"lecture": export_lecture, "nanogpt": export_nanogpt, "gpt2": export_gpt2}
