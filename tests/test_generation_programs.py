"""What is computed of a prompt, in which programs, and from which weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.generate import compile_generation, stream
from jax_attn.generate.buckets import bucket, cached_positions, text_length
from jax_attn.generate.loop import extend, prefill
from jax_attn.generate.weights import cast_weights
from jax_attn.nn.ops.products import matmul, product, row_product_on_gpu
from tests.small_models import KEY, MODELS, TOP_3, T, V, make, prompts


def test_buckets():
    got = [bucket(length) for length in (0, 1, 2, 3, 17, 80, 127, 129, 300, 1023, 1025, 5000)]
    assert got == [0, 1, 2, 4, 32, 80, 128, 256, 384, 1024, 1280, 5120]
    lengths = np.arange(2**15)
    found = np.array([bucket(length) for length in range(2**15)])
    assert (found >= lengths).all()
    assert (np.diff(found) >= 0).all()
    assert (found[129:] % 128 == 0).all()
    assert ((found - lengths)[513:] < found[513:] / 5).all()
    assert len(set(found)) < 50
    assert all(bucket(length) == length for length in set(found.tolist()))


def test_what_is_computed_of_a_prompt_and_the_room_of_a_text():
    """A whole window is no longer than the model takes, and one token has nothing before it."""
    lengths = (1, 2, 17, 127, 128, 129, 1000, 1024)
    computed = [0, 1, 16, 128, 128, 128, 1000, 1000]
    assert [cached_positions(length, 1000) for length in lengths] == computed
    assert [text_length(total, 1000) for total in (85, 1000, 1001, 1002)] == [96, 1001, 1001, 1024]


COMPILING = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def programs():
    """The names of the programs that are compiled, as they are."""
    names = []

    def note(event, _, **about):
        if event == COMPILING:
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("name", ["lecture", "head", "bigram"])
def test_no_length_up_to_the_bucket_compiles_anything(name, programs):
    """Prompts whose last token follows 9 to 16 others, texts of 17 to 32 tokens."""
    model = {
        "lecture": ja.GPT(ja.GPTConfig(V, 64, 1, 3, 15), rngs=nnx.Rngs(0)),
        "head": ja.SingleHeadLanguageModel(V, 64, 15, 5, rngs=nnx.Rngs(0)),
        "bigram": MODELS["bigram"],
    }[name]
    requests = [(17, 15), (10, 7), (11, 20), (16, 3), (15, 17)]
    prefill.clear_cache()
    extend.clear_cache()
    compile_generation(model, jax.ShapeDtypeStruct((1, 17), jnp.int32), 15, key=KEY)
    assert {"jit(prefill)", "jit(extend)"} <= set(programs)
    programs.clear()
    for prompt_length, n in requests:
        prompt = jax.device_put(np.zeros((1, prompt_length), np.int32))
        assert ja.generate(model, prompt, n, key=KEY).shape == (1, prompt_length + n)
        list(stream(model, prompt, n, 4, key=KEY))
    assert programs == []
    ja.generate(model, jnp.zeros((1, 17), jnp.int32), 16, key=KEY)
    assert "jit(extend)" in programs


@pytest.mark.parametrize(
    ("name", "prompt_length"), [("lecture", 1), ("lecture", 3), ("lecture", T), ("head", 3)]
)
def test_what_the_prompt_is_padded_with_changes_no_token(name, prompt_length):
    model, prompt, total = MODELS[name], prompts(3, prompt_length), prompt_length + 20
    expected = ja.generate(model, prompt, 20, key=KEY, **TOP_3)
    leaves, structure = jax.tree.flatten(model)
    positions = cached_positions(prompt_length, model.block_size)
    for seed in (0, 1):
        room = jax.random.randint(jax.random.key(seed), (3, 32), 0, V, dtype=jnp.int32)
        text = room.at[:, :prompt_length].set(prompt)
        _, text, cache = prefill(structure, leaves, text, positions=positions)
        places = (np.int32(place) for place in (prompt_length, prompt_length, total))
        arguments = (structure, leaves, text, cache, KEY, np.float32(TOP_3["temperature"]), *places)
        text, _ = extend(*arguments, greedy=False, top_k=TOP_3["top_k"])
        np.testing.assert_array_equal(text[:, :total], expected)


def test_how_many_more_tokens_are_asked_for_changes_none():
    expected = ja.generate(MODELS["lecture"], prompts(2, 3), 20, key=KEY)
    for n in (1, 5, 6):
        tokens = ja.generate(MODELS["lecture"], prompts(2, 3), n, key=KEY)
        np.testing.assert_array_equal(tokens, expected[:, : 3 + n])


def test_within_another_program_it_is_the_same():
    expected = ja.generate(MODELS["lecture"], prompts(2, 3), 20, key=KEY)
    inside = jax.jit(lambda prompt: ja.generate(MODELS["lecture"], prompt, 20, key=KEY))
    np.testing.assert_array_equal(inside(prompts(2, 3)), expected)


def test_a_prompt_of_one_token_asks_the_model_for_nothing():
    """There is no position before its last one; a kernel asked for none may divide by it."""
    leaves, structure = jax.tree.flatten(MODELS["gpt2"])
    for prompt_length, products in ((1, False), (2, True)):
        positions = cached_positions(prompt_length, T)
        text = jax.ShapeDtypeStruct((1, 16), jnp.int32)
        lowered = prefill.lower(structure, leaves, text, positions=positions)
        assert ("dot_general" in lowered.as_text()) is products


BFLOAT16 = {"dtype": jnp.bfloat16}


@pytest.mark.parametrize("name", ["lecture", "gpt2", "head"])
def test_weights_cast_beforehand_give_the_same_bits(name):
    idx = prompts(2, T)

    @jax.jit
    def logits(model):
        cache = model.prefill(idx)
        return *model.step(idx[:, -1:], cache, jnp.int32(T - 1)), cache

    # No number of which is one in bfloat16, as ones and zeros are.
    model = jax.tree.map(lambda x: x + 0.01, make(name, **BFLOAT16))
    expected = logits(model)
    cast_weights(model)
    assert model.token_embedding_table.embedding[...].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, logits(model), expected)


@pytest.mark.parametrize("name", ["lecture", "gpt2", "head"])
def test_no_step_casts_a_weight(name):
    """Neither in the program as written nor in the compiled one."""
    model = make(name, **BFLOAT16)
    leaves, structure = jax.tree.flatten(model)
    text = jax.ShapeDtypeStruct((1, 32), jnp.int32)
    begin = prefill.lower(structure, leaves, text, positions=4)
    cast, text, cache = begin.out_info
    leaves = [old if new is None else new for old, new in zip(leaves, cast, strict=True)]
    number, place = np.float32(1), np.int32(0)
    arguments = (structure, leaves, text, cache, KEY, number, place, place, place)
    lowered = extend.lower(*arguments, greedy=False, top_k=None)
    matrices = [leaf.shape for leaf in leaves if leaf.ndim > 1]
    # Of the positions' table's shape are activations of a whole window, too.
    weights = {",".join(map(str, shape)) for shape in matrices if shape[0] != T}
    assert len(weights) >= 3
    in_program = re.findall(r"stablehlo.convert .*<([0-9x]+)xf32>\) -> .*bf16", lowered.as_text())
    in_compiled = re.findall(r"= bf16\[([0-9,]+)\]\S* convert\(", lowered.compile().as_text())
    for cast in ([shape.replace("x", ",") for shape in in_program], in_compiled):
        assert "1,1,11" in cast or "1,1,15" in cast  # activations are
        assert not weights & set(cast)


def test_a_row_on_a_gpu_is_one_of_two_in_bfloat16():
    key = jax.random.key(0)
    x = jax.random.normal(key, (1, 1, 512), jnp.bfloat16)
    kernel = jax.random.normal(key, (512, 512), jnp.bfloat16)
    got, whole = (f(x, kernel, jnp.bfloat16) for f in (row_product_on_gpu, product))
    assert got.shape == whole.shape == (1, 1, 512)
    np.testing.assert_allclose(
        got.astype(jnp.float32), whole.astype(jnp.float32), rtol=2**-7, atol=1e-3
    )
    lowered = jax.jit(lambda x, k: matmul(x, k, x.dtype))
    for dtype, rows in ((jnp.bfloat16, "2x512"), (jnp.float32, "1x1x512")):
        traced = lowered.trace(x.astype(dtype), kernel.astype(dtype))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert re.search(rf"dot_general .*\(tensor<{rows}x\w+>, tensor<512x512x", text)
