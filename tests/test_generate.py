import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.generate import compile_generation, loop, stream
from jax_attn.generate.buckets import bucket, cached_positions, text_length
from jax_attn.generate.loop import NOISE_STEPS, extend, prefill
from jax_attn.generate.sampling import first_largest, sample
from jax_attn.generate.weights import cast_weights
from jax_attn.nn.layers import matmul, product, row_product_on_gpu
from tests import uncached

V, T = 11, 8
SHAPES = {
    "lecture": ja.GPTConfig(vocab_size=V, block_size=T, n_layer=2, n_head=3, n_embd=15),
    "gpt2": ja.GPTConfig.gpt2(vocab_size=V, block_size=T, n_layer=2, n_head=3, n_embd=15),
    "dropout": ja.GPTConfig(V, T, 1, 3, 15, dropout_rate=0.5),
}


class Plain(nnx.Module):
    """A model without a cache, as somebody may bring."""

    block_size = T

    def __init__(self, model):
        self.model = model

    def __call__(self, idx):
        return self.model(idx)


def make(name, param_dtype=jnp.float32, dtype=None):
    rngs, dtypes = nnx.Rngs(3), {"param_dtype": param_dtype, "dtype": dtype}
    if name == "head":
        return ja.SingleHeadLanguageModel(V, T, 15, 5, rngs=rngs, **dtypes)
    if name == "bigram":
        return ja.BigramLanguageModel(V, rngs=rngs, **dtypes)
    if name == "plain":
        return Plain(make("lecture", **dtypes))
    return ja.GPT(SHAPES[name], rngs=rngs, **dtypes)


NAMES = ["lecture", "gpt2", "dropout", "head", "bigram", "plain"]
MODELS = {name: make(name) for name in NAMES}
KEY = jax.random.key(7)


def prompts(rows, length):
    return jax.random.randint(jax.random.key(length), (rows, length), 0, V, dtype=jnp.int32)


def same_tokens(model, prompt, n, **options):
    got = ja.generate(model, prompt, n, key=KEY, **options)
    assert got.shape == (prompt.shape[0], prompt.shape[1] + n)
    np.testing.assert_array_equal(got, uncached.generate(model, prompt, n, key=KEY, **options))


TOP_3 = {"temperature": 0.7, "top_k": 3}


@pytest.mark.parametrize("prompt_length", [1, T - 1, T, T + 5])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, TOP_3])
def test_equals_the_growing_context_also_past_block_size(prompt_length, options):
    same_tokens(MODELS["lecture"], prompts(3, prompt_length), 20, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt_length", [3, T + 5])
def test_equals_it_in_every_model(name, prompt_length):
    same_tokens(MODELS[name], prompts(3, prompt_length), 20, **TOP_3)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("lecture", jnp.float32),
        ("lecture", jnp.float64),
        ("gpt2", jnp.float32),
        ("head", jnp.float64),
    ],
)
def test_equals_it_for_a_thousand_prompts(name, dtype, options, x64):
    same_tokens(make(name, param_dtype=dtype), prompts(1_000, 3), 12, **options)


def test_equals_it_where_noise_is_drawn_anew():
    """More tokens than noise is drawn for at a time, the border inside the window and past it."""
    for block_size in (NOISE_STEPS + 9, NOISE_STEPS - 9):
        config = ja.GPTConfig(V, block_size, 1, 3, 15)
        same_tokens(ja.GPT(config, rngs=nnx.Rngs(0)), prompts(2, 1), 2 * NOISE_STEPS + 5)


def test_equals_it_where_noise_is_drawn_for_fewer_tokens(monkeypatch):
    """As for many rows of many ids."""
    extend.clear_cache()
    monkeypatch.setattr(loop, "MOST_NOISE", 3 * 2 * V)
    same_tokens(MODELS["lecture"], prompts(2, 3), 20)
    extend.clear_cache()


@pytest.mark.parametrize("name", ["lecture", "gpt2", "head"])
@pytest.mark.parametrize(
    ("dtypes", "tolerance"),
    [
        ({"param_dtype": jnp.float64}, 1e-13),
        ({"param_dtype": jnp.float32}, 1e-5),
        ({"dtype": jnp.bfloat16}, 0.05),
    ],
    ids=["float64", "float32", "bfloat16"],
)
def test_logits_of_single_steps_are_those_of_a_whole_pass(name, dtypes, tolerance, x64):
    """Keys and values rounded to bfloat16 are the same in both; the sums around them differ."""
    model, idx = make(name, **dtypes), prompts(2, T)
    cache = tuple(layer.with_room(T) for layer in model.prefill(idx[:, :3]))
    step = jax.jit(lambda token, cache, position: model.step(token, cache, position))
    logits = []
    for t in range(3, T):
        found, cache = step(idx[:, t : t + 1], cache, jnp.int32(t))
        logits.append(found[:, 0])
    np.testing.assert_allclose(
        np.stack(logits, 1).astype(np.float64),
        np.asarray(model(idx)[:, 3:], np.float64),
        rtol=0,
        atol=tolerance,
    )


