"""What a trained model comes to: its losses, a sample, pictures, and where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer

from jax_attn.compiling.precision import describe_products
from jax_attn.config import TrainConfig
from jax_attn.data import UNITS, Corpus, Tokenizer
from jax_attn.data.documents import in_words
from jax_attn.data.mapped import is_mapped
from jax_attn.generate import compile_generation, generate
from jax_attn.generate.continuation import without_prompt
from jax_attn.generate.known_ids import known_ids
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel, count_parameters
from jax_attn.nn.flash import accelerator, choose_implementation
from jax_attn.runs.commands import generate_command
from jax_attn.runs.painter import Painter
from jax_attn.runs.per_character import PerCharacter
from jax_attn.runs.progress import TrainingProgress
from jax_attn.runs.run import Run
from jax_attn.torch_replay.script import TorchScript
from jax_attn.training.batches import Batches
from jax_attn.training.evaluation import (
    OnBatch,
    compile_evaluation,
    estimate_loss,
    evaluate,
    ignore,
)
from jax_attn.training.host_batches import HostBatches

EVALUATION_TOKENS = 4096  # tokens in one evaluation batch
CHEAP_EVALUATION_FLOPS = 2e10  # below this the training loss is taken over the whole split too
PICTURE_TOKENS = 32


def describe(model: LanguageModel) -> str:
    if isinstance(model, BigramLanguageModel):
        return f"bigram table of {model.token_embedding_table.num_embeddings} ids"
    if isinstance(model, GPT):
        c = model.config
        layers, heads = (
            f"{n} {word}{'s' * (n > 1)}" for n, word in ((c.n_layer, "layer"), (c.n_head, "head"))
        )
        shape = f"{layers} of {heads}, {c.n_embd} channels"
        return f"GPT, {shape}, context {c.block_size}"
    return f"one attention head, context {model.block_size}"


def attention_choice(model: GPT, dtype: str) -> str:
    """How attention is computed in training, and why."""
    if model.config.dropout_rate > 0:
        return "explicit: dropout is on the weights, so there must be weights"
    length, head_size = model.config.block_size, model.config.head_size
    implementation, reason = choose_implementation(length, head_size, dtype, accelerator())
    return f"{implementation}: {reason}"


def introduction(run: Run, corpus: Corpus, model: LanguageModel) -> Iterator[str]:
    """Lines about what will be trained, on what, and where it is kept; shapes do for a model."""
    config, device = run.config, jax.devices()[0]
    yield f"model    {describe(model)}, {count_parameters(model):,} parameters"
    numbers = config.dtype
    if numbers == "float32":
        numbers += f", {describe_products(config, accelerator())}"
    several = len(jax.local_devices())
    one = "" if several == 1 else f", one of {several}"
    yield (
        f"device   {device.platform} ({device.device_kind}){one}, jax {jax.__version__}, {numbers}"
    )
    if isinstance(model, GPT):
        yield f"attention {attention_choice(model, config.dtype)}"
    yield from corpus_lines(corpus)
    yield f"run      {run.path}"


def corpus_lines(corpus: Corpus) -> Iterator[str]:
    """Lines about the texts, and how much of them is to train on and to validate with."""
    tokenizer = corpus.tokenizer
    files = f"{corpus.documents:,} files, " if corpus.documents > 1 else ""
    characters = f"{files}{sum(corpus.characters):,} characters"
    if tokenizer.unit == "character":
        sizes = f"{characters}, {tokenizer.vocab_size} symbols"
    else:
        n = len(corpus.train) + len(corpus.validation)
        sizes = f"{characters}, {n:,} tokens ({tokenizer.describe()})"
    yield f"corpus   {in_words(corpus.name)}: {sizes}, sha256 {corpus.sha256[:12]}…"
    unit = UNITS[tokenizer.unit]
    own = ""
    if corpus.validation_sha256 is not None:
        name = in_words(corpus.validation_name or "")
        own = f" from {name}, sha256 {corpus.validation_sha256[:12]}…"
    stored = ", mapped from files" if is_mapped(corpus.train) else ""
    yield (
        f"split    {len(corpus.train):,} {unit} to train on, "
        f"{len(corpus.validation):,} to validate with{own}{stored}"
    )


def evaluate_split(
    model: LanguageModel,
    tokens: Integer[np.ndarray, " N"],
    config: TrainConfig,
    on_batch: OnBatch = ignore,
) -> float:
    """The loss over a split, or over as much of its beginning as the run evaluates."""
    part = tokens[: n_evaluated(tokens, config) + 1]
    return evaluate(model, part, **evaluation_sizes(config), on_batch=on_batch)


def n_evaluated(tokens: Integer[np.ndarray, " N"], config: TrainConfig) -> int:
    """How many tokens of a split an evaluation predicts: all but the first, unless bounded."""
    return min(len(tokens) - 1, config.eval_tokens or len(tokens))


def characters_evaluated(
    tokens: Integer[np.ndarray, " N"], config: TrainConfig, tokenizer: Tokenizer
) -> PerCharacter:
    """How many characters those stand for."""
    return PerCharacter.of(tokenizer, tokens[1 : n_evaluated(tokens, config) + 1])


def evaluated(
    tokens: Integer[np.ndarray, " N"], config: TrainConfig, tokenizer: Tokenizer, name: str
) -> str:
    """The same in words."""
    n, of = n_evaluated(tokens, config), len(tokens) - 1
    part = f"all {n:,}" if n == of else f"the first {n:,} of {of:,}"
    return f"{part} {UNITS[tokenizer.unit]} of the {name} split"


def compile_split_evaluation(model: LanguageModel, config: TrainConfig) -> jax.stages.Compiled:
    return compile_evaluation(model, **evaluation_sizes(config))


def evaluation_sizes(config: TrainConfig) -> dict[str, int]:
    batch_size = max(1, EVALUATION_TOKENS // config.block_size)
    return {"block_size": config.block_size, "batch_size": batch_size}


def sampling(config: TrainConfig, start: int = 0) -> tuple[jax.Array, int, jax.Array]:
    """Of a run's sample: the prompt, the number of new tokens, and the key."""
    begin = jnp.full((1, 1), start, jnp.int32)  # a newline in most texts, as in the lecture
    return begin, config.sample_tokens, jax.random.key(config.seed)


