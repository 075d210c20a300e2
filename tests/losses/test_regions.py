"""Guided statistics and losses, against NumPy in float64 and against those without masks."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax import (
    StyleFormula,
    content_loss,
    make_targets,
    style_loss,
    style_statistics,
    style_target,
    style_transfer_loss,
    total_variation,
)
from nst_jax.errors import InputError
from nst_jax.losses.regions import (
    blend_regions,
    coverage,
    given_masks,
    region_loss,
    region_statistics,
)
from nst_jax.losses.regularizers import range_penalty
from nst_jax.losses.terms import StyleLoss

KINDS = get_args(StyleLoss)


# Compiled at once: each operation alone takes as long to compile.
loss_and_gradient = jax.jit(jax.value_and_grad(region_loss), static_argnames="kind")
style_loss_and_gradient = jax.jit(jax.value_and_grad(style_loss), static_argnames="kind")
whole_loss = jax.jit(style_transfer_loss, static_argnames="features")


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def halves(height, width):
    left = jnp.zeros((height, width)).at[:, : width // 2].set(1.0)
    return jnp.stack([left, 1 - left], -1)


@settings(max_examples=20, deadline=None)
@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 4), st.integers(0, 9))
def test_a_position_counts_as_its_pixels_are_covered(height, width, poolings, seed):
    masks, block = draw(seed, height, width, 2), 2**poolings
    found = coverage(masks, (height // block, width // block))
    masks = np.asarray(masks)
    for i, j in np.ndindex(height // block, width // block):
        own = masks[i * block : (i + 1) * block, j * block : (j + 1) * block]
        np.testing.assert_allclose(found[i, j], own.mean((0, 1)), rtol=1e-5)


def test_maps_of_other_strides_get_resampled_masks():
    found = coverage(halves(30, 30), (10, 10))
    np.testing.assert_allclose(found, halves(10, 10), atol=0.2)
    assert found.min() >= 0
    assert found.max() <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_sums_of_regions_in_float64(height, width, count, shifted, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, height, width, 3))
    masks = rng.uniform(size=(height, width, count)) * rng.integers(0, 2, (height, width, 1))
    shift = rng.normal(size=(2, count, 3)) if shifted else np.zeros((2, count, 3))
    with jax.enable_x64(True):
        found = jax.jit(region_statistics)(
            *map(jnp.asarray, (features, masks)), shift=jnp.asarray(shift) if shifted else None
        )
    for n, r in np.ndindex(2, count):
        flat, weights = features[n].reshape(-1, 3) - shift[n, r], masks[..., r].reshape(-1)
        expected = sum(w * np.outer(f, f) for w, f in zip(weights, flat, strict=True))
        np.testing.assert_allclose(found.gram[n, r], expected, atol=1e-12)
        np.testing.assert_allclose(found.total[n, r], weights @ flat, atol=1e-12)
        np.testing.assert_allclose(found.positions[n, r], weights.sum(), atol=1e-12)


@functools.partial(jax.jit, static_argnums=0)
def target_of(kind, *styles, regions=None):
    each = [style_statistics(style) for style in styles]
    if regions is None:
        return style_target(each[0], positions=40, kind=kind)
    blended = blend_regions(
        [region_statistics(x, m) for x, m in zip(styles, regions, strict=True)], [1.0] * len(styles)
    )
    return style_target(blended, positions=jnp.asarray(40.0), kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_ones_changes_nothing(kind):
    features, style = draw(0, 5, 8, 4), draw(1, 6, 7, 4)
    target = target_of(kind, style, regions=[jnp.ones((6, 7, 1))])
    value, gradient = loss_and_gradient(features, jnp.ones((5, 8, 1)), target, kind=kind)
    expected, slope = style_loss_and_gradient(features, target_of(kind, style), kind=kind)
    # The Wasserstein losses are differences of sums; see `wasserstein_loss` for their errors.
    digits = 2e-3 if "wasserstein" in kind else 1e-5
    np.testing.assert_allclose(value, expected, rtol=digits)
    assert jnp.linalg.norm(gradient - slope) < digits * jnp.linalg.norm(slope)


@pytest.mark.parametrize("kind", KINDS)
def test_each_region_counts_by_its_share_and_no_other_is_drawn(kind):
    features, styles = draw(0, 5, 8, 4), (draw(1, 6, 7, 4), 0.5 * draw(2, 4, 9, 4))
    regions = jnp.zeros((5, 8, 2)).at[:, :2, 0].set(1.0).at[:, 2:6, 1].set(1.0)
    masks = [
        jnp.broadcast_to(jax.nn.one_hot(i, 2), (*x.shape[:2], 2)) for i, x in enumerate(styles)
    ]
    target = target_of(kind, *styles, regions=masks)
    value, gradient = loss_and_gradient(features, regions, target, kind=kind)
    expected = 0.0
    for own, style in zip((features[:, :2], features[:, 2:6]), styles, strict=True):
        count = own.shape[0] * own.shape[1]
        target = style_target(style_statistics(style), positions=count, kind=kind)
        share = 1 if kind == "pytorch" else count / 40  # its value grows with the positions itself
        expected += share * style_loss(own, target, kind=kind)
    np.testing.assert_allclose(value, expected, rtol=2e-3 if "wasserstein" in kind else 1e-5)
    assert not gradient[:, 6:].any()
    assert gradient[:, :6].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_region_gives_numbers(kind):
    features, style = draw(0, 5, 8, 4), draw(1, 6, 7, 4)
    regions = jnp.ones((5, 8, 2)).at[..., 1].set(0.0)
    target = target_of(kind, style, regions=[jnp.ones((6, 7, 2))])
    value, gradient = loss_and_gradient(features, regions, target, kind=kind)
    expected = region_loss(
        features, regions[..., :1], jax.tree.map(lambda x: x[:1], target), kind=kind
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert jnp.isfinite(gradient).all()


def test_a_style_has_no_share_in_a_region_where_it_is_empty():
    first, second = draw(0, 5, 8, 3), draw(1, 6, 7, 3)
    both, alone = jnp.ones((5, 8, 2)), jnp.ones((6, 7, 2)).at[..., 0].set(0.0)
    found = blend_regions(
        [region_statistics(first, both), region_statistics(second, alone)], (1.0, 3.0)
    )
    one, other = style_statistics(first), style_statistics(second)
    np.testing.assert_allclose(found.mean[0], one.mean, rtol=1e-5)
    np.testing.assert_allclose(found.mean[1], (one.mean + 3 * other.mean) / 4, rtol=1e-5)
    mixed = (one.second_moment + 3 * other.second_moment) / 4
    np.testing.assert_allclose(
        found.second_moment, jnp.stack([one.second_moment, mixed]), rtol=1e-5
    )


def test_half_precision_maps_are_summed_in_float32():
    found = region_statistics(jnp.full((64, 64, 2), 10, jnp.bfloat16), jnp.ones((64, 64, 1)))
    assert {x.dtype for x in found} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(found.gram, np.full((1, 2, 2), 409_600.0))


LAYERS = {"content_layers": ["half"], "style_layers": ["pixels", "half"]}


def features(image):
    halved = image.reshape(*image.shape[:-3], 8, 2, 12, 2, 3).mean((-4, -2))
    return {"pixels": image, "half": halved}


def test_two_styles_have_a_half_each():
    image, contents, styles = draw(0, 2, 16, 24, 3), draw(1, 2, 16, 24, 3), draw(2, 2, 16, 24, 3)
    masks = halves(16, 24)
    targets = make_targets(features, contents, list(styles), content_mask=masks, **LAYERS)
    assert targets.style["pixels"].mean.shape == (2, 2, 3)
    _, both = whole_loss(image, targets, features=features)
    parts = []
    for half, style in enumerate(styles):
        own = make_targets(features, contents, style, content_mask=masks[..., half], **LAYERS)
        _, alone = whole_loss(image, own, features=features)
        target = style_target(jax.tree.map(lambda x: jnp.stack([x] * 2), style_statistics(style)))
        mine = image[:, :, 12 * half : 12 * (half + 1)]
        np.testing.assert_allclose(
            alone.style_terms["pixels"], style_loss(mine, target) / 2, rtol=1e-5
        )
        parts.append(alone.style)
    np.testing.assert_allclose(both.style, sum(parts), rtol=1e-5)


def test_a_part_of_the_style_image():
    content, style = draw(0, 16, 24, 3), draw(1, 16, 24, 3)
    targets = make_targets(features, content, style, style_mask=halves(16, 24)[..., 1], **LAYERS)
    expected = style_statistics(style[:, 12:])
    np.testing.assert_allclose(targets.style["pixels"].mean, expected.mean[None], rtol=1e-5)
    assert targets.regions["half"].shape == (8, 12, 1)


def test_other_terms_take_weights():
    image, target = draw(0, 2, 6, 8, 3), draw(1, 2, 6, 8, 3)
    masks = jnp.moveaxis(halves(6, 8), -1, 0)
    for term in (
        lambda **kw: content_loss(image, target, **kw),
        lambda **kw: content_loss(image, target, kind="mean", **kw),
        lambda **kw: total_variation(image, **kw),
        lambda **kw: total_variation(image, kind="l2", **kw),
        lambda **kw: total_variation(image, kind="l1", **kw),
        lambda **kw: range_penalty(3 * image, **kw),
    ):
        left, right = (term(weights=mask) for mask in masks)
        assert left.shape == (2,)
        np.testing.assert_allclose(left + right, term(), rtol=1e-5)
        assert (left > 0).all()


def test_no_gradient_where_the_weight_is_zero():
    image, target, mask = draw(0, 6, 8, 3), draw(1, 6, 8, 3), halves(6, 8)[..., 0]
    slope = jax.grad(content_loss)(image, target, weights=mask)
    assert not slope[:, 4:].any()
    assert slope[:, :4].all()
    slope = jax.grad(total_variation)(image, weights=mask)
    assert not slope[:, 5:].any()  # column 4 is a neighbor of column 3


ONES, STYLES = jnp.ones((8, 9, 3)), [jnp.ones((6, 7, 3))] * 3


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ((halves(8, 9), None), "2 regions, but the number of styles is 3; give 2 styles"),
        ((jnp.ones((9, 8)), None), r"content mask has the shape \[9, 8\].* \(8, 9\) or"),
        ((2 * jnp.ones((8, 9)), None), r"content mask must be floats in \[0, 1\]; divide levels"),
        ((jnp.ones((8, 9), int), None), "content mask must be floats"),
        ((None, [None, None]), "number of style masks is 2, but that of styles is 3"),
        ((None, [jnp.zeros((6, 7))] * 3), "region 1 of the content mask is in no style mask"),
        ((None, halves(6, 7)), "a style mask has 2 regions, but the content mask has 1"),
    ],
)
def test_masks_that_do_not_fit(masks, words):
    with pytest.raises(InputError, match=words):
        given_masks(ONES, STYLES, *masks)


def test_a_formula_of_ones_own_has_no_regions():
    formula = StyleFormula(
        lambda x: x.mean(), lambda x, target: (x.mean((-3, -2, -1)) - target) ** 2
    )
    with pytest.raises(InputError, match="for one style without masks"):
        make_targets(
            features,
            draw(0, 16, 24, 3),
            draw(1, 16, 24, 3),
            style_loss=formula,
            content_mask=jnp.ones((16, 24)),
            **LAYERS,
        )
