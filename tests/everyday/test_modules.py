"""Modules as flax's users use them."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import jax_attn as ja
from tests.everyday.modules import CONFIG, IDX, LAYERS, MODULES, C, H, V, X
from tests.small_models import filled

WIDE = {"width": 200, "force_terminal": False}

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
