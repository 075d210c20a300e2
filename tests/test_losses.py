import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax import losses

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_closed_forms_in_float64(height, width, channels, seed):
    f, other, style = (draw(seed + i, height, width, channels) for i in range(3))
    with jax.enable_x64(True):
        gram = losses.gram_matrix(jnp.asarray(f))
        content = losses.content_loss(jnp.asarray(f), jnp.asarray(other))
        target = losses.gram_matrix(jnp.asarray(style))
        term = losses.style_loss(jnp.asarray(f), target)
    flat, flat_style = (x.reshape(-1, channels).T for x in (f, style))
    expected = np.array([[np.dot(a, b) for b in flat] for a in flat])
    np.testing.assert_allclose(gram, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(content, np.square(f - other).sum() / f.size, rtol=1e-12)
    difference = expected - flat_style @ flat_style.T
    np.testing.assert_allclose(
        term, np.square(difference).sum() / channels**2 / f.size, rtol=1e-11, atol=1e-14
    )


def test_gram_matrix_does_not_care_where_things_are():
    f = draw(0, 4, 6, 3)
    shuffled = np.random.default_rng(1).permutation(f.reshape(-1, 3)).reshape(6, 4, 3)
    np.testing.assert_allclose(
        losses.gram_matrix(jnp.asarray(f, np.float32)),
        losses.gram_matrix(jnp.asarray(shuffled, np.float32)),
        rtol=1e-5,
    )


def test_each_image_of_a_batch_has_its_own_loss():
    f, g = (jnp.asarray(draw(i, 3, 4, 5, 6), np.float32) for i in range(2))
    content = losses.content_loss(f, g)
    style = losses.style_loss(f, losses.gram_matrix(g))
    assert content.shape == style.shape == (3,)
    for i in range(3):
        np.testing.assert_allclose(content[i], losses.content_loss(f[i], g[i]), rtol=1e-6)
        alone = losses.style_loss(f[i], losses.gram_matrix(g[i]))
        np.testing.assert_allclose(style[i], alone, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_maps_are_summed_in_float32(dtype):
    # The sum, 64 * 64 * 100, is beyond float16's largest number and bfloat16's eight bits.
    f = jnp.full((64, 64, 2), 10, dtype)
    gram = losses.gram_matrix(f)
    assert gram.dtype == jnp.float32
    np.testing.assert_array_equal(gram, np.full((2, 2), 409_600.0))
    assert losses.content_loss(f, f - 1).dtype == jnp.float32
