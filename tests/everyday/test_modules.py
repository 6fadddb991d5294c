"""Modules as flax's users use them, and inputs of a wrong rank, kind or framework."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx

import jax_attn as ja
from tests.small_models import filled

V, T, C, H = 11, 8, 15, 3
CONFIG = ja.GPTConfig(V, T, n_layer=1, n_head=H, n_embd=C)
TIED = ja.GPTConfig.gpt2(vocab_size=V, block_size=T, n_layer=1, n_head=H, n_embd=C)
IDX = jnp.asarray(np.random.default_rng(0).integers(0, V, (2, 7), np.int32))
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, C)).astype(np.float32))

MODULES = {
    "GPT": lambda: ja.GPT(CONFIG, rngs=nnx.Rngs(0)),
    "GPT with a tied head": lambda: ja.GPT(TIED, rngs=nnx.Rngs(0)),
    "GPT with remat": lambda: ja.GPT(CONFIG, rngs=nnx.Rngs(0), remat=True),
    "single head": lambda: ja.SingleHeadLanguageModel(V, T, C, 5, rngs=nnx.Rngs(0)),
    "bigram": lambda: ja.BigramLanguageModel(V, rngs=nnx.Rngs(0)),
    "Head": lambda: ja.Head(C, 5, rngs=nnx.Rngs(0)),
    "MultiHeadAttention": lambda: ja.MultiHeadAttention(C, H, rngs=nnx.Rngs(0)),
    "Block": lambda: ja.Block(CONFIG, rngs=nnx.Rngs(0)),
    "FeedForward": lambda: ja.FeedForward(CONFIG, rngs=nnx.Rngs(0)),
}
WIDE = {"width": 200, "force_terminal": False}
LAYERS = ("Head", "MultiHeadAttention", "Block", "FeedForward")

logits_of = jax.jit(lambda model, idx: model(idx))


def gpt():
    return filled(MODULES["GPT"])


@pytest.mark.parametrize("name", MODULES)
def test_tabulate_shows_a_module_and_leaves_it_as_it_is(name):
    model, given = filled(MODULES[name]), X if name in LAYERS else IDX
    before = np.asarray(logits_of(model, given))
    table = nnx.tabulate(model, given, console_kwargs=WIDE)
    assert f"{type(model).__name__} Summary" in table
    assert "Total Parameters" in table
    np.testing.assert_array_equal(logits_of(model, given), before)
    filled(MODULES[name])  # another can still be made


class Own(nnx.Module):
    """A user's, with one of ours inside it twice."""

    def __init__(self, inner):
        self.inner, self.more = inner, nnx.List([inner])

    def __call__(self, idx):
        return self.inner(idx) + self.more[0](idx)


def merged(model):
    return nnx.merge(*nnx.split(model))


def updated(model):
    other = filled(MODULES["GPT"])
    nnx.update(other, jax.tree.map(jnp.zeros_like, nnx.state(other)))
    nnx.update(other, nnx.state(model))
    return other


def from_pure_dict(model):
    state = nnx.state(filled(MODULES["GPT"]))
    nnx.replace_by_pure_dict(state, nnx.to_pure_dict(nnx.state(model)))
    return nnx.merge(nnx.graphdef(model), state)


def from_shapes(model):
    shapes = nnx.eval_shape(MODULES["GPT"])
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nnx.state(shapes))
    nnx.update(shapes, empty)
    return ja.load_state_dict(shapes, ja.to_state_dict(model))


def there_and_back(model):
    model.train()
    model.eval()
    model.set_attributes(deterministic=False)
    model.set_attributes(deterministic=True)
    return model


def shown(model):
    assert "token_embedding_table" in repr(model)
    assert len(str(nnx.state(model))) > 100
    return model


def walked(model):
    paths = {".".join(map(str, path)) for path, _ in nnx.iter_modules(model)}
    assert {"blocks.0.sa.qkv", "ln_f", "lm_head"} <= paths
    assert nnx.get_partition_spec(nnx.state(model)) is not None
    assert nnx.find_duplicates(model) == []
    return model


