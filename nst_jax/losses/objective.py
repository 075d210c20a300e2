"""The objective: content and style targets, and one scalar loss of an image.

Nothing here depends on VGG: a feature network is any callable from an image to named maps.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PyTree

from nst_jax.errors import InputError
from nst_jax.io.arrays import check_values
from nst_jax.losses.regions import (
    Coverage,
    Masks,
    RegionStatistics,
    blend_regions,
    coverage,
    given_masks,
    region_loss,
    region_statistics,
)
from nst_jax.losses.statistics import (
    StyleStatistics,
    accumulator,
    as_statistics,
    blend_statistics,
)
from nst_jax.losses.terms import ContentLoss, StyleFormula, StyleLoss, style_target
from nst_jax.losses.terms import content_loss as content_term
from nst_jax.losses.terms import style_loss as style_term

Image = Float[Array, "*batch height width 3"]
GivenImage = Float[Array | np.ndarray, "*batch height width 3"]
GivenStyle = Float[Array | np.ndarray, "*style_batch _ _ 3"]  # each of another size
GivenMask = Float[Array | np.ndarray, "*_"]
Maps = Mapping[str, Any]
Look = Mapping[str, StyleStatistics | RegionStatistics]
FeatureFn = Callable[[Image], Maps]
Weight = float | Num[Array | np.ndarray, ""] | Num[Array | np.ndarray, "*batch"]
Term = Callable[[Image, Maps], Float[Array, "*batch"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """What the image is pulled toward, a pytree.

    Attributes:
      content: the content image's feature map `(*batch, h, w, c)` for each content layer.
      style: the result of `losses.style_target` for each style layer; with regions, an axis of them
        comes after the batch's.
      style_loss: the formula that `style` is for; static.
      regions: for each style layer, how much each position of the image's map counts in each
        region, `(*batch, h, w, r)`; None: there are no regions.
    """

    content: PyTree
    style: PyTree
    style_loss: StyleLoss | StyleFormula = dataclasses.field(metadata={"static": True})
    regions: PyTree = None


class Losses(NamedTuple):
    """The loss of each image and its parts; all values have the shape of the batch.

    Attributes:
      total: the weighted sum of `content`, `style` and the terms.
      content: sum of the content terms with their layers' weights.
      style: sum of the style terms with their layers' weights.
      content_terms: unweighted `losses.content_loss` of each content layer.
      style_terms: unweighted `losses.style_loss` of each style layer.
      terms: unweighted value of each further term.
    """

    total: Float[Array, "*batch"]
    content: Float[Array, "*batch"]
    style: Float[Array, "*batch"]
    content_terms: OrderedDict[str, Float[Array, "*batch"]]
    style_terms: OrderedDict[str, Float[Array, "*batch"]]
    terms: OrderedDict[str, Float[Array, "*batch"]]


class LossWeights(NamedTuple):
    """The factors of all terms of the loss, each a number, or one number for each image.

    Attributes:
      content: of the content loss.
      style: of the style loss.
      content_layers: of each layer's term in the content loss; 1 for layers not named.
      style_layers: of each layer's term in the style loss; 1 for layers not named.
      terms: of each further term.
    """

    content: Weight
    style: Weight
    content_layers: Mapping[str, Weight]
    style_layers: Mapping[str, Weight]
    terms: Mapping[str, Weight]


def make_targets(
    features: FeatureFn,
    content: GivenImage,
    style: GivenStyle | Sequence[GivenStyle],
    *,
    content_layers: Sequence[str],
    style_layers: Sequence[str],
    style_loss: StyleLoss | StyleFormula = "moments",
    content_mask: GivenMask | None = None,
    style_mask: GivenMask | Sequence[GivenMask | None] | None = None,
) -> Targets:
    """Take the content image's feature maps and the style image's statistics.

    With masks each region of the image is drawn to the statistics of its region of the styles:
    guided Gram matrices, Gatys et al., arXiv 1611.07865; see `losses.regions`.

    Args:
      features: the network; it must return at least the layers named below.
      content: sRGB in [0, 1], NHWC or HWC.
      style: sRGB in [0, 1], NHWC or HWC, of any size; one image serves a whole batch of contents.
        Or a list or tuple of such images, which have equal shares.
      content_layers: names of the maps to keep.
      style_layers: names of the maps to take statistics of.
      style_loss: the formula of the style terms; see `losses.style_loss`.
      content_mask: in [0, 1], of the content's size: (height, width) where the style acts, or
        ``(*batch, height, width, regions)``. As many styles as regions have one region each.
      style_mask: the same of the style: the part of it that serves the content's region of the same
        number. Of several styles a list or tuple; None: the whole image.

    Raises:
      KeyError: if `features` does not return one of the layers.
      InputError: if a value is not finite, or more than 0.5 outside [0, 1]; if the masks do not fit
        the images or each other; for several styles or masks with a `StyleFormula`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import make_targets
      >>> features = lambda image: {"pixels": image}  # any network
      >>> content, style = jnp.ones((4, 6, 3)), jnp.ones((5, 5, 3))
      >>> targets = make_targets(
      ...     features, content, style, content_layers=["pixels"], style_layers=["pixels"]
      ... )
      >>> targets.content["pixels"].shape, targets.style["pixels"].mean.tolist()
      ((4, 6, 3), [1.0, 1.0, 1.0])
    """
    styles = [jnp.asarray(x) for x in (style if isinstance(style, list | tuple) else [style])]
    content = jnp.asarray(content)
    check_values(content, name="the content image")
    for each in styles:
        check_values(each, name="the style image")
    masks, of_styles = given_masks(content, styles, content_mask, style_mask)
    own = describe(
        features(content), content_layers=content_layers, style_layers=style_layers, masks=masks
    )
    if isinstance(style_loss, StyleFormula):
        if masks is not None or len(styles) > 1:
            raise InputError("a StyleFormula is for one style without masks")
        maps = features(styles[0])
        target = OrderedDict((name, style_loss.target(maps[name])) for name in style_layers)
        return Targets(own.maps, target, style_loss)
    looks = [
        describe(features(image), content_layers=(), style_layers=style_layers, masks=mask).look
        for image, mask in zip(styles, of_styles, strict=True)
    ]
    return assemble_targets(own, looks, style_loss=style_loss)


class Description(NamedTuple):
    """What targets are made of, taken from the maps of one image.

    Attributes:
      maps: the feature map of each content layer.
      statistics: of each style layer.
      regions: the masks at each style layer; None: the image has no masks.
      guided: the statistics of each region, for each style layer; None: there are no masks.
    """

    maps: OrderedDict[str, Array]
    statistics: OrderedDict[str, StyleStatistics]
    regions: OrderedDict[str, Coverage] | None = None
    guided: OrderedDict[str, RegionStatistics] | None = None

    @property
    def look(self) -> Look:
        """What a style image gives: its statistics, those of its regions if it has masks."""
        return self.statistics if self.guided is None else self.guided


def describe(
    maps: Maps,
    *,
    content_layers: Iterable[str],
    style_layers: Iterable[str],
    masks: Masks | None = None,
) -> Description:
    """Return the content layers' feature maps and the style layers' statistics of an image.

    Args:
      maps: (*batch, h, w, c) each, by name; a style layer may have `StyleStatistics` instead, where
        there are no masks.
      content_layers: names of the maps to keep.
      style_layers: names of the maps to take statistics of.
      masks: of the image's regions.

    Raises:
      KeyError: if one of the layers is not among the maps.
    """
    kept = OrderedDict((name, maps[name]) for name in content_layers)
    statistics = OrderedDict((name, as_statistics(maps[name])) for name in style_layers)
    if masks is None:
        return Description(kept, statistics)
    regions = OrderedDict((name, coverage(masks, maps[name].shape[-3:-1])) for name in statistics)
    guided = OrderedDict((name, region_statistics(maps[name], x)) for name, x in regions.items())
    return Description(kept, statistics, regions, guided)


def assemble_targets(
    content: Description,
    looks: Sequence[Look],
    *,
    style_loss: StyleLoss = "moments",
    style_blend: Sequence[float | Float[Array, ""]] = (),
    style_layer_blend: Mapping[str, Sequence[float | Float[Array, ""]]] = MappingProxyType({}),
) -> Targets:
    """Make targets from the description of the content image and the looks of the style images.

    Args:
      content: its maps and masks become targets, which get the batch and the number of positions of
        its statistics.
      looks: all with regions, or all without.
      style_loss: see `make_targets`.
      style_blend: each style's share; equal shares if empty.
      style_layer_blend: the shares at layers that have others.
    """
    everywhere = style_blend or (1.0,) * len(looks)
    style: OrderedDict[str, PyTree[Array]] = OrderedDict()
    for name, own in content.statistics.items():
        each, shares = [look[name] for look in looks], style_layer_blend.get(name, everywhere)
        guided = [x for x in each if isinstance(x, RegionStatistics)]
        whole = [x for x in each if isinstance(x, StyleStatistics)]
        blended = blend_regions(guided, shares) if guided else blend_statistics(whole, shares)
        target = style_target(blended, kind=style_loss, positions=own.positions)
        batch = (*own.mean.shape[:-1], *(blended.mean.shape[-2:-1] if guided else ()))
        style[name] = _spread(target, blended.mean.ndim - 1, batch)
    return Targets(content.maps, style, style_loss, content.regions)


def _spread(target: PyTree[Array], axes: int, batch: tuple[int, ...]) -> PyTree[Array]:
    """Broadcast a target, whose first `axes` axes are its batch, to the batch of content images."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape[axes:])), target)


