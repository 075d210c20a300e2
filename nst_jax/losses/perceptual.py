"""Content and style as a loss for training other networks, on batches of their outputs."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.io.arrays import check_values
from nst_jax.losses.objective import (
    FeatureFn,
    GivenImage,
    Losses,
    Weight,
    assemble_targets,
    describe,
    style_transfer_loss,
)
from nst_jax.losses.statistics import StyleStatistics
from nst_jax.losses.terms import ContentLoss, StyleLoss


def describe_style(
    features: FeatureFn, style: GivenImage, *, layers: Sequence[str]
) -> OrderedDict[str, StyleStatistics]:
    """Take a style image's statistics, once, for `perceptual_loss`.

    Args:
      features: the network; it must return at least these layers.
      style: sRGB in [0, 1], HWC of any size; or NHWC with one for each image of later batches.
      layers: names of the maps to take statistics of.

    Returns:
      `StyleStatistics` for each layer.

    Raises:
      KeyError: if `features` does not return one of the layers.
      InputError: if a value is not finite, or more than 0.5 outside [0, 1].

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import describe_style
      >>> features = lambda images: {"pixels": images}  # any network
      >>> style = describe_style(features, jnp.ones((5, 5, 3)), layers=["pixels"])
      >>> style["pixels"].mean.tolist(), float(style["pixels"].positions)
      ([1.0, 1.0, 1.0], 25.0)
    """
    style = jnp.asarray(style)
    check_values(style, name="the style image")
    return describe(features(style), content_layers=(), style_layers=layers).statistics


def perceptual_loss(
    images: GivenImage,
    contents: GivenImage,
    *,
    features: FeatureFn,
    style: Mapping[str, StyleStatistics] = MappingProxyType({}),
    content_layers: Sequence[str],
    content_weight: Weight = 1.0,
    style_weight: Weight = 1.0,
    content_loss: ContentLoss = "relative",
    style_loss: StyleLoss = "moments",
    content_layer_weights: Mapping[str, Weight] = MappingProxyType({}),
    style_layer_weights: Mapping[str, Weight] = MappingProxyType({}),
) -> tuple[Float[Array, ""], Losses]:
    """Compare images with content images by feature maps, and with a style's statistics.

    Each image of a batch has its own loss, and the scalar is the sum of these.

    Johnson, Alahi and Fei-Fei, arXiv 1603.08155, section 3.2: `content_loss="mean"` is their
    feature reconstruction loss, and `style_loss="gatys-code"` equals their style reconstruction
    loss. The defaults are the formulas of the recipe `default`, which do not depend on the scale of
    the activations. Differentiate it in `images`, or in the parameters that made the images;
    `contents` get no gradient.

    Args:
      images: sRGB, NHWC or HWC, such as the outputs of a network in training.
      contents: the images whose content `images` should have; of the same shape.
      features: the network; it must return at least the layers named here and in `style`.
      style: from `describe_style`; without it there is no style loss, as in the perceptual
        loss of super-resolution.
      content_layers: names of the maps to compare.
      content_weight: factor of the content loss.
      style_weight: factor of the style loss.
      content_loss: see `losses.content_loss`.
      style_loss: see `losses.style_loss`.
      content_layer_weights: factor of a layer's term; 1 for layers not named.
      style_layer_weights: the same for the style loss.

    Returns:
      The sum over the batch, and the loss of each image with its parts, as `style_transfer_loss`.
      Divide the sum by `len(images)` for the mean.

    Raises:
      KeyError: if `features` does not return one of the layers.
      InputError: if a value is not finite, or more than 0.5 outside [0, 1].

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import perceptual_loss
      >>> features = lambda images: {"pixels": images}
      >>> contents = jnp.full((2, 4, 6, 3), 0.5)
      >>> loss, parts = perceptual_loss(
      ...     2 * contents, contents, features=features, content_layers=["pixels"]
      ... )
      >>> float(loss), parts.content_terms["pixels"].tolist()
      (2.0, [1.0, 1.0])
    """
    contents = jnp.asarray(contents)
    check_values(contents, name="the content image")
    maps = jax.lax.stop_gradient(features(contents))
    own = describe(maps, content_layers=content_layers, style_layers=style)
    targets = assemble_targets(own, [style], style_loss=style_loss)
    return style_transfer_loss(
        images,
        targets,
        features=features,
        content_weight=content_weight,
        style_weight=style_weight,
        content_loss=content_loss,
        content_layer_weights=content_layer_weights,
        style_layer_weights=style_layer_weights,
    )
