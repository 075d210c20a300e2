"""What is minimized: content and style targets, and one scalar loss of one image.

Nothing here knows VGG: a feature network is any callable from an image to named maps.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from nst_jax.losses import accumulator, content_loss, gram_matrix, style_loss

Image = Float[Array, "*batch height width 3"]
FeatureFn = Callable[[Image], Mapping[str, Array]]
Weight = float | Num[Array, ""]


class Targets(NamedTuple):
    """What the image is pulled toward.

    Attributes:
      content: the content image's feature map (*batch, h, w, c) for each content layer.
      style: the style image's Gram matrix (*batch, c, c) for each style layer.
    """

    content: OrderedDict[str, Array]
    style: OrderedDict[str, Array]


class Losses(NamedTuple):
    """The loss and its parts, scalars that are summed over a batch.

    Attributes:
      total: content_weight * content + style_weight * style.
      content: sum of `content_terms`.
      style: sum of `style_terms`.
      content_terms: unweighted `losses.content_loss` of each content layer.
      style_terms: unweighted `losses.style_loss` of each style layer.
    """

    total: Float[Array, "*steps"]
    content: Float[Array, "*steps"]
    style: Float[Array, "*steps"]
    content_terms: OrderedDict[str, Float[Array, "*steps"]]
    style_terms: OrderedDict[str, Float[Array, "*steps"]]


def make_targets(
    features: FeatureFn,
    content: Image,
    style: Float[Array, "*style_batch style_height style_width 3"],
    *,
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
) -> Targets:
    """Take the content image's feature maps and the style image's Gram matrices.

    Args:
      features: the network; it must return at least the layers named below.
      content: sRGB in [0, 1], NHWC or HWC.
      style: the same, of any size; one style image serves a whole batch of contents.
      content_layers: names of the maps to keep.
      style_layers: names of the maps to take Gram matrices of.

    Raises:
      KeyError: if `features` does not return one of the layers.
    """
    content_maps, style_maps = features(content), features(style)
    return Targets(
        content=OrderedDict((name, content_maps[name]) for name in content_layers),
        style=OrderedDict(
            (name, jnp.broadcast_to(gram, (*content.shape[:-3], *gram.shape[-2:])))
            for name in style_layers
            for gram in [gram_matrix(style_maps[name])]
        ),
    )


def style_transfer_loss(
    image: Image,
    targets: Targets,
    *,
    features: FeatureFn,
    content_weight: Weight = 1.0,
    style_weight: Weight = 100.0,
) -> tuple[Float[Array, ""], Losses]:
    """Compute content_weight * content + style_weight * style, and all their terms.

    Gatys et al., arXiv 1508.06576, eq. 7, with the normalizers of `nst_jax.losses`; every layer has
    weight 1. Differentiate it with `jax.grad(..., has_aux=True)` in its first argument.

    Args:
      image: sRGB, NHWC or HWC; of the same size as the content image that made `targets`.
      targets: from `make_targets`.
      features: the same network as there.
      content_weight: factor of the content loss, summed over its layers.
      style_weight: factor of the style loss, summed over its layers.

    Raises:
      KeyError: if `features` does not return one of the layers of `targets`.
    """
    maps = features(image)
    content_terms = OrderedDict(
        (name, content_loss(maps[name], target).sum()) for name, target in targets.content.items()
    )
    style_terms = OrderedDict(
        (name, style_loss(maps[name], target).sum()) for name, target in targets.style.items()
    )
    zero = jnp.zeros((), accumulator(image))  # the sum of no layers
    content = sum(content_terms.values(), start=zero)
    style = sum(style_terms.values(), start=zero)
    total = content_weight * content + style_weight * style
    return total, Losses(total, content, style, content_terms, style_terms)
