"""Model and run configurations: frozen, validated on construction, JAX-free.

`GPTConfig` is a model's shape as the modules take it. `TrainConfig` is everything a training run
depends on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from jax_attn.domains import (
    COUNT,
    DECAY_RATE,
    DROPOUT_RATE,
    FRACTION,
    NOT_NEGATIVE,
    OPEN_FRACTION,
    POSITIVE,
    SEED,
    SIZE,
    SMALLEST_FLOAT32,
    Domain,
    require,
)
from jax_attn.errors import InputError
from jax_attn.text_encoding import require_text_encoding

# AdamW moves a parameter by a few times that, at worst (no beta2) by it times gradient / epsilon,
# and decay moves none away from zero: steps with finite gradients stay within float32, on which
# `train_step` relies.
LEARNING_RATE = Domain(SMALLEST_FLOAT32, 1e6)

# Values of `TrainConfig` that leave a choice to the device (jax_attn/runs/device_choices.py).
LEFT_OPEN = {"dtype": "auto", "accumulate_steps": 0}

Paths = str | tuple[str, ...]  # a name or path, or several of them
Activation = Literal["relu", "gelu", "gelu_tanh"]
InitVocabulary = Literal["refuse", "extend"]  # of characters that a source of weights lacks
# Accelerators that programs can be compiled for where there is none (jax_attn/compiling).
TargetName = Literal["h100", "h200", "a100", "tpu-v5e", "tpu-v5p", "tpu-v6e"]


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a decoder-only transformer; covers the lecture's GPT and GPT-2."""

    vocab_size: int  # V, number of token ids
    block_size: int  # the largest T: how many positions the model can look back on
    n_layer: int  # L, transformer blocks
    n_head: int  # H, attention heads a block
    n_embd: int  # C, channels
    dropout_rate: float = 0.0  # probability of dropping: attention weights, residual branches
    activation: Activation = "relu"  # "gelu" is the exact erf form, "gelu_tanh" GPT-2's
    qkv_bias: bool = False  # bias on the query, key and value projections
    tie_embeddings: bool = False  # use the token embedding as the output matrix
    head_bias: bool = True  # bias on the logits
    layer_norm_epsilon: float = 1e-5  # inside the square root; torch's default, not flax's 1e-6
    linear_bias: bool = True  # bias on the projections after attention and in the feed-forward
    norm_bias: bool = True  # bias of the layer norms
    # multiplies the scores; None = head_size**-0.5. The lecture notebook's last cell has
    # n_embd**-0.5
    attention_scale: float | None = None
    n_inner: int = 0  # channels inside the feed-forward; 0 = 4 * n_embd

    def __post_init__(self) -> None:
        require(self, SIZE, "vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        require(self, POSITIVE, "layer_norm_epsilon")
        require(self, DROPOUT_RATE, "dropout_rate")
        require(self, COUNT, "n_inner")
        if self.attention_scale is not None:
            require(self, POSITIVE, "attention_scale")
        if self.n_embd % self.n_head:
            raise InputError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: "
                "every head takes an equal share of the channels"
            )
        if self.activation not in ("relu", "gelu", "gelu_tanh"):
            raise InputError(
                f"activation {self.activation!r} is unknown; choose relu, gelu or gelu_tanh"
            )

    @property
    def head_size(self) -> int:
        """K, the channels of one head."""
        return self.n_embd // self.n_head

    @property
    def feed_forward_size(self) -> int:
        """Channels inside the feed-forward."""
        return self.n_inner or 4 * self.n_embd

    @classmethod
    def lecture(cls, **overrides: Any) -> GPTConfig:
        """The lecture's final model: 10.8 M parameters, ReLU, untied head."""
        fields = {
            "vocab_size": 65,
            "block_size": 256,
            "n_layer": 6,
            "n_head": 6,
            "n_embd": 384,
            "dropout_rate": 0.2,
        }
        return cls(**(fields | overrides))

    @classmethod
    def gpt2(cls, **overrides: Any) -> GPTConfig:
        """GPT-2 small: 124 M parameters, tanh GELU, biased q/k/v, tied head without bias."""
        fields = {
            "vocab_size": 50257,
            "block_size": 1024,
            "n_layer": 12,
            "n_head": 12,
            "n_embd": 768,
            "activation": "gelu_tanh",
            "qkv_bias": True,
            "tie_embeddings": True,
            "head_bias": False,
        }
        return cls(**(fields | overrides))


@dataclass(frozen=True)
class BigramShape:
    """The bigram table has no shape but the vocabulary's."""

    kind: ClassVar[str] = "bigram"


@dataclass(frozen=True)
class HeadShape:
    """One causal attention head between the embeddings and the logits."""

    kind: ClassVar[str] = "head"
    n_embd: int = 32  # C, channels of the embeddings
    head_size: int = 32  # K, channels of the head's query, key and value

    def __post_init__(self) -> None:
        require(self, SIZE, "n_embd", "head_size")