ALIKE = {  # uses that give the model, or another that must be the same
    "split and merge": merged,
    "state and update": updated,
    "clone": nnx.clone,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "tree.map over the model": lambda model: jax.tree.map(lambda leaf: leaf, model),
    "pure dict": from_pure_dict,
    "eval_shape and load_state_dict": from_shapes,
    "view": lambda model: nnx.view(model, deterministic=True),
    "train and eval": there_and_back,
    "repr": shown,
    "iter_modules, partition spec": walked,
    "Sequential": lambda model: nnx.Sequential(model),
}


@pytest.mark.parametrize("use", ALIKE.values(), ids=ALIKE)
def test_a_use_that_leaves_the_model_the_same_function(use):
    model = gpt()
    before = np.asarray(logits_of(model, IDX))
    np.testing.assert_array_equal(logits_of(use(model), IDX), before)


def loss(model):
    return ja.next_token_loss(model(IDX), IDX)


def trained(model):
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    return step(model, optimizer) > step(model, optimizer)


def frozen(model):
    only = nnx.All(nnx.Param, nnx.PathContains("lm_head"))
    gradient = nnx.grad(loss, argnums=nnx.DiffState(0, only))
    gradients = nnx.eval_shape(lambda model: gradient(model), model)
    return set(gradients.keys()) == {"lm_head"}


def vmapped(model):
    graphdef, state = nnx.split(model)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    return jax.eval_shape(jax.vmap(lambda s: nnx.merge(graphdef, s)(IDX)), two).shape


def scanned(model):
    stacked = nnx.vmap(lambda rngs: ja.Block(CONFIG, rngs=rngs), in_axes=0, out_axes=0)
    blocks = nnx.eval_shape(lambda: stacked(nnx.Rngs(0).split(2)))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def forward(x, block):
        return block(x)

    return nnx.eval_shape(lambda blocks: forward(X, blocks), blocks).shape


def saved(model):
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.state(model))
    return jax.tree.structure(shapes) == jax.tree.structure(nnx.state(model))


def captured(model):
    class Sowing(nnx.Module):
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, idx):
            logits = self.inner(idx)
            self.sow(nnx.Intermediate, "logits", logits)
            return logits

    _, found = nnx.capture(Sowing(model), nnx.Intermediate)(IDX)
    return found["logits"][0].shape


USES = {  # and what each gives
    "Optimizer, value_and_grad, jit": (trained, True),
    "frozen parameters": (frozen, True),
    "vmap of two models": (vmapped, (2, 2, 7, V)),
    "scan over stacked blocks": (scanned, (2, 7, C)),
    "orbax's shapes": (saved, True),
    "sow and capture": (captured, (2, 7, V)),
    "nnx.remat": (lambda m: nnx.eval_shape(nnx.remat(lambda m: m(IDX)), m).shape, (2, 7, V)),
    "jax.eval_shape": (lambda m: jax.eval_shape(lambda m: m(IDX), m).shape, (2, 7, V)),
    "nnx.jit without a graph": (lambda m: nnx.jit(loss, graph=False)(m).shape, ()),
    "another module's attribute, twice": (lambda m: logits_of(Own(m), IDX).shape, (2, 7, V)),
    "tabulate of another's attribute": (
        lambda m: "Own Summary" in nnx.tabulate(Own(m), IDX, console_kwargs=WIDE),
        True,
    ),
    "tabulate of another method": (
        lambda m: (
            "GPT Summary" in nnx.tabulate(m, IDX, method="attention_weights", console_kwargs=WIDE)
        ),
        True,
    ),
    "linen wrapper": (
        lambda m: (
            jax.eval_shape(
                lambda: nnx.bridge.ToLinen(ja.GPT, (CONFIG,)).init_with_output(
                    jax.random.key(0), IDX
                )
            )[0].shape
        ),
        (2, 7, V),
    ),
}


@pytest.mark.parametrize(("use", "right"), USES.values(), ids=USES)
def test_a_use_gives_what_it_should(use, right):
    assert use(gpt()) == right


