"""The lecture's demonstrations in torch: `torch_ref` where it has the piece, else the cell's code.

Names are those of `jax_attn.lecture`; every function stands for one of its demonstrations.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torch_ref
from jax_attn import Corpus
from jax_attn.lecture.tensor_demonstrations import SCALING

Values = dict[str, Any]
BLOCK_SIZE = 8


def torch_values(load_corpus: Callable[[], Corpus]) -> Iterator[Values]:
    """The values of one demonstration after the other, tensors as NumPy arrays."""
    tensors = (random_vectors, averaging_by_product, averaging_three_ways, masks_and_softmax)
    for demonstration in (*tensors, self_attention, scaling, saturated_softmax):
        yield _plain(demonstration())
    corpus = load_corpus()
    train, validation = (
        torch.from_numpy(split.astype(np.int64)) for split in (corpus.train, corpus.validation)
    )
    yield corpus_and_tokens(corpus)
    yield _plain(bigram_of_the_notebook(corpus, train))
    yield _plain(lecture_notebook(corpus, train))
    yield _plain(lecture_script(corpus, train, validation))


def random_vectors() -> Values:
    torch.manual_seed(1337)
    x = torch.randn(4, 8, 2)
    return {"x.shape": x.shape, "x[0]": x[0], "x": x}


def averaging_by_product() -> Values:
    ones = torch.ones(3, 3)
    ways = {
        "ones": ones,
        "lower triangle": torch.tril(ones),
        "averaging": torch_ref.averaging_weights(3),
    }
    values: Values = dict(ways)
    for seed in (13, 42):
        for way, a in ways.items():
            torch.manual_seed(seed)
            b = torch.randint(0, 10, (3, 2)).float()
            values |= {f"b, seed {seed}": b, f"{way} @ b, seed {seed}": a @ b}
            values |= {"a.shape": a.shape, "b.shape": b.shape, "c.shape": (a @ b).shape}
    torch.manual_seed(1337)
    torch.randn(4, 8, 2)
    a, b = torch_ref.averaging_weights(5), torch.randn(5, 5)
    return values | {
        "averaging_weights(5)": a,
        "b, drawn after x": b,
        "averaging_weights(5) @ b": a @ b,
    }


def averaging_three_ways() -> Values:
    torch.manual_seed(1337)
    x = torch.randn(4, 8, 2)
    ways = {
        name: getattr(torch_ref, name)(x)
        for name in ("running_mean_loop", "running_mean_matmul", "running_mean_softmax")
    }
    loop = ways["running_mean_loop"]
    # In float32 torch 2.13's loop and product part on x86 by 1.07 times what allclose allows, in a
    # mean of 0.0020; on the processors of the notebooks they did not.
    wide_loop, wide_matmul, wide_softmax = (getattr(torch_ref, name)(x.double()) for name in ways)
    return (
        {f"{name}(x)[0]": mean[0] for name, mean in ways.items()}
        | {f"{name}(x).shape": mean.shape for name, mean in ways.items()}
        | {
            "mean of x[0][:3] by hand": (x[0][0] + x[0][1] + x[0][2]) / 3,
            "running_mean_loop(x)[0][2]": loop[0][2],
            "loop and matmul agree": torch.allclose(wide_loop, wide_matmul),
            "matmul and softmax agree": torch.allclose(wide_matmul, wide_softmax),
            "loop and softmax agree": torch.allclose(wide_loop, wide_softmax),
        }
    )


def masks_and_softmax() -> Values:
    tril, zeros = torch.tril(torch.ones(8, 8)), torch.zeros(8, 8)
    averages = torch_ref.averaging_weights(8)
    masked_averages = averages.masked_fill(tril == 0, float("-inf"))
    return {
        "averaging_weights(8)": averages,
        "causal_mask(8)": tril,
        "zeros": zeros,
        "masked zeros": zeros.masked_fill(tril == 0, float("-inf")),
        "softmax_averaging_weights(8)": torch_ref.softmax_averaging_weights(8),
        "masked averages": masked_averages,
        "softmax of masked averages": F.softmax(masked_averages, dim=-1),
    }


def self_attention() -> Values:
    torch.manual_seed(1337)
    x = torch.randn(4, 8, 32)
    head = torch_ref.Head(32, 16, block_size=8, scale=1.0)
    wei = head.query(x) @ head.key(x).transpose(-2, -1)
    wei = wei.masked_fill(head.get_buffer("tril") == 0, float("-inf"))
    wei = F.softmax(wei, dim=1)
    v = head.value(x)
    return {
        "wei[0]": wei[0],
        "(wei @ x).shape": (wei @ x).shape,
        "(wei @ x)[0][0]": (wei @ x)[0][0],
        "v[0][:4]": v[0][:4],
        "attend(wei, v).shape": (wei @ v).shape,
    }


def scaling() -> Values:
    values: Values = {}
    for name, (draws, scale) in SCALING.items():
        torch.manual_seed(1337)
        torch.rand(draws)
        k, q = torch.randn(4, 8, 16), torch.randn(4, 8, 16)
        wei = q @ k.transpose(-2, -1) * scale
        values[name] = torch.stack([k.var(), q.var(), wei.var()])
    return values


def saturated_softmax() -> Values:
    four, five = torch.tensor([-1.0, 0.2, 0.3, 0.75]), torch.tensor([0.1, -0.2, 0.3, -0.2, 0.5])
    return {
        "softmax": torch.softmax(four, dim=-1),
        "softmax, sharpened by 8": torch.softmax(four * 8, dim=-1),
        "softmax of five": torch.softmax(five, dim=-1),
        "softmax of five, sharpened by 100": torch.softmax(five * 100, dim=-1),
        "a[-2:]": torch.tensor([1, 2, 3, 4, 5])[-2:],
    }


def corpus_and_tokens(corpus: Corpus) -> Values:
    """The notebook's own tokenizer, on the text."""
    text = "".join(map(corpus.tokenizer.decode, (corpus.train, corpus.validation)))
    chars = sorted(set(text))
    stoi = {character: i for i, character in enumerate(chars)}
    data = torch.tensor([stoi[character] for character in text])
    hello = [stoi[character] for character in "hello, there!"]
    n = int(0.9 * len(data))
    x, y = data[:BLOCK_SIZE], data[1 : BLOCK_SIZE + 1]
    contexts = [f"when input is {x[: t + 1]} the target is {y[t]}" for t in range(BLOCK_SIZE)]
    values = {
        "bytes": len(text.encode()),
        "characters": len(text),
        "text[:1000]": text[:1000],
        "vocabulary": "".join(chars),
        "vocab_size": len(chars),
        "encode('hello, there!')": hello,
        "decode(encode('hello, there!'))": "".join(chars[i] for i in hello),
        "tokens.shape": data.shape,
        "tokens[:100]": data[:100],
        "train and validation": (len(data[:n]), len(data[n:])),
        "train[:9]": data[:n][: BLOCK_SIZE + 1],
        "contexts of train[:9]": "\n".join(contexts),
    }
    return _plain(values)