@dataclass(frozen=True)
class GPTShape:
    """What `GPTConfig` needs beyond the context length."""

    kind: ClassVar[str] = "gpt"
    n_layer: int  # transformer blocks
    n_head: int  # attention heads a block
    n_embd: int  # channels
    dropout_rate: float = 0.0  # probability of dropping
    activation: Activation = "relu"  # "gelu" is exact, "gelu_tanh" GPT-2's
    qkv_bias: bool = False  # bias on query, key and value
    tie_embeddings: bool = False  # token embedding used as output matrix
    head_bias: bool = True  # bias on the logits
    layer_norm_epsilon: float = 1e-5  # inside the square root
    linear_bias: bool = True  # bias after attention and in the feed-forward
    norm_bias: bool = True  # bias of the layer norms
    attention_scale: float | None = None  # multiplies the scores; None = head_size**-0.5
    n_inner: int = 0  # channels inside the feed-forward; 0 = 4 * n_embd
    vocab_size: int = 0  # ids the model knows; 0 = as many as the tokenizer has

    def __post_init__(self) -> None:
        require(self, COUNT, "vocab_size")
        self.gpt_config(vocab_size=1, block_size=1)

    def gpt_config(self, vocab_size: int, block_size: int) -> GPTConfig:
        fields: dict[str, Any] = dataclasses.asdict(self)
        fields.update(vocab_size=vocab_size, block_size=block_size)
        return GPTConfig(**fields)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its schedule and clipping. Defaults are `torch.optim.AdamW`'s."""

    beta1: float = 0.9  # decay of the gradient's running mean
    beta2: float = 0.999  # decay of the squared gradient's running mean
    epsilon: float = 1e-8  # added outside the square root
    weight_decay: float = 0.01  # decoupled, multiplied by the learning rate
    decay: Literal["all", "matrices"] = "all"  # "matrices" spares biases, norms and other vectors
    clip_norm: float = 0.0  # largest global gradient norm; 0 = no clipping
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up
    warmup_steps: int = 0  # linear rise of the learning rate; of W steps the first has 1/W of it
    final_fraction: float = 0.1  # where the cosine ends, as a fraction of the learning rate
    schedule_steps: int | None = None  # when the cosine ends, and stays there; None = after `steps`

    def __post_init__(self) -> None:
        require(self, DECAY_RATE, "beta1", "beta2")
        require(self, FRACTION, "final_fraction")
        require(self, POSITIVE, "epsilon")
        require(self, NOT_NEGATIVE, "weight_decay", "clip_norm")
        require(self, COUNT, "warmup_steps")
        if self.schedule_steps is not None:
            require(self, SIZE, "schedule_steps")

    def depends_on(self, steps: int) -> bool:
        """Whether the learning rate of any step does, when a run has so many of them."""
        return self.schedule == "cosine" or self.warmup_steps > steps


