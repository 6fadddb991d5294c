import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn import compiler


@pytest.fixture
def probed_anew():
    compiler.compiler_options.cache_clear()
    yield
    compiler.compiler_options.cache_clear()


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


def test_on_a_cpu_products_do_not_go_to_ynnpack():
    """A jaxlib that no longer sends them there by default makes the option pointless."""
    x = jnp.ones((64, 128))

    def product(x):
        return x @ x.T

    default = jax.jit(product).lower(x).compile().as_text()
    ours = compiler.Compiled(product).lower(x).compile().as_text()
    assert "ynn_fusion" in default
    assert "ynn_fusion" not in ours


def test_an_option_that_this_jaxlib_does_not_know_is_left_out(monkeypatch, probed_anew):
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    assert compiler.compiler_options() == {}


def test_none_for_other_devices(monkeypatch, probed_anew):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler.compiler_options() == {}