def style_transfer_loss(
    image: GivenImage,
    targets: Targets,
    *,
    features: FeatureFn,
    content_weight: Weight = 3.0,
    style_weight: Weight = 1.0,
    content_loss: ContentLoss = "relative",
    content_layer_weights: Mapping[str, Weight] = MappingProxyType({}),
    style_layer_weights: Mapping[str, Weight] = MappingProxyType({}),
    terms: Mapping[str, tuple[Weight, Term]] = MappingProxyType({}),
) -> tuple[Float[Array, ""], Losses]:
    """Compute content_weight * content + style_weight * style + the further terms, and all parts.

    Each image of a batch has its own loss, and the scalar is the sum of these. So the gradient of
    an image is that of its own loss. Divide the scalar by the number of images for the mean.

    Gatys et al., arXiv 1508.06576, eq. 7, with the formulas of `losses.terms`. Differentiate it
    with `jax.grad(..., has_aux=True)` in its first argument.

    Args:
      image: sRGB, NHWC or HWC; of the same size as the content image that made `targets`.
      targets: from `make_targets`; they know the formula of the style terms.
      features: the network that made `targets`.
      content_weight: factor of the content loss. This and all other weights are a number, or an
        array of the batch's shape with one number for each image.
      style_weight: factor of the style loss.
      content_loss: formula of the content terms.
      content_layer_weights: factor of a layer's term in the content loss; 1 for layers not named.
      style_layer_weights: the same for the style loss.
      terms: for each name, a weight and a function that takes the image and the network's maps to
        one value for each image, such as `lambda image, maps: total_variation(image)`.

    Returns:
      The scalar, and the loss of each image with all its parts; in float32 at least.

    Raises:
      KeyError: if `features` does not return one of the layers of `targets`.
      InputError: if a weight names a layer that `targets` lack, or a weight or the value of a term
        has another shape than the batch.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from nst_jax import make_targets, style_transfer_loss
      >>> features = lambda image: {"pixels": image}
      >>> content = jnp.full((4, 6, 3), 0.5)
      >>> targets = make_targets(
      ...     features, content, content, content_layers=["pixels"], style_layers=[]
      ... )
      >>> loss, parts = style_transfer_loss(
      ...     2 * content, targets, features=features, content_weight=2.0
      ... )
      >>> float(loss), float(parts.content), float(parts.style)
      (2.0, 1.0, 0.0)
      >>> gradient, parts = jax.grad(style_transfer_loss, has_aux=True)(
      ...     content, targets, features=features
      ... )
      >>> float(abs(gradient).max())
      0.0
    """
    image = jnp.asarray(image)
    maps = features(image)
    content_terms = OrderedDict(
        (name, content_term(maps[name], target, kind=content_loss))
        for name, target in targets.content.items()
    )
    style_terms = OrderedDict(
        (name, _style_term(name, maps[name], targets)) for name in targets.style
    )
    others = OrderedDict((name, term(image, maps)) for name, (_, term) in terms.items())
    weights = LossWeights(
        content_weight,
        style_weight,
        content_layer_weights,
        style_layer_weights,
        {name: weight for name, (weight, _) in terms.items()},
    )
    zero = jnp.zeros(image.shape[:-3], accumulator(image))
    losses = weigh_terms(content_terms, style_terms, others, weights, zero=zero)
    return losses.total.sum(), losses