def doubled_by_lora(layer):
    lora = nnx.LoRALinear(
        layer.in_features, layer.out_features, lora_rank=1, use_bias=False, rngs=nnx.Rngs(0)
    )
    lora.kernel[...] = layer.kernel[...]
    lora.lora.lora_a[...] = jnp.ones_like(lora.lora.lora_a[...])
    lora.lora.lora_b[...] = jnp.ones_like(lora.lora.lora_b[...])
    return lora


def plain(layer):
    same = nnx.Linear(layer.in_features, layer.out_features, use_bias=False, rngs=nnx.Rngs(0))
    same.kernel[...] = layer.kernel[...]
    return same


@pytest.mark.parametrize(
    ("replacement", "same"),
    [
        pytest.param(plain, True, id="queries, keys, values by flax's own Linear"),
        pytest.param(doubled_by_lora, False, id="queries, keys, values by a LoRA"),
    ],
)
def test_what_replaces_a_projection_is_what_is_computed_with(replacement, same):
    attention = filled(MODULES["MultiHeadAttention"])
    before = np.asarray(attention(X))
    attention.qkv = replacement(attention.qkv)
    query, key, value = jnp.split(attention.qkv(X), 3, axis=-1)
    weights = ja.attention_weights(
        *(x.reshape(2, 7, H, C // H).swapaxes(1, 2) for x in (query, key)),
        mask=ja.causal_mask(7),
    )
    heads = weights @ value.reshape(2, 7, H, C // H).swapaxes(1, 2)
    expected = attention.proj(heads.swapaxes(1, 2).reshape(2, 7, C))
    np.testing.assert_allclose(attention(X), expected, rtol=1e-4, atol=1e-5)
    assert np.allclose(before, expected, rtol=1e-4, atol=1e-5) == same


def test_an_untied_head_can_be_replaced_by_any_layer():
    model = gpt()
    model.lm_head = nnx.Linear(C, 5, rngs=nnx.Rngs(0))
    assert jax.eval_shape(lambda m: m(IDX), model).shape == (2, 7, 5)


ROW = np.zeros((1, 2), np.int32)
BAD_IDS = [
    pytest.param([[1, 2]], "idx must be an array, got list; give jnp.asarray", id="list"),
    pytest.param(((1, 2),), "idx must be an array, got tuple; give", id="tuple"),
    pytest.param(None, "idx must be an array, got NoneType", id="None"),
    pytest.param(3, "idx must be an array, got int", id="number"),
    pytest.param("ROMEO", "idx is a str; a tokenizer's encode", id="text"),
    pytest.param(torch.tensor([[1, 2]]), "idx is a torch Tensor; give jnp.asarray", id="torch"),
    pytest.param(ROW.astype(np.float32), "idx is of type float32; token ids", id="float ids"),
    pytest.param(ROW.astype(bool), "idx is of type bool; token ids must be", id="bools"),
    pytest.param(ROW.astype(object), "idx is of type object; token ids", id="objects"),
    pytest.param(np.array([["a"]]), "idx is of type <U1; token ids", id="letters"),
    pytest.param(jax.random.key(0), "idx must be an array, got PRNGKeyArray", id="key"),
    pytest.param(jax.ShapeDtypeStruct((1, 2), jnp.int32), "jax.eval_shape takes", id="shape"),
    pytest.param(ROW[0], r"got the shape \(2,\); idx\[None\] is a batch of one text", id="rank 1"),
    pytest.param(ROW[0, 0], r"idx must be \[batch, time\], got the shape \(\)", id="rank 0"),
    pytest.param(ROW[None], r"idx must be \[batch, time\], got the shape", id="rank 3"),
    pytest.param(np.array([[2**32]]), "holds 4294967296, which does not fit 32", id="64-bit id"),
]


@pytest.mark.parametrize(("idx", "message"), BAD_IDS)
@pytest.mark.parametrize("name", ["GPT", "single head", "bigram"])
def test_ids_that_are_none_get_one_sentence(name, idx, message, unchecked):
    model = nnx.eval_shape(MODULES[name])
    for use in (model, *([] if name == "bigram" else [model.attention_weights])):
        with pytest.raises(ja.InputError, match=message) as error:
            use(idx)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["GPT", "single head"])
def test_a_text_that_is_too_long_is_refused(name, unchecked):
    with pytest.raises(ValueError, match="9 tokens do not fit block_size 8; crop"):
        nnx.eval_shape(MODULES[name])(np.zeros((1, 9), np.int32))


@pytest.mark.parametrize("shape", [(0, 3), (1, 0)], ids=["no rows", "no tokens"])
@pytest.mark.parametrize("name", ["GPT", "single head", "bigram"])
def test_nothing_gives_nothing(name, shape):
    model = nnx.eval_shape(MODULES[name])
    idx = jax.ShapeDtypeStruct(shape, jnp.int32)
    assert jax.eval_shape(lambda m, i: m(i), model, idx).shape == (*shape, V)


@pytest.mark.parametrize(("prompt", "message"), BAD_IDS)
def test_a_prompt_that_is_none_gets_one_sentence(prompt, message, unchecked):
    model = nnx.eval_shape(MODULES["bigram"])
    with pytest.raises(ja.InputError, match=message.replace("idx", "tokens")):
        ja.generate(model, prompt, 2, key=jax.random.key(0))


ONES = np.ones((1, 2, C), np.float32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        pytest.param(ONES.tolist(), "x must be an array, got list; give", id="list"),
        pytest.param(torch.ones(1, 2, C), "x is a torch Tensor; give", id="torch"),
        pytest.param(ROW, "x is of type int32; channels must be", id="ids, not embedded"),
        pytest.param(ONES.astype(object), "x is of type object", id="objects"),
        pytest.param(ONES + 1j, "x is of type complex64; channels", id="complex"),
        pytest.param(ONES[0], r"got the shape \(2, 15\); x\[None\] is a batch", id="no batch"),
        pytest.param(ONES[None], r"got the shape \(1, 1, 2, 15\)", id="rank 4"),
        pytest.param(ONES[..., :14], "x has 14 channels; this module was made for 15", id="C"),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_wrong_channels_get_one_sentence(name, x, message, unchecked):
    with pytest.raises(ja.InputError, match=message) as error:
        nnx.eval_shape(MODULES[name])(x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        pytest.param(ONES[..., :14], "context has 14 channels; this module", id="channels"),
        pytest.param(np.ones((2, 3, C)), "context has a batch of 2, but x one of 1", id="batch"),
        pytest.param(ONES[0], r"context must be \[batch, time, channels\]", id="no batch"),
        pytest.param([1.0], "context must be an array, got list", id="list"),
    ],
)
@pytest.mark.parametrize("name", ["Head", "MultiHeadAttention"])
def test_a_wrong_context_gets_one_sentence(name, context, message, unchecked):
    with pytest.raises(ja.InputError, match=message):
        nnx.eval_shape(MODULES[name])(ONES, context)


LOGITS = np.zeros((2, 3, V), np.float32)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        pytest.param(np.zeros((2, 1), np.int32), r"shape \(2, 1\), but logits", id="broadcast"),
        pytest.param(np.zeros((1, 3), np.int32), r"shape \(1, 3\), but logits", id="one row"),
        pytest.param(np.zeros(6, np.int32), r"shape \(6,\), but logits of the", id="flat"),
        pytest.param(LOGITS, "targets is of type float32; targets are ids", id="one-hot"),
        pytest.param([[0] * 3] * 2, "targets must be an array, got list", id="list"),
        pytest.param(torch.zeros(2, 3, dtype=int), "targets is a torch Tensor", id="torch"),
    ],
)
def test_wrong_targets_get_one_sentence(targets, message, unchecked):
    with pytest.raises(ja.InputError, match=message):
        ja.next_token_loss(LOGITS, targets)


