import hypothesis
import hypothesis.extra.numpy as arrays
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from nst_jax import InputError
from nst_jax.color import from_oklab, gray, gray_like, match_colors, to_oklab, with_colors

HOW = ["symmetric", "cholesky", "pca"]
LEAST = 1e-4 * np.eye(3)


@pytest.fixture
def images():
    """Two images of colors that are correlated, and far enough from 0 and 1 not to be clipped."""
    rng = np.random.default_rng(0)
    mixes = rng.uniform(-0.05, 0.05, (2, 3, 3))
    return [
        jnp.asarray(center + rng.standard_normal((h, w, 3)).clip(-2, 2) @ mix, jnp.float32)
        for mix, center, (h, w) in zip(mixes, (0.4, 0.6), ((30, 40), (25, 35)), strict=True)
    ]


def moments(image):
    pixels = np.asarray(image, np.float64).reshape(-1, 3)
    return pixels.mean(0), np.cov(pixels.T, bias=True)


def test_colors_that_are_known_in_oklab():
    """The table of Ottosson's page gives these for white, red, green and blue to three digits."""
    srgb = jnp.asarray([[1.0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    expected = [
        *([1.0, 0, 0], [0.628, 0.225, 0.126], [0.866, -0.234, 0.179]),
        *([0.452, -0.032, -0.312], [0, 0, 0]),
    ]
    np.testing.assert_allclose(to_oklab(srgb), expected, atol=5e-4)


@hypothesis.given(arrays.arrays(np.float32, (4, 5, 3), elements=strategies.floats(0, 1, width=32)))
def test_oklab_and_back(image):
    np.testing.assert_allclose(from_oklab(to_oklab(image)), image, atol=2e-4)  # float32's cubes


@pytest.mark.parametrize("how", HOW)
def test_the_moments_become_those_of_the_other(images, how):
    image, like = images
    (mean, covariance), (goal, wanted) = moments(match_colors(image, like, how=how)), moments(like)
    np.testing.assert_allclose(mean, goal, atol=1e-6)
    # What is added to both variances scales A by less than 1e-4 over the least variance.
    least = np.linalg.eigvalsh(moments(image)[1])[0]
    np.testing.assert_allclose(covariance, wanted, atol=2 * 1e-4 * wanted.max() / least)


@pytest.mark.parametrize("how", HOW)
def test_an_image_matched_to_itself_stays(images, how):
    np.testing.assert_allclose(match_colors(images[0], images[0], how=how), images[0], atol=1e-6)


def test_principal_axes_keep_their_direction(images):
    """Blue sky and yellow light: where their axis is turned around, the sky becomes orange."""
    image, _ = images
    for like in (image * 0.8 + 0.1, image**1.2):
        moved = match_colors(image, like, how="pca")
        change, before = (x - x.mean((0, 1)) for x in map(np.asarray, (moved, image)))
        assert (np.sum(change * before, (0, 1)) > 0).all()


def test_the_symmetric_root_is_least_and_cholesky_is_triangular(images):
    """A is read off the basis colors around the mean, in closed form from NumPy's roots."""
    image, like = images
    (mean, own), (goal, wanted) = moments(image), moments(like)
    corners = mean + 0.01 * np.eye(3)
    for how in ("symmetric", "cholesky"):
        pixels = jnp.concatenate([image.reshape(-1, 3), jnp.asarray(corners, jnp.float32)])
        moved = np.asarray(match_colors(pixels[None], like, how=how))[0, -3:]
        factor = ((moved - goal) / 0.01).T
        # The corners themselves shift the moments a little.
        if how == "cholesky":
            root = np.linalg.cholesky(wanted + LEAST) @ np.linalg.inv(
                np.linalg.cholesky(own + LEAST)
            )
        else:
            half = lambda x: (lambda v, e: (e * np.sqrt(v)) @ e.T)(*np.linalg.eigh(x))  # noqa: E731
            root = half(wanted + LEAST) @ np.linalg.inv(half(own + LEAST))
        np.testing.assert_allclose(factor, root, atol=0.05)


@pytest.mark.parametrize("how", HOW)
def test_gray_and_constant_images_give_numbers(images, how):
    flat, bright = jnp.full((4, 5, 3), 0.3), gray(images[0])
    for image in (flat, bright, images[0]):
        for like in (flat, bright, images[1]):
            moved = np.asarray(match_colors(image, like, how=how))
            assert np.isfinite(moved).all()
            np.testing.assert_allclose(moved.mean((0, 1)), np.mean(like, (0, 1)), atol=0.02)
    matched = match_colors(images[0], flat, how=how)
    assert np.ptp(matched, axis=(0, 1)).max() < 0.2


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("shares", [(), (1.0, 1.0), (2.0, 1.0), (0.0, 5.0), (1.0, 0.0)])
def test_several_images_are_mixed_as_in_a_collage(images, how, shares):
    """One image has all their pixels, each as often as its share says."""
    image, like = images
    other = like[::-1, :, ::-1] * jnp.asarray([[[0.3, 0.5, 0.9]]])
    collage = [
        x for x, n in zip((like, other), shares or (1, 1), strict=True) for _ in range(int(n))
    ]
    expected = match_colors(image, jnp.concatenate(collage), how=how)
    found = match_colors(np.asarray(image), (like, np.asarray(other)), shares=shares, how=how)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_shares_are_one_for_each_image(images):
    with pytest.raises(InputError, match="there are 2 shares for 1 images; give one for each"):
        match_colors(*images, shares=(1.0, 2.0))


def test_lightness_is_of_one_and_colors_of_the_other(images):
    light, colors = images[0], 0.9 * images[0] + 0.05
    both = np.asarray(to_oklab(with_colors(light, colors)))
    np.testing.assert_allclose(both[..., 0], to_oklab(light)[..., 0], atol=1e-4)
    np.testing.assert_allclose(both[..., 1:], to_oklab(colors)[..., 1:], atol=1e-4)


def test_gray_has_the_lightness_and_no_color(images):
    found = np.asarray(gray(images[0]))
    assert np.ptp(found, axis=-1).max() < 1e-5
    np.testing.assert_allclose(to_oklab(found)[..., 0], to_oklab(images[0])[..., 0], atol=1e-5)


def test_the_lightness_of_a_style_is_brought_to_the_contents(images):
    style, content = images
    found = np.asarray(to_oklab(gray_like(style, content)))[..., 0]
    wanted = np.asarray(to_oklab(content))[..., 0]
    np.testing.assert_allclose(
        [found.mean(), found.std()], [wanted.mean(), wanted.std()], atol=1e-4
    )
    assert np.isfinite(gray_like(jnp.full((3, 3, 3), 0.2), content)).all()


def test_a_batch_is_each_alone(images):
    image, like = images
    batch = jnp.stack([like, like[::-1] ** 2])
    for function in (match_colors, gray_like):
        both = function(image, batch)
        assert both.shape == (2, *image.shape)
        for one, other in zip(both, batch, strict=True):
            np.testing.assert_allclose(one, function(image, other), atol=1e-6)