def compile_sampling(
    model: LanguageModel, config: TrainConfig
) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    begin, length, key = sampling(config)
    known = np.ones(model.token_embedding_table.num_embeddings, np.bool_)
    return compile_generation(model, begin, length, key=key, allowed=known)


def finish(
    run: Run,
    model: LanguageModel,
    corpus: Corpus,
    batches: Batches | HostBatches,
    script: TorchScript | None,
    painter: Painter,
    progress: TrainingProgress,
    say: Callable[[str], None],
    validation_loss: float | None,
) -> None:
    """Final losses, a sample, the pictures, and where they are."""
    config = run.config
    tokenizer = corpus.tokenizer
    painter.draw("loss", run.metrics.path, tokenizer.unit, path=run.path / "loss.png")
    if not isinstance(model, BigramLanguageModel):
        shown = corpus.validation[: min(PICTURE_TOKENS, model.block_size)]
        weights = model.attention_weights(jnp.asarray(shown, jnp.int32)[None])[:, 0]
        painter.draw(
            "attention",
            np.asarray(weights, np.float32),
            [tokenizer.symbol(id) for id in shown.tolist()],
            run.metrics.path,
            path=run.path / "attention.png",
        )

    n_training = n_evaluated(corpus.train, config)
    if 2 * count_parameters(model) * n_training < CHEAP_EVALUATION_FLOPS:
        training_loss = evaluate_split(model, corpus.train, config, progress.evaluating)
        over = evaluated(corpus.train, config, tokenizer, "training")
        of_training = characters_evaluated(corpus.train, config, tokenizer)
    else:
        n_validation = n_evaluated(corpus.validation, config) + 1
        n_batches = max(1, n_validation // (config.batch_size * config.block_size))
        training_loss = estimate_loss(model, batches, n_batches, on_batch=progress.evaluating)
        over = f"{n_batches:,} sampled batches"
        of_training = PerCharacter.of_all(tokenizer, len(corpus.train), corpus.characters[0])
    if validation_loss is None:  # otherwise the loop has just taken it
        validation_loss = evaluate_split(model, corpus.validation, config, progress.evaluating)
    say("")
    of_validation = characters_evaluated(corpus.validation, config, tokenizer)
    for name, loss, per_character, what in (
        ("training", training_loss, of_training, over),
        (
            "validation",
            validation_loss,
            of_validation,
            evaluated(corpus.validation, config, tokenizer, "validation"),
        ),
    ):
        nats = f"{loss:.4f} nats per {tokenizer.unit}{per_character.words(loss)}"
        say(f"{f'{name} loss':16} {nats}, over {what}")

    if script is not None:
        tokens = script.sample(model, config.sample_tokens)
    else:
        begin, length, key = sampling(config, tokenizer.start)
        known = known_ids(tokenizer, model)
        tokens = generate(model, begin, length, key=key, allowed=known)[0]
    start, new = np.split(np.asarray(tokens), [1])
    text = without_prompt(tokenizer, start, ())
    sample = text.prompt + text.add(new) + text.rest()  # as `python -m jax_attn.generate` has it
    say(f"\n--- sample {'-' * 61}{sample}\n{'-' * 72}\n")
    (run.path / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    unknown = tokenizer.about_unknown(np.asarray(tokens))
    if unknown:
        say(unknown)

    faults = painter.wait()
    for picture, fault in faults.items():
        if fault:
            say(f"{picture} is not drawn: {fault}")
    files = ["config.json", "tokenizer.json", "metrics.jsonl", "checkpoints/", "sample.txt"]
    files += [picture for picture, fault in faults.items() if not fault]
    say(f"in {run.path}: {', '.join(files)}")
    again = f"{generate_command(run.path)} --tokens {config.sample_tokens}"
    if script is None:
        say(f"the same sample: {again} --seed {config.seed}")
    else:
        say(f"another sample: {again}")
