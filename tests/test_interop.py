import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import jax_attn as ja
import torch_ref

SHAPE = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 3, "n_embd": 15}
GPT2 = {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True, "head_bias": False}
IDX = np.random.default_rng(0).integers(0, 11, (2, 7))


def randomised(model, seed=0):
    """Every parameter random, biases and norms too, so that no swap can hide."""
    rng = np.random.default_rng(seed)
    for param in jax.tree.leaves(
        nnx.state(model, nnx.Param), is_leaf=lambda x: isinstance(x, nnx.Variable)
    ):
        param[...] = jnp.asarray(rng.normal(size=param.shape), param.dtype)
    return model


def gpt(**fields):
    return ja.GPT(ja.GPTConfig(**(SHAPE | fields)), rngs=nnx.Rngs(0))


CASES = {
    "lecture": (lambda: gpt(), "lecture"),
    "lecture, tied and biased": (lambda: gpt(tie_embeddings=True, qkv_bias=True), "lecture"),
    "gpt2": (lambda: gpt(**GPT2), "gpt2"),
    "gpt2, untied": (lambda: gpt(**(GPT2 | {"tie_embeddings": False})), "gpt2"),
    "nanogpt": (lambda: gpt(**GPT2, linear_bias=False, norm_bias=False), "nanogpt"),
    "nanogpt, untied": (lambda: gpt(**(GPT2 | {"tie_embeddings": False})), "nanogpt"),
    "bigram": (lambda: ja.BigramLanguageModel(11, rngs=nnx.Rngs(0)), "lecture"),
    "single head": (lambda: ja.SingleHeadLanguageModel(11, 8, 15, 5, rngs=nnx.Rngs(0)), "lecture"),
    "head": (lambda: ja.Head(15, 5, rngs=nnx.Rngs(0)), "lecture"),
    "attention": (lambda: ja.MultiHeadAttention(15, 3, rngs=nnx.Rngs(0)), "lecture"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bridge_is_exact_both_ways(case):
    build, layout = CASES[case]
    source = randomised(build())
    state_dict = ja.to_state_dict(source, layout)
    target = ja.load_state_dict(build(), state_dict, layout)
    for a, b in zip(
        jax.tree.leaves(nnx.state(source, nnx.Param)),
        jax.tree.leaves(nnx.state(target, nnx.Param)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    again = ja.to_state_dict(target, layout)
    assert list(again) == list(state_dict)
    for name, value in state_dict.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("case", CASES)
def test_the_bridge_uses_every_number_once(case):
    """Numbered weights: each number arrives under one name, and none is left out."""
    build, layout = CASES[case]
    model, count = build(), 0
    for param in jax.tree.leaves(
        nnx.state(model, nnx.Param), is_leaf=lambda x: isinstance(x, nnx.Variable)
    ):
        param[...] = jnp.arange(count, count + param.size, dtype=jnp.float32).reshape(param.shape)
        count += param.size
    state_dict = ja.to_state_dict(model, layout)
    tied = hasattr(model, "config") and model.config.tie_embeddings
    values = [
        value.ravel()
        for name, value in state_dict.items()
        if not name.endswith(("tril", ".attn.bias")) and not (tied and name == "lm_head.weight")
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(values)), np.arange(count))


@pytest.mark.parametrize(
    "fields",
    [{}, {"activation": "gelu"}, GPT2, {"tie_embeddings": True}, {"n_head": 1, "n_layer": 1}],
)
def test_a_torch_checkpoint_gives_the_same_function(fields, x64):
    torch.manual_seed(0)
    reference = torch_ref.GPTLanguageModel(**(SHAPE | fields), dropout=0.0).double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_()
    model = ja.GPT(ja.GPTConfig(**(SHAPE | fields)), rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    ja.load_state_dict(model, reference.state_dict())
    idx = torch.tensor(IDX)
    expected, loss = reference(idx, idx)
    logits = model(jnp.asarray(IDX))
    scale = float(expected.detach().abs().max())
    np.testing.assert_allclose(logits, expected.detach(), rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(
        ja.next_token_loss(logits, jnp.asarray(IDX)), loss.item(), rtol=1e-13
    )
    np.testing.assert_allclose(
        model.attention_weights(jnp.asarray(IDX)),
        reference.attention_weights(idx).detach(),
        atol=1e-14,
    )
    # And back: torch takes what this package writes, all of it.
    written = {k: torch.tensor(v) for k, v in ja.to_state_dict(model).items()}
    reference.load_state_dict(written, strict=True)


def test_hugging_faces_gpt2_gives_the_same_function(x64):
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_layer=2, n_head=3, n_embd=15,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_()
        expected = reference(torch.tensor(IDX)).logits.numpy()
    model = ja.GPT(ja.GPTConfig(**SHAPE, **GPT2), rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    state_dict = {k: v.numpy() for k, v in reference.state_dict().items()}
    ja.load_state_dict(model, state_dict, "gpt2")
    atol = 1e-13 * np.abs(expected).max()
    np.testing.assert_allclose(model(jnp.asarray(IDX)), expected, rtol=0, atol=atol)

    # The same weights as a bare body, without the tied copy, with the masks of older files.
    bare = {
        k.removeprefix("transformer."): v for k, v in state_dict.items() if k != "lm_head.weight"
    }
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 8, 8), np.uint8))
    fresh = ja.GPT(ja.GPTConfig(**SHAPE, **GPT2), rngs=nnx.Rngs(1), param_dtype=jnp.float64)
    ja.load_state_dict(fresh, bare, "gpt2")
    np.testing.assert_array_equal(fresh(jnp.asarray(IDX)), model(jnp.asarray(IDX)))


def edited(change, **fields):
    state_dict = ja.to_state_dict(randomised(gpt(**fields)))
    change(state_dict)
    return state_dict


def test_what_is_wrong_is_named_and_nothing_is_loaded():
    name = "blocks.1.ffwd.net.0.weight"

    def transpose(s):
        s[name] = s[name].T

    def future(s):
        s["blocks.0.sa.heads.0.tril"] = np.ones((8, 8))

    def untie(s):
        s["lm_head.weight"] = s["lm_head.weight"] + 1

    for change, message, fields in (
        (lambda s: s.pop(name), f"missing: {name}", {}),
        (lambda s: s.update(stranger=np.zeros(1)), "not expected: stranger", {}),
        (transpose, rf"{name} has shape \(15, 60\); the model needs \(60, 15\)", {}),
        (future, r"blocks.0.sa.heads.0.tril \(8, 8\) is not the causal mask", {}),
        (untie, "lm_head.weight differs", {"tie_embeddings": True}),
    ):
        model = gpt(**fields)
        before = ja.to_state_dict(model)
        with pytest.raises(ja.InputError, match=message):
            ja.load_state_dict(model, edited(change, **fields))
        after = ja.to_state_dict(model)
        assert all(np.array_equal(before[k], after[k]) for k in before)


def test_unknown_layouts_and_modules_are_refused(unchecked):
    with pytest.raises(ja.InputError, match="layout 'keras' is unknown"):
        ja.to_state_dict(gpt(), "keras")
    with pytest.raises(ja.InputError, match="not BigramLanguageModel"):
        ja.to_state_dict(ja.BigramLanguageModel(11, rngs=nnx.Rngs(0)), "gpt2")
    with pytest.raises(ja.InputError, match="no names for Linear"):
        ja.to_state_dict(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
