"""Modules of a user's own: in the place of one of ours, and as a whole model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.generate import stream
from tests.everyday.modules import CONFIG, MODULES, C, T, V, X
from tests.small_models import filled

# In the place of one of ours.


def adapted(layer):
    """A LoRA around a layer that stays."""
    return nnx.LoRA(layer.in_features, 2, layer.out_features, base_module=layer, rngs=nnx.Rngs(0))


def with_lora(layer):
    sizes = layer.in_features, layer.out_features
    return nnx.LoRALinear(*sizes, lora_rank=2, use_bias=False, rngs=nnx.Rngs(0))


def root_mean_square(layer):
    return nnx.RMSNorm(C, rngs=nnx.Rngs(0))


class Scaled(nnx.Linear):
    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Gated(nnx.Module):
    def __init__(self):
        self.inner = nnx.Linear(C, C, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.inner(x)


REPLACED = [  # the model, the layer, what is put there, and what is said
    ("GPT", "blocks.0.sa.proj", adapted, "blocks.0.sa.proj is a LoRA; a state dict has names for "
     "a Linear there: put one with the merged weights in its place"),
    ("GPT", "blocks.0.sa.qkv", with_lora, "blocks.0.sa.qkv is a LoRALinear; a state dict has names"
     " for a Linear there"),
    ("GPT", "blocks.0.ffwd.expand", with_lora, "blocks.0.ffwd.expand is a LoRALinear"),
    ("GPT", "blocks.0.ffwd.contract", adapted, "blocks.0.ffwd.contract is a LoRA"),
    ("GPT", "blocks.0.sa.qkv", lambda layer: Scaled(C, 3 * C, rngs=nnx.Rngs(0)), "is a Scaled"),
    ("GPT", "blocks.0.sa", lambda layer: Gated(), "blocks.0.sa is a Gated; a state dict has names "
     "for a MultiHeadAttention there"),
    ("GPT", "blocks.0.ffwd", lambda layer: Gated(), "names for a FeedForward there"),
    ("GPT", "blocks.0", lambda layer: Gated(), "blocks.0 is a Gated; a state dict has names for a "
     "Block there"),
    ("GPT", "blocks.0.ln1", root_mean_square, "blocks.0.ln1 is a RMSNorm; "
     "a state dict has names for a LayerNorm there"),
    ("GPT", "ln_f", root_mean_square, "ln_f is a RMSNorm"),
    ("GPT", "lm_head", lambda layer: nnx.LoRALinear(C, V, lora_rank=2, rngs=nnx.Rngs(0)),
     "lm_head is a LoRALinear; a state dict has names for a LanguageModelHead there"),
    ("GPT", "position_embedding_table", lambda layer: Gated(), "names for an Embedding there"),
    ("Block", "sa.proj", adapted, "sa.proj is a LoRA"),
    ("MultiHeadAttention", "proj", with_lora, "proj is a LoRALinear"),
    ("FeedForward", "expand", adapted, "expand is a LoRA"),
    ("Head", "key", adapted, "key is a LoRA; a state dict has names for a Linear there"),
    ("Head", "value", with_lora, "value is a LoRALinear"),
    ("single head", "sa_head.query", with_lora, "sa_head.query is a LoRALinear"),
    ("single head", "lm_head", adapted, "lm_head is a LoRA"),
    ("bigram", "token_embedding_table", lambda layer: Gated(), "names for an Embedding there"),
]  # fmt: skip


def put(model, path, make):
    """The model, with what `make` makes of the layer at `path` in its place."""
    *above, name = path.split(".")
    place = model
    for part in above:
        place = place[int(part)] if part.isdigit() else getattr(place, part)
    if name.isdigit():
        place[int(name)] = make(place[int(name)])
    else:
        setattr(place, name, make(getattr(place, name)))
    return model


def replaced(name, path, make):
    """Its shapes only."""
    return nnx.eval_shape(lambda: put(MODULES[name](), path, make))


@pytest.mark.parametrize(
    ("name", "path", "make", "said"),
    [pytest.param(*row, id=f"{row[0]}: {row[3].split(';')[0]}") for row in REPLACED],
)
def test_a_layer_that_is_not_ours_is_named(name, path, make, said):
    model = replaced(name, path, make)
    for use in (lambda: ja.to_state_dict(model), lambda: ja.load_state_dict(model, {})):
        with pytest.raises(ja.InputError) as refused:
            use()
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


def test_the_names_of_gpt2_want_our_layers_too():
    model = replaced("GPT with a tied head", "blocks.0.sa.proj", adapted)
    with pytest.raises(ja.InputError, match=r"^blocks\.0\.sa\.proj is a LoRA; a state dict"):
        ja.to_state_dict(model, layout="gpt2")


def test_a_parameter_without_a_name_is_named():
    class Scaling(ja.GPT):
        def __init__(self):
            super().__init__(CONFIG, rngs=nnx.Rngs(0))
            self.blocks[0].scale = nnx.Param(jnp.ones(3))

    with pytest.raises(ja.InputError, match=r"no name for the parameter blocks\.0\.scale$"):
        ja.to_state_dict(filled(Scaling))


@pytest.mark.parametrize(
    ("path", "make"),
    [
        pytest.param("blocks.0.ffwd.expand", partial(nnx.Linear, C, 4 * C), id="Linear"),
        pytest.param("blocks.0.ln1", partial(nnx.LayerNorm, C), id="LayerNorm"),
        pytest.param("token_embedding_table", partial(nnx.Embed, V, C), id="Embed"),
        pytest.param("lm_head", partial(nnx.Linear, C, V), id="Linear as a head"),
    ],
)
def test_flaxs_own_layers_have_the_same_names(path, make):
    """And their weights, there and back."""

    def build():
        return put(MODULES["GPT"](), path, lambda ours: make(rngs=nnx.Rngs(0)))

    state_dict = ja.to_state_dict(filled(build))
    target = filled(MODULES["GPT"])
    assert state_dict.keys() == ja.to_state_dict(target).keys()
    again = ja.to_state_dict(ja.load_state_dict(target, state_dict))
    for name, value in state_dict.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_merged_lora_is_exported():
    attention = filled(MODULES["MultiHeadAttention"])
    proj = attention.proj
    lora = adapted(proj)
    lora.lora_b.set_value(jnp.ones_like(lora.lora_b[...]))
    attention.proj = lora
    before = np.asarray(attention(X))
    proj.kernel.set_value(proj.kernel[...] + lora.lora_a[...] @ lora.lora_b[...])
    attention.proj = proj
    merged = ja.load_state_dict(filled(MODULES["MultiHeadAttention"]), ja.to_state_dict(attention))
    np.testing.assert_allclose(merged(X), before, rtol=1e-4, atol=1e-5)


# As a whole model.


class Wrapped(nnx.Module):
    """A user's, around one of ours."""

    def __init__(self):
        self.model = filled(MODULES["bigram"])

    def __call__(self, idx):
        return self.model(idx)


