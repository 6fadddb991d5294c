"""The lecture's corpus and bigram cells with this package's functions."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.config import OptimizerConfig
from jax_attn.data import CharTokenizer, Corpus
from jax_attn.lecture.tensor_demonstrations import ManualSeed, Values
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.nn.loss import next_token_loss
from jax_attn.torch_replay.random import Generator
from jax_attn.torch_replay.replay import generate, initialise, lecture_batches, windows
from jax_attn.training.batches import GivenBatches
from jax_attn.training.evaluation import estimate_loss
from jax_attn.training.optim import make_optimizer
from jax_attn.training.step import TrainState, train_chunk

BLOCK_SIZE = 8
TRAINING_BATCH = 32
NOTEBOOK_STEPS = 10_000
SCRIPT_STEPS, SCRIPT_EVAL_EVERY, SCRIPT_EVAL_BATCHES = 3_000, 300, 200


@dataclass(frozen=True)
class CorpusDemonstration:
    title: str
    compute: Callable[[ManualSeed, Corpus], Values]


def corpus_and_tokens(manual_seed: ManualSeed, corpus: Corpus) -> Values:
    del manual_seed  # nothing here is random
    tokenizer = corpus.tokenizer
    assert isinstance(tokenizer, CharTokenizer)
    tokens = np.concatenate([corpus.train, corpus.validation])
    text = tokenizer.decode(tokens)
    hello = tokenizer.encode("hello, there!")
    first = tokens[: BLOCK_SIZE + 1]
    contexts = [
        f"when input is tensor({np.array2string(first[:t], separator=', ')}) "
        f"the target is {first[t]}"
        for t in range(1, BLOCK_SIZE + 1)
    ]
    return {
        "bytes": len(text.encode()),
        "characters": len(text),
        "text[:1000]": text[:1000],
        "vocabulary": tokenizer.characters,
        "vocab_size": tokenizer.vocab_size,
        "encode('hello, there!')": hello,
        "decode(encode('hello, there!'))": tokenizer.decode(hello),
        "tokens.shape": tokens.shape,
        "tokens[:100]": tokens[:100],
        "train and validation": (len(corpus.train), len(corpus.validation)),
        "train[:9]": first,
        "contexts of train[:9]": "\n".join(contexts),
    }


def bigram(manual_seed: ManualSeed, corpus: Corpus) -> Values:
    """A batch of 4, the table, a sample: all from one stream.

    The notebook keeps its starts the batch size from the end of the text, not the block size.
    """
    generator = manual_seed(1337)
    inputs, targets = _notebook_batches(generator, corpus, (4,))
    model = initialise(_table(corpus), generator)
    logits = model(jnp.asarray(inputs))
    contexts = [
        f"when input is {x[: t + 1].tolist()} the target is {y[t]}"
        for x, y in zip(inputs, targets, strict=True)
        for t in range(BLOCK_SIZE)
    ]
    return {
        "inputs.shape": inputs.shape,
        "inputs": inputs,
        "targets.shape": targets.shape,
        "targets": targets,
        "contexts of the batch": "\n".join(contexts[:12]),
        "logits.shape": logits.reshape(-1, corpus.tokenizer.vocab_size).shape,
        "loss": next_token_loss(logits, jnp.asarray(targets)),
        "sample": _sample(model, corpus, 100, generator),
    }


def trained_bigram(manual_seed: ManualSeed, corpus: Corpus) -> Values:
    """The same model trained twice over, the stream seeded again in between."""
    generator = manual_seed(1337)
    _notebook_batches(generator, corpus, (4,))
    model = initialise(_table(corpus), generator)
    _sample(model, corpus, 100, generator)
    optimizer = make_optimizer(OptimizerConfig(), 1e-3, NOTEBOOK_STEPS)
    state, loss = TrainState.create(model, optimizer), np.nan
    for training in range(2):
        if training == 1:
            generator = manual_seed(1337)
            generator.rand(384)
        inputs, targets = _notebook_batches(generator, corpus, (NOTEBOOK_STEPS, TRAINING_BATCH))
        first_step = jnp.asarray(training * NOTEBOOK_STEPS, jnp.int32)
        batches = GivenBatches(jnp.asarray(inputs), jnp.asarray(targets), first_step)
        state, losses = train_chunk(state, batches, optimizer, NOTEBOOK_STEPS)
        loss = float(losses[-1])
    return {
        "loss after training": loss,
        "sample after training": _sample(state.model(), corpus, 500, generator),
    }


def lecture_notebook(manual_seed: ManualSeed, corpus: Corpus) -> Values:
    """The lecture's own notebook seeds again before the model and trains for 100 steps."""
    batch = lecture_batches(manual_seed(1337), corpus.train, BLOCK_SIZE, 4, 1)
    generator = manual_seed(1337)
    model = initialise(_table(corpus), generator)
    values: Values = {
        "inputs[0]": batch.inputs[0, 0],
        "loss, seeded again": next_token_loss(model(batch.inputs[0]), batch.targets[0]),
        "sample, seeded again": _sample(model, corpus, 100, generator),
    }
    optimizer = make_optimizer(OptimizerConfig(), 1e-3, 100)
    batches = lecture_batches(generator, corpus.train, BLOCK_SIZE, TRAINING_BATCH, 100)
    _, losses = train_chunk(TrainState.create(model, optimizer), batches, optimizer, 100)
    return values | {"loss after 100 steps": losses[-1]}


