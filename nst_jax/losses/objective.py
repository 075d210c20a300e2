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
Maps = Mapping[str, Any]
FeatureFn = Callable[[Image], Maps]
Weight = float | Num[Array | np.ndarray, ""] | Num[Array | np.ndarray, "*batch"]
Term = Callable[[Image, Maps], Float[Array, "*batch"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """What the image is pulled toward, a pytree.

    Attributes:
      content: the content image's feature map `(*batch, h, w, c)` for each content layer.
      style: the result of `losses.style_target` for each style layer.
      style_loss: the formula that `style` is for; static.
    """

    content: PyTree
    style: PyTree
    style_loss: StyleLoss | StyleFormula = dataclasses.field(metadata={"static": True})


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
    style: Float[Array | np.ndarray, "*style_batch style_height style_width 3"],
    *,
    content_layers: Sequence[str],
    style_layers: Sequence[str],
    style_loss: StyleLoss | StyleFormula = "moments",
) -> Targets:
    """Take the content image's feature maps and the style image's statistics.

    Args:
      features: the network; it must return at least the layers named below.
      content: sRGB in [0, 1], NHWC or HWC.
      style: sRGB in [0, 1], NHWC or HWC, of any size; one image serves a whole batch of contents.
      content_layers: names of the maps to keep.
      style_layers: names of the maps to take statistics of.
      style_loss: the formula of the style terms; see `losses.style_loss`.

    Raises:
      KeyError: if `features` does not return one of the layers.
      InputError: if a value is not finite, or more than 0.5 outside [0, 1].

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
    content, style = jnp.asarray(content), jnp.asarray(style)
    check_values(content, name="the content image")
    check_values(style, name="the style image")
    maps, style_maps = features(content), features(style)
    if isinstance(style_loss, StyleFormula):
        kept, _ = describe(maps, content_layers=content_layers, style_layers=())
        own = OrderedDict((name, style_loss.target(style_maps[name])) for name in style_layers)
        return Targets(kept, own, style_loss)
    kept, like = describe(maps, content_layers=content_layers, style_layers=style_layers)
    _, statistics = describe(style_maps, content_layers=(), style_layers=style_layers)
    return assemble_targets(kept, like, [statistics], style_loss=style_loss)


def describe(
    maps: Maps, *, content_layers: Iterable[str], style_layers: Iterable[str]
) -> tuple[OrderedDict[str, Array], OrderedDict[str, StyleStatistics]]:
    """Return the content layers' feature maps and the style layers' statistics of an image.

    Args:
      maps: (*batch, h, w, c) each, by name; a style layer may have `StyleStatistics` instead.
      content_layers: names of the maps to keep.
      style_layers: names of the maps to take statistics of.

    Raises:
      KeyError: if one of the layers is not among the maps.
    """
    return (
        OrderedDict((name, maps[name]) for name in content_layers),
        OrderedDict((name, as_statistics(maps[name])) for name in style_layers),
    )


def assemble_targets(
    content: OrderedDict[str, Array],
    like: Mapping[str, StyleStatistics],
    statistics: Sequence[Mapping[str, StyleStatistics]],
    *,
    style_loss: StyleLoss = "moments",
    style_blend: Sequence[float | Float[Array, ""]] = (),
) -> Targets:
    """Make targets from the results of `describe` for the content image and the style images.

    Args:
      content: the content image's feature map for each content layer.
      like: the content image's statistics for each style layer; the targets get the same batch
        and number of positions.
      statistics: for each style image, the statistics of each style layer.
      style_loss: see `make_targets`.
      style_blend: each style's share; equal shares if empty.
    """
    shares = style_blend or (1.0,) * len(statistics)
    style: OrderedDict[str, PyTree[Array]] = OrderedDict()
    for name, own in like.items():
        blended = blend_statistics([each[name] for each in statistics], shares)
        target = style_target(blended, kind=style_loss, positions=own.positions)
        style[name] = _spread(target, blended.mean.ndim - 1, own.mean.shape[:-1])
    return Targets(content, style, style_loss)


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
        (name, style_term(maps[name], target, kind=targets.style_loss))
        for name, target in targets.style.items()
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
