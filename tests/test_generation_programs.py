"""What is computed of a prompt, in which programs, and from which weights."""

import re
from functools import partial

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
from tests.small_models import GREEDY, KEY, ROWS, TOP_3, N, T, V, filled, make, model_of, prompts


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


@pytest.mark.parametrize(
    "build",
    [
        lambda: ja.SingleHeadLanguageModel(V, 64, 15, 5, rngs=nnx.Rngs(0)),
        lambda: ja.BigramLanguageModel(V, rngs=nnx.Rngs(0)),
    ],
    ids=["with a cache", "without one"],
)
def test_no_length_up_to_the_bucket_compiles_anything(build, programs):
    """Prompts whose last token follows 9 to 16 others, texts of 17 to 32 tokens."""
    model = filled(build)
    requests = [(17, 15), (10, 7), (11, 20), (16, 3), (15, 17)]
    key = jax.random.key(7)
    programs.clear()
    compile_generation(model, jax.ShapeDtypeStruct((1, 17), jnp.int32), 15, key=key)
    assert {"jit(prefill)", "jit(extend)"} <= set(programs)
    programs.clear()
    for prompt_length, n in requests:
        prompt = jax.device_put(np.zeros((1, prompt_length), np.int32))
        assert ja.generate(model, prompt, n, key=key).shape == (1, prompt_length + n)
        list(stream(model, prompt, n, 4, key=key))
    assert programs == []


@pytest.mark.parametrize(
    ("name", "prompt_length", "options"),
    [("lecture", 1, GREEDY), ("lecture", 3, GREEDY), ("lecture", T, GREEDY), ("head", 3, TOP_3)],
)
def test_what_the_prompt_is_padded_with_changes_no_token(name, prompt_length, options):
    model, prompt, total = model_of(name), prompts(prompt_length), prompt_length + N
    expected = ja.generate(model, jax.device_put(prompt), N, key=KEY, **options)
    temperature, top_k = options["temperature"], options.get("top_k")
    leaves, structure = jax.tree.flatten(model)
    positions = cached_positions(prompt_length, model.block_size)
    for seed in (0, 1):
        text = np.random.default_rng(seed).integers(0, V, (ROWS, 32), np.int32)
        text[:, :prompt_length] = prompt
        _, text, cache = prefill(structure, leaves, text, positions=positions)
        numbers = (np.int32(number) for number in (prompt_length, 0, N))
        settings = (KEY, np.float32(temperature), None, None)
        arguments = (structure, leaves, text, cache, *settings, *numbers)
        text, _ = extend(*arguments, greedy=temperature == 0, top_k=top_k)
        np.testing.assert_array_equal(np.asarray(text)[:, :total], expected)


def test_how_many_more_tokens_are_asked_for_changes_none():
    """Texts with room for less than the window, for just what it takes, and for more."""
    model, prompt = model_of("head"), jax.device_put(prompts(3))
    expected = np.asarray(ja.generate(model, prompt, N, key=KEY, **TOP_3))
    for n in (1, T - 2):
        tokens = ja.generate(model, prompt, n, key=KEY, **TOP_3)
        np.testing.assert_array_equal(tokens, expected[:, : 3 + n])


def test_within_another_program_it_is_the_same():
    model, prompt = model_of("head"), jax.device_put(prompts(3))
    expected = ja.generate(model, prompt, N, key=KEY, **TOP_3)
    inside = jax.jit(lambda prompt: ja.generate(model, prompt, N, key=KEY, **TOP_3))
    np.testing.assert_array_equal(inside(prompt), expected)


def test_a_prompt_of_one_token_asks_the_model_for_nothing():
    """There is no position before its last one; a kernel asked for none may divide by it."""
    leaves, structure = jax.tree.flatten(model_of("gpt2"))
    for prompt_length, products in ((1, False), (2, True)):
        positions = cached_positions(prompt_length, T)
        text = jax.ShapeDtypeStruct((1, 16), jnp.int32)
        lowered = prefill.lower(structure, leaves, text, positions=positions)
        assert ("dot_general" in lowered.as_text()) is products


BFLOAT16 = {"dtype": jnp.bfloat16}


@pytest.mark.parametrize("name", ["lecture", "gpt2", "head"])
def test_weights_cast_beforehand_give_the_same_bits(name):
    idx = jax.device_put(prompts(T))

    @jax.jit
    def logits(model, idx):
        cache = model.prefill(idx)
        return *model.step(idx[:, -1:], cache, jnp.int32(T - 1)), cache

    model = make(name, **BFLOAT16)
    assert all((x != x.astype(jnp.bfloat16)).any() for x in map(np.asarray, jax.tree.leaves(model)))
    expected = logits(model, idx)
    cast_weights(model)
    assert model.token_embedding_table.embedding[...].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, logits(model, idx), expected)


@pytest.mark.parametrize("name", ["lecture", "gpt2", "head"])
def test_no_step_casts_a_weight(name):
    """Neither in the program as written nor in the compiled one."""
    model = make(name, **BFLOAT16)
    leaves, structure = jax.tree.flatten(model)
    text = jax.ShapeDtypeStruct((1, 32), jnp.int32)
    begin = partial(prefill, structure, positions=4)
    cast, text, cache = jax.eval_shape(begin, leaves, text)
    leaves = [old if new is None else new for old, new in zip(leaves, cast, strict=True)]
    settings, number = (KEY, np.float32(1), None, None), np.int32(0)
    arguments = (structure, leaves, text, cache, *settings, number, number, number)
    lowered = extend.lower(*arguments, greedy=True, top_k=None)
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
    draw = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(draw.normal(size=shape).astype(jnp.bfloat16))
        for shape in ((1, 1, 512), (512, 512))
    )
    got, whole = (
        np.asarray(jax.jit(f, static_argnums=2)(x, kernel, jnp.bfloat16))
        for f in (row_product_on_gpu, product)
    )
    assert got.shape == whole.shape == (1, 1, 512)
    np.testing.assert_allclose(
        got.astype(np.float32), whole.astype(np.float32), rtol=2**-7, atol=1e-3
    )
    lowered = jax.jit(lambda x, k: matmul(x, k, x.dtype))
    for dtype, rows in ((jnp.bfloat16, "2x512"), (jnp.float32, "1x1x512")):
        traced = lowered.trace(*(jax.ShapeDtypeStruct(a.shape, dtype) for a in (x, kernel)))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert re.search(rf"dot_general .*\(tensor<{rows}x\w+>, tensor<512x512x", text)
