import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax.errors import InputError
from nst_jax.geometry import fit, plain_size, resample, scales


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


SIDES = st.integers(1, 5000)


def check_proportions(shape, height, width):
    """One ratio takes the sides to those of the shape, within half a pixel; all have 1 at least."""
    sides = list(zip(shape, (height, width), strict=True))
    least = max(Fraction(2 * new - 1, 2 * old) * (new > 1) for new, old in sides)
    most = min(Fraction(2 * new + 1, 2 * old) for new, old in sides)
    assert least <= most
    assert min(shape) >= 1


@given(SIDES, SIDES, SIDES, SIDES)
def test_the_largest_picture_that_fits_into_a_width_and_a_height(height, width, high, wide):
    shape = fit(height, width, f"{wide}x{high}")
    check_proportions(shape, height, width)
    assert shape[0] <= high
    assert shape[1] <= wide
    assert shape[0] == high or shape[1] == wide
    assert fit(*shape, f"{wide}x{high}") == shape
    assert shape == fit(width, height, f"{high}x{wide}")[::-1]


@given(SIDES, SIDES, st.integers(1, 40_000_000))
def test_the_largest_picture_of_so_many_megapixels(height, width, pixels):
    shape = fit(height, width, plain_size(f"{pixels / 10**6:f}MP"))
    check_proportions(shape, height, width)
    assert math.prod(shape) <= pixels < math.prod(fit(height, width, max(shape) + 1))


@given(SIDES, SIDES, SIDES, st.sampled_from(["longest", "shortest"]))
def test_other_sizes(height, width, size, side):
    assert fit(height, width, "original", side=side) == (height, width)
    assert fit(height, width, f"{width}x{height}") == (height, width)
    assert fit(height, width, f"{height * width / 10**6:f}MP") == (height, width)
    shape = fit(height, width, size, side=side)
    check_proportions(shape, height, width)
    assert (max(shape) if side == "longest" else min(shape)) == size


def test_the_largest_that_fits_in_memory_is_no_matter_of_proportions():
    with pytest.raises(InputError, match="size is max, which the main command alone finds"):
        fit(3, 4, "max")


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (512, 512),
        ("0512", 512),
        ("1920 X 1080", "1920x1080"),
        ("1920×01080", "1920x1080"),
        ("12.0 mp", "12MP"),
        ("100MP", "100MP"),
        (".1234567MP", "0.123456MP"),
        ("0.000001MP", "0.000001MP"),
        ("MAX", "max"),
        ("Original", "original"),
    ],
)
def test_a_size_has_one_plain_form(given, plain):
    assert plain_size(given) == plain == plain_size(plain)


@pytest.mark.parametrize("given", [0, "0", "9x0", "0MP", "9e9MP", "x", "9x9x9", "", 10**7, "٣MP"])
def test_what_is_no_size_is_refused(given):
    with pytest.raises(InputError, match="it must be px of one side as 512, WIDTHxHEIGHT as"):
        plain_size(given)


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


@pytest.mark.parametrize("method", ["lanczos3", "cubic"])
@pytest.mark.parametrize(("shape", "wrap"), [((32, 40), "x"), ((8, 12), "both")])
def test_a_picture_that_wraps_is_resampled_as_the_plane_that_it_tiles(wrap, shape, method):
    image = np.random.default_rng(0).random((16, 20, 3), np.float32)
    rows = 3 if wrap == "both" else 1
    plane = (rows * shape[0], 3 * shape[1], 3)
    expected = jax.image.resize(np.tile(image, (rows, 3, 1)), plane, method)
    middle = expected[(rows // 2) * shape[0] :, shape[1] :][: shape[0], : shape[1]]
    # The positions between pixels are float32, of up to 60 px.
    np.testing.assert_allclose(resample(image, shape, method=method, wrap=wrap), middle, atol=2e-5)


def test_a_picture_of_few_pixels_wraps_more_than_once():
    values = np.asarray([0.0, 1.0, 4.0], np.float32)
    found = resample(values.reshape(1, 3, 1), (1, 48), method="linear", wrap="x")
    there = (np.arange(48) + 0.5) / 16 - 0.5
    expected = np.interp(there, range(3), values, period=3)
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-5)