ModelShape = BigramShape | HeadShape | GPTShape


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: ModelShape
    steps: int  # optimizer steps
    batch_size: int  # B, sequences a step
    block_size: int  # T, tokens a sequence
    learning_rate: float  # AdamW step size after warm-up
    eval_every: int  # steps between evaluations over the whole validation split
    checkpoint_every: int  # steps between checkpoints; the last step is always saved
    # "tinyshakespeare", "python-docs", or the paths of one or several files, also .gz, or folders,
    # of which all *.txt and *.md are read
    data: Paths = "tinyshakespeare"
    validation: Paths | None = None  # the same of a text to validate with; none: a part of `data`
    validation_fraction: float = 0.1  # of the text's characters, the last ones, to validate with
    encoding: str = "utf-8"  # of those files: utf-16, cp1252, gb18030, … as Python names them
    # char, bytes, bpe:N (N ids trained on the text), or the path of a tokenizer.json or of a folder
    # with one or with GPT-2's vocab.json and merges.txt
    tokens: str = "char"
    eval_tokens: int = 0  # tokens of each split that an evaluation predicts; 0 = all
    # micro-batches a step: less memory; same mean gradient, but each draws its dropout by itself;
    # 0 = as few as fit
    accumulate_steps: int = 1
    remat: bool = False  # compute a GPT's inner arrays again instead of keeping them: less memory
    # of the computation; parameters stay float32; auto: bfloat16 on an accelerator that has it
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    # of float32 products: default is TF32 on a GPU, bfloat16 on a TPU, and highest with --rng torch
    precision: Literal["default", "high", "highest"] = "default"
    rng: Literal["jax", "torch"] = "jax"  # "torch": draw all as the lecture's script in torch does
    seed: int = 1337  # of initial weights, batches, dropout and the sample
    sample_tokens: int = 500  # length of the sample written at the end
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        require(self, SIZE, "steps", "batch_size", "block_size")
        require(self, SIZE, "eval_every", "checkpoint_every", "sample_tokens")
        require(self, LEARNING_RATE, "learning_rate")
        require(self, COUNT, "accumulate_steps", "eval_tokens")
        require(self, SEED, "seed")
        require(self, OPEN_FRACTION, "validation_fraction")
        for name in ("data", "validation"):
            object.__setattr__(self, name, _paths(name, getattr(self, name)))
        if self.validation is not None and self.validation_fraction != 0.1:
            raise InputError(
                "validation is a text of its own, validation_fraction a part of data: give one"
            )
        if not self.learning_rate * self.optimizer.weight_decay <= 1:
            raise InputError(
                f"learning_rate {self.learning_rate} times weight_decay "
                f"{self.optimizer.weight_decay} is above 1: a step would decay past zero"
            )
        if self.accumulate_steps and self.batch_size % self.accumulate_steps:
            raise InputError(
                f"batch_size {self.batch_size} is not divisible by "
                f"accumulate_steps {self.accumulate_steps}"
            )
        if self.rng == "torch" and self.accumulate_steps > 1:
            raise InputError("rng torch draws whole batches: it goes with accumulate_steps 1 only")
        schedule = self.optimizer
        ends = schedule.schedule_steps or self.steps
        if schedule.schedule == "cosine" and not schedule.final_fraction and ends < self.steps:
            raise InputError(
                f"the learning rate would be 0 from step {ends:,} on, where the cosine ends, and "
                f"train nothing; give schedule_steps {self.steps} or a final_fraction above 0"
            )
        require_text_encoding(self.encoding)

    @property
    def product_precision(self) -> Literal["default", "high", "highest"]:
        """Of float32 products. Who replays torch's draws wants its numbers, too."""
        replayed = self.rng == "torch" and self.precision == "default"
        return "highest" if replayed else self.precision

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, exactly undone by `from_dict`; only of what has nothing left open."""
        for name, left_open in LEFT_OPEN.items():
            if getattr(self, name) == left_open:
                raise InputError(f"{name} {left_open} is to be chosen before a run is created")
        fields = dataclasses.asdict(self)
        fields["model"] = {"kind": self.model.kind} | fields["model"]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrainConfig:
        """Raises InputError for anything but what `to_dict` gives."""
        shapes = {shape.kind: shape for shape in (BigramShape, HeadShape, GPTShape)}
        try:
            model = dict(fields["model"])
            shape = _checked(shapes[model.pop("kind")], model)
            optimizer = _checked(OptimizerConfig, dict(fields["optimizer"]))
            for name, left_open in LEFT_OPEN.items():
                if fields.get(name) == left_open:
                    raise ValueError(f"{name} is {left_open!r}")
            several = {k: tuple(x) for k, x in fields.items() if isinstance(x, list)}
            return _checked(cls, fields | several | {"model": shape, "optimizer": optimizer})
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"not a training configuration: {error!s:.200}") from error


def _paths(name: str, value: Any) -> Paths | None:
    """As the field `name` has them, several or one. InputError for none at all."""
    if value is None and name == "validation":
        return value
    several: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(path, str) for path in several):
        raise InputError(f"{name} is {value!r:.100}; it must be a path or several")
    require_paths(name, several)
    return tuple(several) if len(several) > 1 else several[0]


def require_paths(name: str, paths: Sequence[str]) -> None:
    """InputError where there is none, or one is empty, which would be the working folder."""
    if not paths:
        raise InputError(f"{name} names no text; give the path of one, or several")
    if "" in paths:
        raise InputError(f"{name} has an empty path; give that of a text (a folder's may be .)")


def _checked(cls: Any, fields: dict[str, Any]) -> Any:
    """`cls(**fields)`, every plain field of the type that it is declared with, else TypeError."""
    require_types(cls, fields)
    return cls(**fields)


def require_types(cls: Any, fields: Mapping[str, Any]) -> None:
    """TypeError unless `cls` has such fields, and the plain ones are of the types declared."""
    hints = get_type_hints(cls)
    for name, value in fields.items():
        if name not in hints:
            raise TypeError(f"there is no setting {name!r:.100}")
        hint = hints[name]
        if get_origin(hint) is Literal:
            fits = isinstance(value, str) and value in get_args(hint)
        elif hint is float:
            fits = type(value) in (int, float)
        elif hint in (Paths, Paths | None):
            texts = value if isinstance(value, tuple) else [value]
            fits = all(isinstance(text, str) for text in texts) or (value is None and hint != Paths)
        elif hint == int | None:
            fits = value is None or type(value) is int
        elif hint == float | None:
            fits = value is None or type(value) in (int, float)
        else:
            fits = hint not in (int, str, bool) or type(value) is hint
        if not fits:
            raise TypeError(f"{name} is {value!r:.100}")