def lecture_script(manual_seed: ManualSeed, corpus: Corpus) -> Values:
    """`bigram.py`: the losses are estimated before every 300th step, from the same stream."""
    generator = manual_seed(1337)
    model = initialise(_table(corpus), generator)
    optimizer = make_optimizer(OptimizerConfig(), 1e-2, SCRIPT_STEPS)
    state = TrainState.create(model, optimizer)
    estimates = []
    for step in range(0, SCRIPT_STEPS, SCRIPT_EVAL_EVERY):
        for split in (corpus.train, corpus.validation):
            batches = lecture_batches(
                generator, split, BLOCK_SIZE, TRAINING_BATCH, SCRIPT_EVAL_BATCHES
            )
            estimates.append(estimate_loss(state.model(), batches, SCRIPT_EVAL_BATCHES))
        batches = lecture_batches(
            generator,
            corpus.train,
            BLOCK_SIZE,
            TRAINING_BATCH,
            SCRIPT_EVAL_EVERY,
            first_step=step,
        )
        state, _ = train_chunk(state, batches, optimizer, SCRIPT_EVAL_EVERY)
    return {
        "losses of bigram.py": np.array(estimates),
        "sample of bigram.py": _sample(state.model(), corpus, 500, generator),
    }


def _table(corpus: Corpus) -> BigramLanguageModel:
    return BigramLanguageModel(corpus.tokenizer.vocab_size, rngs=nnx.Rngs(0))


def _notebook_batches(
    generator: Generator, corpus: Corpus, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    starts = generator.randint(0, len(corpus.train) - shape[-1], shape)
    return windows(corpus.train, starts, BLOCK_SIZE)


def _sample(model: BigramLanguageModel, corpus: Corpus, length: int, generator: Generator) -> str:
    """A text that begins with symbol 0, a newline."""
    tokens = generate(model, np.zeros((1, 1), np.int32), length, generator)
    return corpus.tokenizer.decode(tokens[0])


CORPUS_DEMONSTRATIONS = (
    CorpusDemonstration("The corpus and its tokens", corpus_and_tokens),
    CorpusDemonstration("Bigram: a batch, its loss, a sample", bigram),
    CorpusDemonstration("Bigram, trained", trained_bigram),
    CorpusDemonstration("The lecture's own notebook", lecture_notebook),
    CorpusDemonstration("The lecture's script bigram.py", lecture_script),
)
