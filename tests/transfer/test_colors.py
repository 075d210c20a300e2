"""Whose colors the picture of a run has."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import Config, InputError, build_vgg19, estimate_memory, layers, stylize
from nst_jax.color import gray, gray_like, match_colors, to_oklab

FEW = Config(
    min_size=17,
    first_steps=4,
    steps=3,
    content_layers=layers("relu2_1"),
    style_layers=layers("relu1_1", "relu2_1"),
)


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params)


def last(*images, network, config=FEW, **options):
    *_, found = stylize(*images, network=network, config=config, snapshot_every=None, **options)
    return found


def keeping(**others):
    return dataclasses.replace(FEW, color="keep", **others)


def test_the_colors_are_the_contents_and_the_lightness_is_painted(network, photographs):
    content, style = photographs
    found = last(content, style, network=network, config=keeping())
    plain = last(
        gray(jnp.asarray(content)), gray_like(*map(jnp.asarray, (style, content))), network=network
    )
    np.testing.assert_array_equal(found.losses.total, plain.losses.total)
    ours, theirs = np.asarray(to_oklab(found.image)), np.asarray(to_oklab(content))
    fits = ((found.image > 1e-3) & (found.image < 1 - 1e-3)).all(-1)  # nothing was clipped
    assert fits.mean() > 0.5
    np.testing.assert_allclose(ours[fits][:, 1:], theirs[fits][:, 1:], atol=1e-3)
    painted = np.asarray(to_oklab(plain.image))
    np.testing.assert_allclose(ours[fits][:, 0], painted[fits][:, 0], atol=1e-3)
    assert np.abs(ours[..., 0] - theirs[..., 0]).mean() > 0.01


def test_each_scale_shows_its_colors(network, photographs):
    content, style = photographs
    shapes = [
        snapshot.image.shape
        for snapshot in stylize(content, style, network=network, config=keeping(), snapshot_every=1)
    ]
    assert len(set(shapes)) == 3


def test_the_style_is_moved_to_the_contents_colors_first(network, photographs):
    content, style = map(jnp.asarray, photographs)
    for how in ("symmetric", "cholesky", "pca"):
        config = dataclasses.replace(FEW, color="match", color_match=how)
        found = last(content, style, network=network, config=config)
        plain = last(content, match_colors(style, content, how=how), network=network)
        np.testing.assert_array_equal(found.image, plain.image)


@pytest.mark.parametrize("color", ["keep", "match"])
def test_of_a_batch_each_has_its_own(network, photographs, color):
    content, style = map(jnp.asarray, photographs)
    config = dataclasses.replace(FEW, color=color)
    batch = jnp.stack([content, content[:, ::-1] ** 2])
    both = last(batch, style, network=network, config=config).image
    for one, image in zip(both, batch, strict=True):
        alone = last(image, style, network=network, config=config).image
        np.testing.assert_allclose(one, alone, atol=0.02)  # Adam's first steps are signs
        np.testing.assert_allclose(np.mean(one), np.mean(alone), atol=1e-3)


@pytest.mark.parametrize("color", ["keep", "match"])
def test_gray_and_constant_images_give_numbers(network, photographs, color):
    flat = np.full((24, 32, 3), 0.5, np.float32)
    config = dataclasses.replace(FEW, color=color)
    for content, style in ((flat, photographs[1]), (photographs[0], flat)):
        found = last(content, style, network=network, config=config)
        assert found.finite
        assert np.isfinite(found.image).all()
    kept = last(flat, photographs[1], network=network, config=keeping()).image
    assert np.ptp(kept, axis=-1).max() < 1e-3


def test_a_start_in_colors_begins_with_its_lightness(network, photographs):
    content, style = photographs
    start = np.ascontiguousarray(content[::-1])
    found = last(content, style, network=network, config=keeping(), start=start)
    plain = last(content, style, network=network, config=keeping(), start=gray(jnp.asarray(start)))
    np.testing.assert_allclose(found.image, plain.image, atol=1e-4)


def test_a_map_without_effect_is_refused():
    config = Config(color_match="pca")
    with pytest.raises(InputError, match="color_match is for the color match"):
        config.check_given(["color_match"])


def test_without_steps_there_is_nothing_to_run(photographs, network):
    config = dataclasses.replace(FEW, color="style-only")
    with pytest.raises(InputError, match=r"color is style-only, .* call match_colors\(content, "):
        stylize(*photographs, network=network, config=config)
    with pytest.raises(InputError, match="color is style-only"):
        estimate_memory((24, 24), [(24, 24)], config=config)
