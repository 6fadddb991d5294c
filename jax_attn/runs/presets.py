"""The training runs that `train.py` offers by name, each with a line on what it is."""

from jax_attn.config import BigramShape, GPTShape, HeadShape, OptimizerConfig, TrainConfig

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "bigram": (
        "the lecture's table of next-character counts, learnt; seconds",
        TrainConfig(
            model=BigramShape(),
            steps=10_000,
            batch_size=32,
            block_size=8,
            learning_rate=1e-3,
            eval_every=1_000,
            checkpoint_every=10_000,
        ),
    ),
    "head": (
        "one causal attention head between embeddings and logits; seconds",
        TrainConfig(
            model=HeadShape(),
            steps=10_000,
            batch_size=32,
            block_size=8,
            learning_rate=1e-2,
            eval_every=1_000,
            checkpoint_every=10_000,
            optimizer=OptimizerConfig(schedule="cosine", warmup_steps=100),
        ),
    ),
    "mini": (
        "a small GPT that writes plays after a minute or two on a laptop (the default)",
        TrainConfig(
            model=GPTShape(n_layer=4, n_head=4, n_embd=128),
            steps=1_200,
            batch_size=12,
            block_size=64,
            learning_rate=4e-3,
            eval_every=300,
            checkpoint_every=600,
            optimizer=OptimizerConfig(
                beta2=0.99,
                weight_decay=0.1,
                decay="matrices",
                clip_norm=1.0,
                schedule="cosine",
                warmup_steps=100,
                final_fraction=0.02,
            ),
        ),
    ),
    "lecture": (
        "the lecture's final 10.8 M-parameter GPT; minutes on an accelerator, hours on a laptop",
        TrainConfig(
            model=GPTShape(n_layer=6, n_head=6, n_embd=384, dropout_rate=0.2),
            steps=5_000,
            batch_size=64,
            block_size=256,
            learning_rate=3e-4,
            eval_every=500,
            checkpoint_every=1_000,
            dtype="auto",
        ),
    ),
    "gpt2": (
        "the 124 M-parameter shape of GPT-2; wants an accelerator",
        TrainConfig(
            model=GPTShape(
                n_layer=12,
                n_head=12,
                n_embd=768,
                activation="gelu_tanh",
                qkv_bias=True,
                tie_embeddings=True,
                head_bias=False,
                vocab_size=50257,
            ),
            steps=2_000,
            batch_size=8,
            block_size=1024,
            learning_rate=6e-4,
            eval_every=500,
            checkpoint_every=500,
            sample_tokens=200,
            dtype="auto",
            # As many as GPT-2 has, of which a small text fills a part: tinyshakespeare 12,712.
            tokens="bpe:50257",
            accumulate_steps=0,
            optimizer=OptimizerConfig(
                beta2=0.95,
                weight_decay=0.1,
                decay="matrices",
                clip_norm=1.0,
                schedule="cosine",
                warmup_steps=200,
            ),
        ),
    ),
}