class Sized(Wrapped):
    block_size = T


class Named(Sized):
    block_size = "8"


class Boundless(Sized):
    block_size = 0


class Mute(nnx.Module):
    block_size = T


class WithLoss(Sized):
    """As the lecture's own, which gives both."""

    def __call__(self, idx, targets=None):
        return self.model(idx), None


class WithTargets(Sized):
    def __call__(self, idx, targets):
        return self.model(idx)


class LastOnly(Sized):
    def __call__(self, idx):
        return self.model(idx)[:, -1]


class Likeliest(Sized):
    def __call__(self, idx):
        return self.model(idx).argmax(-1)


KEY, PROMPT = jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
BATCHES = ja.GivenBatches(*[jnp.zeros((1, 2, 4), jnp.int32)] * 2, 0)


def stepped(model):
    optimizer = optax.sgd(0.1)
    state = ja.TrainState.create(model, optimizer)
    inputs = jnp.zeros((2, 4), jnp.int32)
    return ja.train_step(state, inputs, inputs, optimizer)


SAMPLES = {
    "generate": lambda model: ja.generate(model, PROMPT, 3, key=KEY),
    "stream": lambda model: list(stream(model, PROMPT, 3, 2, key=KEY)),
}
LOSSES = {
    "evaluate": lambda model: ja.evaluate(model, np.zeros(9, int), block_size=4, batch_size=2),
    "estimate_loss": lambda model: ja.estimate_loss(model, BATCHES, 1),
    "train_step": stepped,
}
USES = SAMPLES | LOSSES
MODEL = "a model is a module that gives logits [B T V] when it is called with ids [B T]; "

NO_MODELS = [
    ("no block_size", Wrapped, SAMPLES, "Wrapped has no block_size, the most tokens that it looks"),
    ("a Sequential", lambda: nnx.Sequential(lambda i: i), SAMPLES, "Sequential has no block_size"),
    ("a block_size in words", Named, SAMPLES, "Named.block_size is '8'; it must be an integer"),
    ("a block_size of 0", Boundless, SAMPLES, "Boundless.block_size is 0; it must be greater"),
    ("no __call__", Mute, USES, MODEL + "Mute has no __call__"),
    ("targets too", WithTargets, USES, MODEL + "WithTargets takes others (missing a required"),
    ("a function", lambda: lambda idx: idx, USES, MODEL + "got function"),
    ("a class", lambda: ja.GPT, USES, MODEL + "got the class GPT"),
    ("none", lambda: None, USES, MODEL + "got NoneType"),
    ("a path", lambda: "runs/a", USES, MODEL + "got str"),
    ("a state", lambda: nnx.state(Wrapped()), USES, MODEL + "got State"),
    ("logits and loss", WithLoss, USES, "the model gives a tuple; it must give the logits [B T V]"),
    ("one position's logits", LastOnly, USES, "the model gives logits of the shape ("),
    ("ids for logits", Likeliest, USES, "logits is of type int32; logits must be floating-point"),
]


@pytest.mark.parametrize(
    ("make", "use", "said"),
    [
        pytest.param(make, use, said, id=f"{name}, {used}")
        for name, make, uses, said in NO_MODELS
        for used, use in uses.items()
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model_gets_one_sentence(make, use, said):
    model = make()
    with pytest.raises(ja.InputError) as refused:
        use(model)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("what", [Wrapped, None, "runs/a"], ids=["a model", "none", "a path"])
@pytest.mark.usefixtures("unchecked")
def test_what_trains_a_run_is_a_configuration(what):
    with pytest.raises(ja.InputError, match=r"config is a .*, not a TrainConfig: that of a preset"):
        ja.train(what() if isinstance(what, type) else what)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_users_own_model_with_a_block_size_can_be_used(use):
    use(Sized())


def test_it_is_sampled_from_as_what_is_inside():
    model = Sized()
    expected = ja.generate(model.model, PROMPT, 12, key=KEY, temperature=0)
    np.testing.assert_array_equal(ja.generate(model, PROMPT, 12, key=KEY, temperature=0), expected)
