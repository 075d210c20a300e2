import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nst_jax.network import winograd

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def correlate(x, kernel):
    """A zero-padded correlation in float64 numpy, tap by tap."""
    height, width = x.shape[1:3]
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = kernel.astype(np.float64)
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )


def turn(kernel):
    return kernel[::-1, ::-1].swapaxes(2, 3)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def test_one_tile_is_exact():
    # Of whole numbers, the transforms' fractions have to cancel.
    BT, AT = winograd.map_matrices(False)
    G = winograd.kernel_matrix()
    d, g = np.arange(6.0) ** 2 - 7, np.array([2.0, -3.0, 5.0])
    expected = np.correlate(d, g, mode="valid")
    np.testing.assert_allclose(AT @ ((G @ g) * (BT @ d)), expected, rtol=0, atol=1e-13)
    BT, AT = winograd.map_matrices(True)
    turned = AT @ ((G @ g) * (BT @ d))
    np.testing.assert_allclose(turned, np.correlate(d, g[::-1], mode="valid"), rtol=0, atol=1e-13)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2), st.integers(1, 13), st.integers(1, 13), st.booleans(), st.integers(0, 99))
@example(1, 1, 1, True, 0)
@example(2, 12, 9, False, 0)
def test_is_the_convolution_in_float64(batch, height, width, turned, seed):
    inputs, outputs = 3, 5
    kernel, bias = draw(seed, (3, 3, inputs, outputs), (inputs if turned else outputs,))
    (x,) = draw(seed + 1, (batch, height, width, outputs if turned else inputs))
    with jax.enable_x64(True):
        U = winograd.transform_kernel(jnp.asarray(kernel))
        ours = winograd.convolve(jnp.asarray(x), U, jnp.asarray(bias), turned=turned)
        rectified = winograd.convolve(
            jnp.asarray(x), U, jnp.asarray(bias), turned=turned, rectify=True
        )
    expected = correlate(x, turn(kernel) if turned else kernel) + bias
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rectified, np.maximum(expected, 0), rtol=1e-12, atol=1e-12)


@pytest.mark.optimized
@pytest.mark.parametrize("turned", [False, True])
def test_float32_loses_half_a_digit(turned):
    x, kernel = (array.astype(np.float32) for array in draw(0, (1, 24, 28, 64), (3, 3, 64, 64)))
    U = winograd.transform_kernel(jnp.asarray(kernel))
    ours = winograd.convolve(jnp.asarray(x), U, turned=turned)
    expected = correlate(x, turn(kernel) if turned else kernel)
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    # Measured 8.0e-7; 1.75e-6 with the usual points 0, ±1, ±2, and 3.8e-7 for the direct sum.
    assert error < 1.2e-6


@pytest.mark.optimized
def test_works_under_vmap():
    x, kernel = (array.astype(np.float32) for array in draw(0, (3, 2, 8, 8, 4), (3, 3, 4, 4)))
    U = winograd.transform_kernel(jnp.asarray(kernel))
    together = jax.vmap(lambda x: winograd.convolve(x, U))(x)
    flat = winograd.convolve(jnp.asarray(x.reshape(6, 8, 8, 4)), U)
    np.testing.assert_allclose(together.reshape(flat.shape), flat, rtol=1e-5, atol=1e-5)


@pytest.mark.optimized
def test_what_is_not_finite_is_seen():
    U = winograd.transform_kernel(jnp.ones((3, 3, 2, 2)))
    for value in (np.nan, np.inf):
        x = jnp.zeros((1, 8, 8, 2)).at[0, 0, 0, 0].set(value)
        assert not np.isfinite(np.asarray(winograd.convolve(x, U))[0, :2, :2]).any()


@pytest.mark.optimized
def test_xla_keeps_the_halves_of_the_transforms_apart():
    # Fused, the first half is computed six times over and the convolution takes twice as long.
    x, U = jnp.zeros((1, 32, 32, 8)), (jnp.zeros((18, 8, 8)),) * 2
    text = jax.jit(winograd.convolve).lower(x, U).compile().as_text()
    assert text.count(" conditional(") == 4


@pytest.mark.optimized
@pytest.mark.parametrize("turned", [False, True])
def test_bfloat16_maps_are_summed_in_float32(turned):
    x, kernel = draw(0, (1, 24, 28, 64), (3, 3, 64, 64))
    x = jnp.asarray(x, jnp.bfloat16)
    columns = winograd.transform_kernel(jnp.asarray(kernel, jnp.float32))
    U = tuple(column.astype(jnp.bfloat16) for column in columns)
    ours = winograd.convolve(x, U, turned=turned)
    assert ours.dtype == jnp.bfloat16
    expected = correlate(np.asarray(x), turn(kernel) if turned else kernel)
    error = np.linalg.norm(np.float64(ours) - expected) / np.linalg.norm(expected)
    # Measured 8e-3, from the rounding of the transformed map and kernel to 8 bits.
    assert 1e-4 < error < 1.5e-2
