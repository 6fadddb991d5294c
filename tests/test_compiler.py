import re
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.compiling import options as compiler
from jax_attn.nn.flash import Accelerator, compiling_for
from jax_attn.nn.ops import products


@pytest.fixture
def probed_anew():
    compiler._known_options.cache_clear()
    yield
    compiler._known_options.cache_clear()


@compiler.compiled(static_argnames="n", donate_argnames="x")
def repeated(x, n):
    """x added to itself n times."""
    return x * n


def test_a_compiled_function_keeps_its_name_and_its_jit_arguments():
    x = jnp.ones(3)
    np.testing.assert_array_equal(repeated(x, n=4), 4 * np.ones(3))
    assert x.is_deleted()
    assert repeated.__name__ == "repeated"
    assert repeated.__doc__ == "x added to itself n times."
    assert repeated.lower(jnp.ones(3), n=2).compile()(jnp.ones(3)).tolist() == [2, 2, 2]


def test_it_may_be_called_inside_another_program():
    inside = jax.jit(lambda x: repeated(x, n=2) + 1)
    np.testing.assert_array_equal(inside(jnp.ones(3)), [3, 3, 3])
    np.testing.assert_array_equal(jax.vmap(lambda x: repeated(x, n=2))(jnp.ones(3)), [2, 2, 2])


def libraries(function, *args, **options):
    """How many products of a compiled program go to which library; "" is none."""
    text = compiler.Compiled(function, **options).lower(*args).compile().as_text()
    found = Counter()
    for computation in text.split("\n\n"):
        n_products = len(re.findall(r" dot\(", computation))
        name = re.search(r"^%fused_computation[.\d]*", computation, re.MULTILINE)
        caller = name and re.search(
            rf"(\w*?)_?fusion[.\d]* = [^\n]*calls={re.escape(name[0])}[,\n ]", text
        )
        found[caller[1] if caller else ""] += n_products
    return +found


def product(x, y):
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


SQUARE = jnp.ones((128, 128))


def test_on_a_cpu_products_do_not_go_to_ynnpack():
    """A jaxlib that no longer sends them there by default makes the option pointless."""
    default = jax.jit(product).lower(SQUARE, SQUARE).compile().as_text()
    assert "ynn_fusion" in default
    assert libraries(product, SQUARE, SQUARE) == {"": 1}


@pytest.mark.parametrize(("dtype", "library"), [("float32", "onednn"), ("bfloat16", "ynn")])
def test_the_three_products_of_a_layer_in_training_have_the_fastest_library(dtype, library):
    """Where its name changes with a new jaxlib, training would be slower without a word."""

    def layer(x, kernel):
        result, derivative = jax.vjp(lambda x, k: products.matmul(x, k, x.dtype), x, kernel)
        return result, derivative(result)

    args = jnp.ones((256, 128), dtype), jnp.ones((128, 512), dtype)
    assert libraries(layer, *args, training=True) == {library: 3}


def test_an_option_that_this_jaxlib_does_not_know_is_left_out(monkeypatch, probed_anew):
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    assert compiler.compiler_options() == {}


GPU, TPU = Accelerator("cuda", 9.0), Accelerator("tpu")


def test_on_a_gpu_training_is_asked_to_give_the_same_bits():
    """With names that this jaxlib knows: an unknown one would be left out without a word."""
    with compiling_for(GPU):
        assert compiler.compiler_options(training=True) == {
            "xla_gpu_exclude_nondeterministic_ops": "True",
            "xla_gpu_enable_triton_gemm": "False",
        }
        assert compiler.compiler_options() == {}


def test_none_for_a_tpu():
    with compiling_for(TPU):
        assert compiler.compiler_options(training=True) == compiler.compiler_options() == {}


def test_one_function_has_the_options_of_each_device(monkeypatch):
    given = []
    jit = jax.jit

    def noted(function, compiler_options=None, **more):
        given.append(compiler_options)
        return jit(function, **more)

    function = compiler.Compiled(lambda x: x + 1, training=True)
    function.lower(1.0)
    monkeypatch.setattr(jax, "jit", noted)
    with compiling_for(GPU):
        function.lower(1.0)
    function.lower(1.0)
    assert given == [compiler.GPU_TRAINING_OPTIONS]


@pytest.mark.parametrize(("long", "trims"), [(0.0, 1), (1e9, 0)])
def test_what_a_long_compilation_has_freed_goes_back(monkeypatch, long, trims):
    trimmed = []
    library = SimpleNamespace(malloc_trim=trimmed.append)
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(compiler.sys, "platform", "linux")
    monkeypatch.setattr(compiler, "LONG_COMPILATION_S", long)
    jax.jit(lambda x: x + trims).lower(1.0).compile()
    assert len(trimmed) == trims
