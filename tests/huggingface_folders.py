"""Folders of Hugging Face's GPT-2, small, as its library writes them."""

import json

import safetensors.torch
import torch
import transformers

from tests.weight_models import T, V


def huggingface(folder, **settings):
    config = transformers.GPT2Config(
        **({"vocab_size": V, "n_positions": T, "n_embd": 12, "n_layer": 1, "n_head": 3} | settings)
    )
    torch.manual_seed(1)
    module = transformers.GPT2LMHeadModel(config).eval()
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.4)
    module.save_pretrained(folder)
    return module


def parts(folder, kind="safetensors"):
    """A folder of Hugging Face's whose weights are in two files; the index that says so."""
    module = huggingface(folder)
    (folder / "model.safetensors").unlink()
    tensors = {k: v.clone() for k, v in module.state_dict().items() if k != "lm_head.weight"}
    stem = "model" if kind == "safetensors" else "pytorch_model"
    index = {}
    for i in range(2):
        part = {name: tensors[name] for name in list(tensors)[i::2]}
        file = f"{stem}-0000{i + 1}-of-00002.{kind}"
        if kind == "bin":
            torch.save(part, folder / file)
        else:
            safetensors.torch.save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    path = folder / f"{stem}.{kind}.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return module, path
