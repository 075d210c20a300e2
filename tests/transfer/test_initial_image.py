import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.config import Config
from nst_jax.transfer.initial_image import first_picture

RNG = np.random.default_rng(0)
CONTENT = jnp.asarray(RNG.random((40, 50, 3)), jnp.float32)
STYLES = [jnp.asarray(0.3 + 0.1 * RNG.random((20, 30, 3)), jnp.float32)]


def begin(styles=STYLES, given=None, content=CONTENT, **settings):
    found = first_picture(content, styles, given, Config(**settings))
    assert found.shape == content.shape
    assert found.dtype == content.dtype
    assert 0 <= found.min() <= found.max() <= 1
    return np.asarray(found)


def test_content_is_the_content():
    np.testing.assert_array_equal(begin(start="content", start_blend=0.3), CONTENT)


@pytest.mark.parametrize("start", ["noise", "gray", "style"])
def test_noise_comes_from_the_seed(start):
    one, again, other = (begin(start=start, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


def test_noise_and_gray():
    noise, gray = begin(start="noise"), begin(start="gray")
    np.testing.assert_allclose(noise.mean((0, 1)), 0.5, atol=0.03)
    np.testing.assert_allclose(noise.std((0, 1)), 12**-0.5, atol=0.03)
    assert 0.5 <= gray.min() < gray.max() <= 0.5 + 1 / 255


def test_style_has_the_colors_of_the_styles_in_their_shares():
    dark = jnp.full((9, 9, 3), 0.1, jnp.float32)
    alone = begin(start="style")
    np.testing.assert_allclose(alone.mean((0, 1)), STYLES[0].mean((0, 1)), atol=0.01)
    np.testing.assert_allclose(alone.std((0, 1)), STYLES[0].std((0, 1)), atol=0.01)
    both = begin([*STYLES, dark], start="style", style_blend=(3.0, 1.0))
    expected = 0.75 * STYLES[0].mean((0, 1)) + 0.25 * 0.1
    np.testing.assert_allclose(both.mean((0, 1)), expected, atol=0.01)
    flat = begin([dark], start="style")
    assert np.abs(flat - 0.1).max() < 0.01


def test_a_given_picture_of_any_size_is_blended_with_the_content():
    given = jnp.full((7, 5, 3), 0.8, jnp.float32)
    found = begin(given=given, start="noise", start_blend=0.25)
    np.testing.assert_allclose(found, 0.75 * CONTENT + 0.2, atol=1e-6)


def test_pictures_of_a_batch_have_noise_of_their_own():
    found = begin(content=jnp.stack([CONTENT, CONTENT]), start="noise")
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_pictures_of_a_batch_have_the_colors_of_their_own_style():
    styles = [jnp.concatenate([STYLES[0][None], STYLES[0][None, :, ::-1] * 2])]
    found = begin(styles, content=jnp.stack([CONTENT, CONTENT]), start="style")
    np.testing.assert_allclose(found.mean((1, 2)), styles[0].mean((1, 2)), atol=0.01)
    np.testing.assert_allclose(found.std((1, 2)), styles[0].std((1, 2)), atol=0.02)


def test_every_start_is_there():
    names = next(f for f in dataclasses.fields(Config) if f.name == "start").type.__args__
    for name in names:
        begin(start=name)
