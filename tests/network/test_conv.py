import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.network import conv
from nst_jax.network.conv import conv3x3
from nst_jax.network.winograd import transform_kernel


def plain(x, kernel, bias, rectify):
    """What JAX makes of it by itself."""
    out = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    out = out + bias.reshape(1, 1, 1, -1)
    return jax.nn.relu(out) if rectify else out


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(
    ("form", "size"),
    [
        *((form, (7, 10)) for form in ("plain", "turned", "winograd")),
        # Fewer than nine positions.
        *(("plain", size) for size in ((1, 1), (1, 8), (2, 3), (8, 1))),
    ],
)
def test_value_and_gradients_are_those_of_jax_to_float64_rounding(form, size, rectify):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel, bias, cotangent = (
            jnp.asarray(rng.normal(size=shape))
            for shape in ((2, *size, 32), (3, 3, 32, 36), (36,), (2, *size, 36))
        )
        forms = {
            "plain": {},
            "turned": {"turned": conv.turn(kernel)},
            "winograd": {"transformed": transform_kernel(kernel)},
        }[form]

        @functools.partial(jax.jit, static_argnums=0)
        def derive(function):
            value, pull = jax.vjp(function, x, kernel, bias)
            return value, *pull(cotangent)

        ours, *pulled = derive(lambda *a: conv3x3(*a, **forms, rectify=rectify))
        theirs, *others = derive(lambda *a: plain(*a, rectify))
        # Sums of 9 * 36 numbers around 1, in two orders.
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
        for a, b in zip(pulled, others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.optimized
@pytest.mark.parametrize("size", [(2, 4), (3, 3)])
def test_maps_in_bfloat16_are_summed_in_float32(size):
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=n), "bfloat16") for n in ((1, *size, 512), (3, 3, 512, 4))
    )
    exact = plain(x.astype("float32"), kernel.astype("float32"), jnp.zeros(4), False)
    ours = conv3x3(x, kernel)
    assert ours.dtype == "bfloat16"
    # Half a unit of the last place, as if rounded once; 4608 roundings would be 30 times that.
    np.testing.assert_allclose(ours.astype("float32"), exact, rtol=2**-8, atol=1e-3)


@pytest.mark.optimized
def test_few_positions_are_one_product_and_not_nested_loops():
    kernel = jnp.ones((3, 3, 4, 4))
    texts = [
        jax.jit(conv3x3).lower(jnp.ones((1, *size, 4)), kernel).compile().as_text()
        for size in ((2, 4), (3, 3))
    ]
    assert ["convolution(" in text for text in texts] == [False, True]


@pytest.mark.optimized
def test_relu_has_no_slope_at_zero():
    x = jnp.zeros((1, 8, 8, 32))
    kernel = jnp.ones((3, 3, 32, 32))
    for transformed in (None, transform_kernel(kernel)):
        total = lambda x: conv3x3(x, kernel, transformed=transformed, rectify=True).sum()  # noqa: B023, E731
        assert not np.asarray(jax.grad(total)(x)).any()


@pytest.mark.optimized
def test_input_gradient_in_a_loop_stays_in_the_layout_that_xla_is_fast_in():
    kernel = jnp.ones((3, 3, 4, 4))

    def descend(x):
        loss = lambda x: (conv3x3(x, kernel) ** 2).sum()  # noqa: E731
        return jax.lax.fori_loop(0, 3, lambda _, x: x - 0.1 * jax.grad(loss)(x), x)

    text = jax.jit(descend).lower(jnp.ones((1, 8, 8, 4))).compile().as_text()
    assert "01io" in text
    assert "01oi" not in text


@pytest.mark.optimized
def test_kernel_gradient_costs_nothing_where_it_is_not_asked_for():
    loss = lambda x, kernel: conv3x3(x, kernel).sum()  # noqa: E731
    shapes = jax.ShapeDtypeStruct((1, 8, 8, 4), np.float32), jnp.ones((3, 3, 4, 4))
    text = jax.jit(jax.grad(loss)).lower(*shapes).compile().as_text()
    assert text.count("convolution(") == 1
