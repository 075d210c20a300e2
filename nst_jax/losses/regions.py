"""Regions of a picture: their masks at each map, and the guided statistics of each region.

Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer", arXiv 1611.07865, section
4.1. A position of a map counts in a region as much as the mask covers the pixels that belong to it.
The paper divides each mask by its norm; here each region's statistics are averages, and its loss
counts by its share of the map. So a pixel is drawn as strongly as without masks, and masks of ones
change nothing.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nst_jax.errors import InputError
from nst_jax.geometry import Shape, Wrap, resample, shape_of
from nst_jax.io.arrays import as_mask
from nst_jax.losses.statistics import StyleStatistics, accumulator, gram_matrix
from nst_jax.losses.terms import StyleLoss, shift_of, style_loss_of

Masks = Float[Array, "*batch height width r"]
StyleMasks = Float[Array, "*_ _ _ _"]  # the same, each of another size
Coverage = Float[Array, "*#batch h w r"]


class RegionStatistics(NamedTuple):
    """Sums over the positions of a map, for each region; those of parts of a map add up.

    Attributes:
      gram: of the products of channels, each times the position's weight.
      total: of each channel, times the weight.
      positions: of the weights.
    """

    gram: Float[Array, "*batch r c c"]
    total: Float[Array, "*batch r c"]
    positions: Float[Array, "*batch r"]

    def averages(self, *, positions: float | Float[Array, ""] = 1.0) -> StyleStatistics:
        """Return each region's statistics as those of a whole map; zeros for an empty region.

        Args:
          positions: of the whole map.
        """
        one = jnp.where(self.positions > 0, self.positions, 1)
        return StyleStatistics(
            self.gram * (positions / one)[..., None, None],
            self.total / one[..., None],
            jnp.asarray(positions, one.dtype),
        )


def resize_masks(masks: StyleMasks, shape: Shape, *, wrap: Wrap = "none") -> StyleMasks:
    """Bring masks to (height, width); pixels get the mean of those that they cover.

    Args:
      masks: from 0 to 1.
      shape: of the result, in px.
      wrap: see `geometry.resample`.
    """
    return jnp.clip(resample(masks, shape, method="linear", wrap=wrap), 0, 1)


def coverage(masks: Masks, shape: Shape) -> Coverage:
    """Return how much of the pixels that belong to each position of a map each mask covers.

    A map whose sides are the picture's over a power of two, rounded down, has the means over blocks
    of pixels, and the rest of the picture belongs to no position: so the poolings of VGG divide it.
    For any other map the masks are resampled.

    Args:
      masks: from 0 to 1.
      shape: (height, width) of the map.
    """
    height, width = masks.shape[-3:-1]
    block = 2 ** int(math.log2(max(1.0, height / shape[0])))
    if (height // block, width // block) != shape:
        return resize_masks(masks, shape)
    whole = masks[..., : shape[0] * block, : shape[1] * block, :]
    blocks = whole.reshape(*masks.shape[:-3], shape[0], block, shape[1], block, masks.shape[-1])
    return blocks.mean((-4, -2))


def region_statistics(
    features: Float[Array, "*batch h w c"],
    regions: Coverage,
    *,
    shift: Float[Array, "*#batch r c"] | None = None,
) -> RegionStatistics:
    """Sum up a map's guided Gram matrices and totals; see `RegionStatistics`.

    Args:
      features: a map of any float type, of any units.
      regions: how much each position counts in each region, at least 0; no derivative is taken.
      shift: for each region what is taken off the map first.
    """
    acc = accumulator(features)
    # One factor on each side keeps the product of a map with itself, whose gradient is one product.
    root = jax.lax.stop_gradient(jnp.sqrt(regions).astype(features.dtype))
    root = jnp.broadcast_to(root, (*features.shape[:-1], regions.shape[-1]))
    grams, totals = [], []
    for r in range(regions.shape[-1]):
        own = features
        if shift is not None:
            own = features.astype(acc) - shift[..., r, :].reshape(*shift.shape[:-2], 1, 1, -1)
        part = root[..., r, None] * own
        with jax.default_matmul_precision(None if shift is None else "highest"):
            grams.append(gram_matrix(part))
        totals.append(jnp.sum(root[..., r, None].astype(acc) * part.astype(acc), (-3, -2)))
    positions = jnp.sum(root.astype(acc) ** 2, (-3, -2))
    return RegionStatistics(jnp.stack(grams, -3), jnp.stack(totals, -2), positions)


def region_loss(
    features: Float[Array, "*batch h w c"],
    regions: Coverage,
    target: PyTree[Array],
    *,
    kind: StyleLoss = "moments",
) -> Float[Array, "*batch"]:
    """Compute the style loss of each region times its share of the map, and add them up.

    Args:
      features: of the image.
      regions: see `region_statistics`.
      target: from `losses.style_target`, with an axis of the regions after those of the batch.
      kind: see `losses.style_loss`.
    """
    shift = shift_of(target, kind)
    statistics = region_statistics(features, regions, shift=shift)
    positions = math.prod(features.shape[-3:-1])
    return region_loss_of(statistics, target, positions=positions, kind=kind)


def region_loss_of(
    statistics: RegionStatistics, target: PyTree[Array], *, positions: int, kind: StyleLoss
) -> Float[Array, "*batch"]:
    """Compute `region_loss` from sums over a map, which may be summed in parts.

    Args:
      statistics: of the image's map; for the Wasserstein losses, less the targets' means.
      target: see `region_loss`.
      positions: of the whole map.
      kind: see `losses.style_loss`.
    """
    whole = statistics.averages(positions=float(positions))
    axis = statistics.positions.ndim - 1
    by_region = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), (whole.gram, whole.mean, target))

    def loss(region: tuple[Array, Array, PyTree[Array]]) -> Array:
        gram, mean, target = region
        return style_loss_of(StyleStatistics(gram, mean, whole.positions), target, kind=kind)

    losses = jnp.moveaxis(jax.vmap(loss)(by_region), 0, -1)
    return jnp.sum(losses * statistics.positions / float(positions), -1)


def blend_regions(
    statistics: Sequence[RegionStatistics], shares: Sequence[float | Float[Array, ""]]
) -> StyleStatistics:
    """Average the statistics of several styles in each region, as `blend_statistics` does.

    A style that is empty in a region has no share there; a region without any style gets zeros.
    """
    weights = [share * (each.positions > 0) for share, each in zip(shares, statistics, strict=True)]
    total = sum(weights[1:], weights[0])
    gram = mean = jnp.zeros(())
    for weight, each in zip(weights, statistics, strict=True):
        own, share = each.averages(), weight / jnp.where(total > 0, total, 1)
        gram, mean = gram + share[..., None, None] * own.gram, mean + share[..., None] * own.mean
    return StyleStatistics(gram, mean, jnp.ones((), mean.dtype))


def given_masks(
    content: Array,
    styles: Sequence[Array],
    content_mask: Any,
    style_mask: Any,
) -> tuple[Masks | None, Sequence[StyleMasks | None]]:
    """Return the masks of the content and of each style, with an axis of the regions at the end.

    As many styles as regions have one region each, in their order. Else each style, or the part of
    it that its mask of one region names, serves all regions.

    Args:
      content: the content image.
      styles: the style images.
      content_mask: (height, width) or (*batch, height, width, r); None: the whole picture.
      style_mask: one such mask, or a list or tuple with one for each style; None: the whole image.

    Returns:
      The masks; None, and None for each style, if none are given.

    Raises:
      InputError: if the masks do not fit the images or each other, are no floats in [0, 1], or a
        region has no style.
    """
    if content_mask is None and style_mask is None:
        return None, [None] * len(styles)
    each = style_mask if isinstance(style_mask, list | tuple) else [style_mask] * len(styles)
    if len(each) != len(styles):
        raise InputError(
            f"the number of style masks is {len(each)}, but that of styles is {len(styles)}; give "
            "one for each, or None in its place"
        )
    masks = _as_masks(content_mask, content, "content")
    regions = masks.shape[-1]
    looks = [_as_masks(mask, style, "style") for mask, style in zip(each, styles, strict=True)]
    several = len(styles) > 1 and regions > 1
    if several and len(styles) != regions and any(x.shape[-1] < regions for x in looks):
        raise InputError(
            f"the content mask has {regions} regions, but the number of styles is {len(styles)}; "
            f"give {regions} styles, or a mask of {regions} regions with each style"
        )
    looks = [
        _of_regions(look, regions, own=number if several else None)
        for number, look in enumerate(looks)
    ]
    _check_used(looks)
    return masks, looks


def _as_masks(mask: Any, image: Array, role: str) -> Masks:
    """Return the masks of an image, ones if none are given."""
    shape = shape_of(image)
    mask = jnp.ones(shape) if mask is None else mask
    masks = as_mask(mask, role=f"{role} mask", shape=shape, dtype=image.dtype)
    return jnp.broadcast_to(masks, (*image.shape[:-1], masks.shape[-1]))


def _of_regions(masks: Masks, regions: int, *, own: int | None) -> Array:
    """Give a style's mask of one region the axis of all; `own` is the only one that has it."""
    if masks.shape[-1] == regions:
        return masks
    if masks.shape[-1] > 1:
        raise InputError(
            f"a style mask has {masks.shape[-1]} regions, but the content mask has {regions}; give "
            "both the same number"
        )
    serves = jnp.ones(regions) if own is None else jax.nn.one_hot(own, regions)
    return masks * serves.astype(masks.dtype).reshape(*(1,) * (masks.ndim - 1), regions)


def _check_used(masks: Sequence[StyleMasks]) -> None:
    """Raise InputError if a region has no style; nothing is checked while JAX traces."""
    if any(isinstance(each, jax.core.Tracer) for each in masks):
        return
    used = [each.max(tuple(range(each.ndim - 1))) for each in masks]
    for number in range(masks[0].shape[-1]):
        if not any(most[number] for most in used):
            raise InputError(
                f"region {number + 1} of the content mask is in no style mask; give it a style"
            )