def test_a_chunk_at_a_time_is_the_same_text_from_the_same_program():
    prompt = prompts(2, 3)
    for options in ({}, {"temperature": 0.0}):
        whole = ja.generate(MODELS["lecture"], prompt, 40, key=KEY, **options)
        before = extend._jitted._cache_size()
        for size in (1, 7, 40, 100):
            chunks = list(stream(MODELS["lecture"], prompt, 40, size, key=KEY, **options))
            assert {c.shape[1] for c in chunks[:-1]} <= {size}
            np.testing.assert_array_equal(np.concatenate([prompt, *chunks], axis=1), whole)
        assert extend._jitted._cache_size() == before


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


def test_an_id_outside_the_vocabulary_poisons_what_sees_it():
    prompt = jnp.array([[V, 1]])
    same_tokens(MODELS["lecture"], prompt, 5, temperature=0.0)


def test_the_first_of_equals_is_the_largest_and_nan_is_larger_than_all():
    scores = jnp.array([[1.0, 3.0, 3.0], [-jnp.inf] * 3, [1.0, jnp.nan, 5.0], [jnp.inf, 1.0, 2.0]])
    np.testing.assert_array_equal(first_largest(scores), jnp.argmax(scores, axis=-1))


def test_the_key_decides():
    prompt = jnp.zeros((1, 1), jnp.int32)
    first, again, other = (
        ja.generate(MODELS["lecture"], prompt, 30, key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_of_a_batch_differ():
    tokens = ja.generate(MODELS["lecture"], jnp.zeros((4, 1), jnp.int32), 30, key=KEY)
    assert len({tuple(row) for row in np.asarray(tokens)}) == 4


def test_a_training_model_still_samples_without_dropout_and_stays_in_training():
    model = ja.GPT(ja.GPTConfig(11, 8, 1, 3, 15, dropout_rate=0.5), rngs=nnx.Rngs(1))
    prompt = jnp.zeros((1, 1), jnp.int32)
    expected = ja.generate(model, prompt, 20, key=KEY, temperature=0.0)
    model.train()
    np.testing.assert_array_equal(
        ja.generate(model, prompt, 20, key=KEY, temperature=0.0), expected
    )
    assert not model.blocks[0].ffwd.dropout.deterministic


def gumbel(logits):
    return jax.random.gumbel(KEY, logits.shape)


def test_samples_have_the_softmaxs_frequencies():
    logits = jnp.tile(jnp.log(jnp.array([0.1, 0.2, 0.7])), (20_000, 1))
    frequencies = np.bincount(sample(logits, gumbel(logits)), minlength=3) / 20_000
    np.testing.assert_allclose(frequencies, [0.1, 0.2, 0.7], atol=0.015)


def test_top_k_keeps_the_likeliest():
    logits = jnp.tile(jnp.array([0.0, 3.0, 1.0, 2.0]), (1_000, 1))
    assert set(np.asarray(sample(logits, gumbel(logits), top_k=2))) == {1, 3}
    assert set(np.asarray(sample(logits, gumbel(logits), top_k=1))) == {1}
    assert set(np.asarray(sample(logits, gumbel(logits), top_k=100))) == {0, 1, 2, 3}


def test_no_new_tokens_is_the_prompt():
    prompt = jnp.array([[1, 2, 3]])
    np.testing.assert_array_equal(ja.generate(MODELS["lecture"], prompt, 0, key=KEY), prompt)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (jnp.zeros((1, 0), jnp.int32), {}, "T0 of at least 1"),
        (jnp.zeros((1, 1), jnp.int32), {"temperature": -1.0}, "temperature -1.0 is negative"),
        (jnp.zeros((1, 1), jnp.int32), {"top_k": 0}, "top_k 0 keeps no token"),
    ],
)
def test_impossible_requests_are_refused(tokens, options, message):
    with pytest.raises(ValueError, match=message):
        ja.generate(MODELS["lecture"], tokens, 3, key=KEY, **options)
