"""Styles by region, the strength of the style, and what stays the photograph."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import Config, InputError, build_vgg19, layers, stylize
from nst_jax.config import LayerBlend

FEW = Config(
    min_size=17,
    first_steps=6,
    steps=4,
    content_layers=layers("relu2_1"),
    style_layers=layers("relu1_1", "relu2_1"),
)
SHAPE = (24, 32)
LEFT = jnp.zeros(SHAPE).at[:, :16].set(1.0)
HALVES = jnp.stack([LEFT, 1 - LEFT], -1)


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params)


@pytest.fixture(scope="module")
def images():
    content, red, blue = jax.random.uniform(jax.random.key(0), (3, *SHAPE, 3))
    return content, [red.at[..., 2].set(0.0), blue[:, :20].at[..., 0].set(0.0)]


def last(content, styles, network, config=FEW, **masks):
    *_, found = stylize(
        content, styles, network=network, config=config, snapshot_every=None, **masks
    )
    return found


def test_masks_of_ones_change_nothing(network, images):
    ones = {"content_mask": jnp.ones(SHAPE), "style_strength": jnp.ones(SHAPE)}
    found, expected = (last(*images, network, **masks) for masks in (ones, {}))
    # Sums of float32 numbers in another order. A pixel whose gradient is of no size may go the
    # other way in a step of Adam.
    np.testing.assert_allclose(found.losses.total, expected.losses.total, rtol=1e-5)
    assert jnp.linalg.norm(found.image - expected.image) < 1e-3 * jnp.linalg.norm(expected.image)


def test_each_half_gets_its_own_style(network, images):
    content, styles = images
    found = last(content, styles, network, content_mask=HALVES)
    swapped = last(content, styles[::-1], network, content_mask=HALVES[..., ::-1])
    np.testing.assert_allclose(found.image, swapped.image, atol=1e-5)
    left, right = (np.asarray(x).mean((0, 1)) for x in np.split(found.image, 2, axis=1))
    assert left[0] - left[2] > 0.04
    assert right[2] - right[0] > 0.04


def test_a_region_takes_its_region_of_the_style(network, images):
    """One style image whose left is red and whose right is blue."""
    content, (red, _) = images
    style = jnp.concatenate([red[:, :16], red[:, :16, ::-1]], axis=1)
    masks = {"content_mask": HALVES[..., ::-1], "style_mask": HALVES}
    left, right = np.split(last(content, style, network, **masks).image, 2, axis=1)
    assert left[..., 2].mean() - left[..., 0].mean() > 0.04
    assert right[..., 0].mean() - right[..., 2].mean() > 0.04


@pytest.mark.parametrize("color", ["style", "keep", "match"])
def test_what_is_protected_is_the_photograph(network, images, color):
    content, styles = images
    soft = LEFT.at[:, 16].set(0.25)
    config = dataclasses.replace(FEW, color=color)
    for snapshot in stylize(
        content, styles, network=network, config=config, protect=soft, snapshot_every=3
    ):
        if snapshot.image.shape == content.shape:
            np.testing.assert_array_equal(snapshot.image[:, :16], content[:, :16])
            assert jnp.abs(snapshot.image - content)[:, 16:].mean() > 0.01
    assert snapshot.image.shape == content.shape
    everything = last(content, styles, network, config, protect=jnp.ones(SHAPE))
    assert not everything.losses.style.any()


def test_the_style_is_as_strong_as_the_mask_says(network, images):
    content, (style, _) = images
    half, none = (jnp.full(SHAPE, share) for share in (0.5, 0.0))
    found = last(content, style, network, style_strength=half)
    weaker = dataclasses.replace(FEW, style_weight=0.5 * FEW.style_weight)
    expected = last(content, style, network, weaker)
    np.testing.assert_allclose(found.losses.total, expected.losses.total, rtol=1e-5)
    without = last(content, style, network, style_strength=none)
    assert not without.losses.style.any()


def test_each_picture_of_a_batch_can_have_its_own_masks(network, images):
    content, styles = images
    contents, masks = jnp.stack([content, content[::-1]]), jnp.stack([HALVES, HALVES[:, ::-1]])
    both = last(contents, styles, network, content_mask=masks)
    for image, own, mask in zip(both.image, contents, masks, strict=True):
        alone = last(own, styles, network, content_mask=mask)
        assert jnp.linalg.norm(image - alone.image) < 1e-3 * jnp.linalg.norm(image)


def test_a_run_goes_on_only_with_its_masks(network, images, tmp_path):
    def begin(**masks):
        run = stylize(*images, network=network, config=FEW, checkpoints=tmp_path, **masks)
        next(run)
        run.close()

    begin(content_mask=HALVES)
    begin(content_mask=HALVES)
    with pytest.raises(InputError, match="masks"):
        begin(content_mask=HALVES[..., ::-1])
    with pytest.raises(InputError, match="masks"):
        begin()


def test_a_style_for_fine_layers_and_one_for_coarse_ones(network, images):
    content, (fine, coarse) = images
    blend = (LayerBlend("relu1_1", (1.0, 0.0)), LayerBlend("relu2_1", (0.0, 1.0)))
    both = dataclasses.replace(FEW, min_size=0, steps=1, style_layer_blend=blend)
    found = last(content, [fine, coarse], network, both).losses.style_terms
    alone = dataclasses.replace(both, style_layer_blend=())
    first, second = (last(content, x, network, alone).losses.style_terms for x in (fine, coarse))
    np.testing.assert_allclose(found["relu1_1"], first["relu1_1"], rtol=1e-6)
    np.testing.assert_allclose(found["relu2_1"], second["relu2_1"], rtol=1e-6)
    tiled = dataclasses.replace(both, tile=16)
    again = last(content, [fine, coarse], network, tiled).losses.style_terms
    np.testing.assert_allclose(again["relu2_1"], found["relu2_1"], rtol=1e-5)
    wrong = dataclasses.replace(both, style_layer_blend=(LayerBlend("relu1_1", (1.0,)),))
    with pytest.raises(InputError, match="has 1 shares at relu1_1, but the number of styles is 2"):
        last(content, [fine, coarse], network, wrong)


@pytest.mark.parametrize("role", ["content_mask", "style_strength", "protect"])
def test_a_mask_of_another_size_is_refused(network, images, role):
    words = r"has the shape \[32, 24\]; allowed are floats of shape \(24, 32\)"
    with pytest.raises(InputError, match=words):
        last(*images, network, **{role: LEFT.T})
