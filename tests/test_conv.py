import jax
import jax.numpy as jnp
import numpy as np

from nst_jax.conv import conv3x3


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_value_and_gradients_are_those_of_jax_to_float64_rounding():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = rng.normal(size=(2, 5, 8, 3)), rng.normal(size=(3, 3, 3, 4))
        cotangent = rng.normal(size=(2, 5, 8, 4))
        ours, pull = jax.vjp(conv3x3, jnp.asarray(x), jnp.asarray(kernel))
        theirs, pull_theirs = jax.vjp(plain, jnp.asarray(x), jnp.asarray(kernel))
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
        for a, b in zip(*(f(jnp.asarray(cotangent)) for f in (pull, pull_theirs)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_input_gradient_in_a_loop_stays_in_the_layout_that_xla_is_fast_in():
    kernel = jnp.ones((3, 3, 4, 4))

    def descend(x):
        loss = lambda x: (conv3x3(x, kernel) ** 2).sum()  # noqa: E731
        return jax.lax.fori_loop(0, 3, lambda _, x: x - 0.1 * jax.grad(loss)(x), x)

    text = jax.jit(descend).lower(jnp.ones((1, 8, 8, 4))).compile().as_text()
    assert "01io" in text
    assert "01oi" not in text


def test_kernel_gradient_costs_nothing_where_it_is_not_asked_for():
    loss = lambda x, kernel: conv3x3(x, kernel).sum()  # noqa: E731
    shapes = jax.ShapeDtypeStruct((1, 8, 8, 4), np.float32), jnp.ones((3, 3, 4, 4))
    text = jax.jit(jax.grad(loss)).lower(*shapes).compile().as_text()
    assert text.count("convolution(") == 1