def bigram_of_the_notebook(corpus: Corpus, train: Tensor) -> Values:
    def get_batch(batch_size: int) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(train) - batch_size, (batch_size,))
        cut = train[starts[:, None] + torch.arange(BLOCK_SIZE + 1)]
        return cut[:, :-1], cut[:, 1:]

    torch.manual_seed(1337)
    xb, yb = get_batch(4)
    contexts = [
        f"when input is {xb[b, : t + 1].tolist()} the target is {yb[b, t]}"
        for b in range(4)
        for t in range(BLOCK_SIZE)
    ]
    model = torch_ref.BigramLanguageModel(corpus.tokenizer.vocab_size)
    logits, loss = model(xb, yb)
    values = {
        "inputs.shape": xb.shape,
        "inputs": xb,
        "targets.shape": yb.shape,
        "targets": yb,
        "contexts of the batch": "\n".join(contexts[:12]),
        "logits.shape": logits.reshape(-1, logits.shape[-1]).shape,
        "loss": loss,
        "sample": _sample(model, corpus, 100),
    }
    optimizer = torch_ref.make_optimizer(model, 1e-3)
    for training in range(2):
        if training == 1:
            torch.manual_seed(1337)
            torch.rand(384)
        for _ in range(10_000):
            loss = torch_ref.train_step(model, optimizer, *get_batch(32))
    return values | {
        "loss after training": loss,
        "sample after training": _sample(model, corpus, 500),
    }


def lecture_notebook(corpus: Corpus, train: Tensor) -> Values:
    torch.manual_seed(1337)
    xb, yb = torch_ref.get_batch(train, BLOCK_SIZE, 4)
    torch.manual_seed(1337)
    model = torch_ref.BigramLanguageModel(corpus.tokenizer.vocab_size)
    values = {
        "inputs[0]": xb[0],
        "loss, seeded again": model(xb, yb)[1],
        "sample, seeded again": _sample(model, corpus, 100),
    }
    optimizer = torch_ref.make_optimizer(model, 1e-3)
    for _ in range(100):
        batch = torch_ref.get_batch(train, BLOCK_SIZE, 32)
        loss = torch_ref.train_step(model, optimizer, *batch)
    return values | {"loss after 100 steps": loss}


def lecture_script(corpus: Corpus, train: Tensor, validation: Tensor) -> Values:
    def get_batch(split: str) -> tuple[Tensor, Tensor]:
        data = train if split == "train" else validation
        return torch_ref.get_batch(data, BLOCK_SIZE, 32)

    torch.manual_seed(1337)
    model = torch_ref.BigramLanguageModel(corpus.tokenizer.vocab_size)
    optimizer = torch_ref.make_optimizer(model, 1e-2)
    estimates = []
    for step in range(3_000):
        if step % 300 == 0:
            losses = torch_ref.estimate_loss(model, get_batch, eval_iters=200)
            estimates += [losses["train"], losses["val"]]
        torch_ref.train_step(model, optimizer, *get_batch("train"))
    return {
        "losses of bigram.py": torch.tensor(estimates),
        "sample of bigram.py": _sample(model, corpus, 500),
    }


def _sample(model: nn.Module, corpus: Corpus, length: int) -> str:
    assert isinstance(model, torch_ref.BigramLanguageModel)
    tokens = model.generate(torch.zeros((1, 1), dtype=torch.long), length)
    return corpus.tokenizer.decode(tokens[0].numpy())


def _plain(values: Values) -> Values:
    return {
        name: value.detach().numpy() if isinstance(value, Tensor) else value
        for name, value in values.items()
    }
