import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax.geometry import fit, resample, scales


def test_scales_are_those_of_the_program_that_they_come_from():
    longest = [max(shape) for shape in scales(384, 512, min_size=128, factor=2**0.5)]
    assert longest == [128, 181, 256, 362, 512]
    assert scales(384, 512, min_size=128, factor=2**0.5)[0] == (96, 128)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 400), st.floats(1.01, 4))
def test_scales_grow_to_the_picture_and_are_not_too_small(height, width, least, factor):
    shapes = scales(height, width, min_size=least, factor=factor)
    assert shapes[-1] == (height, width)
    assert all(a != b for a, b in itertools.pairwise(shapes))
    assert all(max(a) <= max(b) for a, b in itertools.pairwise(shapes))
    assert len(shapes) == 1 or max(shapes[0]) >= least > 0
    if least:  # no room for one more
        below = fit(height, width, max(1, int(max(shapes[0]) / factor) - 1))
        assert max(below) < least or max(below) == 1


def test_one_scale_where_none_is_asked_for():
    assert scales(30, 40, min_size=0, factor=2.0) == ((30, 40),)
    assert scales(30, 40, min_size=41, factor=2.0) == ((30, 40),)


def test_fit_keeps_the_proportions():
    assert fit(300, 400, 100) == (75, 100)
    assert fit(4, 4000, 100) == (1, 100)
    assert fit(300, 400, 99, side="shortest") == (99, 132)
    assert fit(3, 10**17 + 1, 10**17 + 1)[1] == 10**17 + 1


@pytest.mark.parametrize("method", ["lanczos3", "cubic", "linear"])
def test_resampling_keeps_what_is_flat_and_what_has_the_size(method):
    flat = jnp.full((2, 5, 7, 3), 0.25)
    larger = resample(flat, (9, 12), method=method)
    assert larger.shape == (2, 9, 12, 3)
    np.testing.assert_allclose(larger, np.full(larger.shape, 0.25), rtol=1e-6)
    image = jnp.asarray(np.random.default_rng(0).random((5, 7, 3)), jnp.float32)
    np.testing.assert_array_equal(resample(image, (5, 7), method=method), image)


def test_resampling_smooths_before_it_shrinks():
    stripes = jnp.zeros((4, 64, 3)).at[:, ::2].set(1.0)
    small = resample(stripes, (4, 16))
    np.testing.assert_allclose(small[:, 2:-2], np.full((4, 12, 3), 0.5), atol=0.02)