SQUARE = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda: ja.attention_weights(SQUARE, SQUARE, mask=np.tril(np.ones((2, 2)))),
            "mask is of type float64; it must be booleans",
            id="mask of numbers",
        ),
        pytest.param(
            lambda: ja.attention_weights(SQUARE.tolist(), SQUARE),
            "query must be an array, got list",
            id="query, a list",
        ),
        pytest.param(
            lambda: ja.attend(torch.ones(2, 2), SQUARE),
            "weights is a torch Tensor",
            id="weights of torch",
        ),
        pytest.param(
            lambda: ja.running_mean_softmax(np.ones((1, 2, 3), np.int32)),
            "x is of type int32",
            id="mean of integers",
        ),
        pytest.param(
            lambda: ja.running_mean_loop(SQUARE),
            r"x must be \[batch, time, channels\]",
            id="mean without a batch",
        ),
        pytest.param(
            lambda: ja.MultiHeadAttention(15, 0, rngs=nnx.Rngs(0)),
            "n_head is 0; it must be",
            id="no heads",
        ),
        pytest.param(
            lambda: ja.Head(15, -5, rngs=nnx.Rngs(0)), "head_size is -5", id="negative head size"
        ),
        pytest.param(
            lambda: ja.Head(15, 5, dropout_rate=1.5, rngs=nnx.Rngs(0)),
            "dropout_rate is 1.5; it must be",
            id="dropout of more than all",
        ),
        pytest.param(
            lambda: ja.BigramLanguageModel(0, rngs=nnx.Rngs(0)), "vocab_size is 0", id="no symbols"
        ),
    ],
)
def test_functions_and_sizes(call, message, unchecked):
    with pytest.raises(ja.InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda w: w.astype(np.float64) * 1e300, "too large for", id="float64 beyond"),
        pytest.param(lambda w: w * 1j, "complex64; weights are real", id="complex"),
        pytest.param(lambda w: np.full(w.shape, "1"), "weights are real", id="strings"),
        pytest.param(lambda w: w > 0, "bool; weights are real", id="booleans"),
    ],
)
def test_weights_that_are_none(change, said):
    model = ja.BigramLanguageModel(5, rngs=nnx.Rngs(0))
    state_dict = ja.to_state_dict(model)
    (name,) = state_dict
    with pytest.raises(ja.InputError, match=said):
        ja.load_state_dict(model, {name: change(state_dict[name])})
    np.testing.assert_array_equal(ja.to_state_dict(model)[name], state_dict[name])


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(np.arange(20) % 5 + 0.9, id="fractions"),
        pytest.param(np.ones(20), id="whole floats"),
        pytest.param(np.ones((2, 9), int), id="a batch"),
        pytest.param([True, False] * 9, id="booleans"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_tokens_to_evaluate_that_are_none(tokens):
    model = ja.BigramLanguageModel(5, rngs=nnx.Rngs(0))
    with pytest.raises(ja.InputError, match="tokens are ids, integers"):
        ja.evaluate(model, tokens, block_size=4)


RNGS, PROMPT, KEY = nnx.Rngs(0), jnp.zeros((1, 1), jnp.int32), jax.random.key(0)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        pytest.param(
            lambda: ja.GPT({"n_layer": 1}, rngs=RNGS), "a GPTConfig", id="a dict as config"
        ),
        pytest.param(lambda: ja.GPT(CONFIG, rngs=KEY), "rngs must be", id="a key as rngs"),
        pytest.param(lambda: ja.BigramLanguageModel(5, rngs=0), "got int", id="a seed as rngs"),
        pytest.param(lambda: ja.Head(8, 4, rngs=None), "got NoneType", id="no rngs"),
        pytest.param(lambda: ja.MultiHeadAttention(8, 2, rngs=1), "got int", id="heads of a seed"),
        pytest.param(lambda: sampled(0), "key must be one key.*got int", id="a seed as key"),
        pytest.param(lambda: sampled(None), "got NoneType", id="no key"),
        pytest.param(lambda: sampled(RNGS), "got Rngs", id="rngs as key"),
        pytest.param(lambda: sampled(jax.random.split(KEY)), "of the shape", id="two keys"),
        pytest.param(lambda: ja.load_model(None), "path of a run", id="no source"),
        pytest.param(lambda: ja.load_model(b"runs"), "got bytes", id="a source of bytes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_given_in_the_wrong_place(use, said):
    with pytest.raises(ja.InputError, match=said):
        use()


def sampled(key):
    return ja.generate(ja.BigramLanguageModel(5, rngs=nnx.Rngs(0)), PROMPT, 3, key=key)


def test_a_key_of_the_old_kind_samples():
    assert sampled(jax.random.PRNGKey(0)).shape == (1, 4)