def _style_term(name: str, features: Any, targets: Targets) -> Float[Array, "*batch"]:
    target, kind = targets.style[name], targets.style_loss
    if targets.regions is None or isinstance(kind, StyleFormula):
        return style_term(features, target, kind=kind)
    return region_loss(features, targets.regions[name], target, kind=kind)


def weigh_terms(
    content_terms: OrderedDict[str, Float[Array, "*batch"]],
    style_terms: OrderedDict[str, Float[Array, "*batch"]],
    terms: OrderedDict[str, Float[Array, "*batch"]],
    weights: LossWeights,
    *,
    zero: Float[Array, "*batch"],
) -> Losses:
    """Add up the terms of `style_transfer_loss` with their weights.

    Args:
      content_terms: of each content layer.
      style_terms: of each style layer.
      terms: the further ones.
      weights: the factors of all terms.
      zero: the sum of no terms.

    Raises:
      InputError: see `style_transfer_loss`.
    """

    def weigh(name: str, weight: Weight, value: Array) -> Array:
        _check_shape(f"weight of {name}", jnp.shape(weight), {(), zero.shape})
        _check_shape(f"value of {name}", value.shape, {zero.shape})
        return value * weight

    def add(values: Mapping[str, Array], factors: Mapping[str, Weight], first: Any) -> Any:
        return sum((weigh(name, factors.get(name, 1.0), x) for name, x in values.items()), first)

    _check_layers("content_layer_weights", weights.content_layers, content_terms)
    _check_layers("style_layer_weights", weights.style_layers, style_terms)
    content = add(content_terms, weights.content_layers, zero)
    style = add(style_terms, weights.style_layers, zero)
    total = weigh("content", weights.content, content) + weigh("style", weights.style, style)
    total = add(terms, weights.terms, total)
    return Losses(total, content, style, content_terms, style_terms, terms)


def _check_layers(what: str, named: Iterable[str], targets: Collection[str]) -> None:
    if unknown := [name for name in named if name not in targets]:
        raise InputError(
            f"{what} name {', '.join(unknown)}; the targets have "
            f"{', '.join(targets) or 'no such layers'}"
        )


def _check_shape(what: str, shape: tuple[int, ...], allowed: Collection[tuple[int, ...]]) -> None:
    if shape not in allowed:
        shapes = " and ".join(str(list(each)) for each in sorted(allowed))
        raise InputError(
            f"the {what} has the shape {list(shape)}; allowed are {shapes}, one number for each "
            "image"
        )
