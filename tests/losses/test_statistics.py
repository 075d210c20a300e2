import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax.losses import statistics as moments

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_gram_matrix_and_mean_in_float64(height, width, channels, seed):
    f = draw(seed, height, width, channels)
    with jax.enable_x64(True):
        found = jax.device_get(moments.style_statistics(jnp.asarray(f)))
    flat = f.reshape(-1, channels).T
    expected = np.array([[np.dot(a, b) for b in flat] for a in flat])
    np.testing.assert_allclose(found.gram, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.mean, flat.mean(1), rtol=1e-12, atol=1e-12)
    assert found.positions == height * width


def test_on_a_cpu_large_maps_are_summed_row_by_row():
    """Which rounds less than one sum over all positions; elsewhere XLA cuts that up itself."""
    f = draw(0, 2, 24, 32, 8) + 1
    flat = f.reshape(2, -1, 8)
    expected = flat.swapaxes(1, 2) @ flat
    lowered = jax.jit(moments.gram_matrix).trace(jnp.asarray(f, np.float32))
    rows = "tensor<2x24x8x8xf32>"
    assert rows in lowered.lower(lowering_platforms=("cpu",)).as_text()
    assert rows not in lowered.lower(lowering_platforms=("cuda",)).as_text()
    found = moments.gram_matrix(jnp.asarray(f, np.float32))
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    small = jax.jit(moments.gram_matrix).trace(jnp.asarray(f[:, :2, :7], np.float32))
    assert "x2x8x8xf32" not in small.lower(lowering_platforms=("cpu",)).as_text()


def test_gram_matrix_does_not_care_where_things_are():
    f = draw(0, 4, 6, 3)
    shuffled = np.random.default_rng(1).permutation(f.reshape(-1, 3)).reshape(6, 4, 3)
    np.testing.assert_allclose(
        moments.gram_matrix(jnp.asarray(f, np.float32)),
        moments.gram_matrix(jnp.asarray(shuffled, np.float32)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_maps_are_summed_in_float32(dtype):
    # The sum, 64 * 64 * 100, is beyond float16's largest number and bfloat16's eight bits.
    found = moments.style_statistics(jnp.full((64, 64, 2), 10, dtype))
    assert found.gram.dtype == found.mean.dtype == jnp.float32
    np.testing.assert_array_equal(found.gram, np.full((2, 2), 409_600.0))
    np.testing.assert_array_equal(found.mean, [10.0, 10.0])


def test_a_blend_is_what_one_image_made_of_the_styles_has():
    """Of two maps side by side, the second twice as wide, in the shares of their areas."""
    f, g = draw(0, 4, 3, 5), draw(1, 4, 6, 5)
    with jax.enable_x64(True):
        each = [moments.style_statistics(jnp.asarray(x)) for x in (f, g)]
        blended = jax.device_get(moments.blend_statistics(each, (1.0, 2.0)))
        both = jnp.asarray(np.concatenate([f, g], axis=1))
        whole = jax.device_get(moments.style_statistics(both))
    second = lambda s: s.gram / s.positions  # noqa: E731
    np.testing.assert_allclose(second(blended), second(whole), rtol=1e-12)
    np.testing.assert_allclose(blended.mean, whole.mean, rtol=1e-12)
    assert blended.positions == 12


def test_one_style_is_not_touched():
    statistics = moments.style_statistics(jnp.asarray(draw(0, 4, 3, 5), np.float32))
    assert moments.blend_statistics([statistics], (0.3,)) is statistics
