"""The statistics of style: Gram matrices and means of feature maps, and blends of several styles.

All sums are in float32 at least, whatever the dtype of the feature maps: Gram sums overflow
float16, and lose their digits in bfloat16. Leading batch dimensions are kept.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def accumulator(x: Array) -> np.dtype:
    """Return the dtype to sum in: float32, or the dtype of `x` if it is wider."""
    return x.dtype if x.dtype.itemsize > 4 else np.dtype(np.float32)


@jax.custom_vjp
def gram_matrix(features: Float[Array, "*batch h w c"]) -> Float[Array, "*batch c c"]:
    """Sum over positions of the products of channels, G = F Fᵀ with F the C x (H W) map.

    Gatys et al., arXiv 1508.06576, eq. 3. The sum is not normalized; each loss divides it by its
    own normalizer. The gradient is (S + Sᵀ) F for a cotangent S, one matrix product in the layout
    of the map; JAX's own rule computes two products in another layout and transposes them. Reverse
    mode only, as `jax.custom_vjp` is.

    Args:
      features: a map of any float type, of any units.

    Returns:
      The sums, in float32 at least.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import gram_matrix
      >>> features = jnp.ones((4, 5, 2))  # height, width, channels
      >>> gram_matrix(features).tolist()
      [[20.0, 20.0], [20.0, 20.0]]
    """
    height, width, channels = features.shape[-3:]
    product = functools.partial(jnp.einsum, preferred_element_type=accumulator(features))

    def at_once(x: Array) -> Array:
        return product("...hwc,...hwd->...cd", x, x)

    def by_rows(x: Array) -> Array:
        return product("...hwc,...hwd->...hcd", x, x).sum(-3)

    # XLA's CPU backend transposes the map first. The numbers of one position then lie so far apart
    # that the copy takes longer than the product. Measured in float32: docs/performance.md.
    if features.dtype == jnp.float32 and channels <= 128 and height * width >= 8 * channels**2:
        gram: Array = jax.lax.platform_dependent(features, cpu=by_rows, default=at_once)
        return gram
    return at_once(features)


def _gram_forward(features: Array) -> tuple[Array, Array]:
    return gram_matrix(features), features


def _gram_backward(features: Array, cotangent: Array) -> tuple[Array]:
    both = (cotangent + cotangent.swapaxes(-1, -2)).astype(features.dtype)
    return (jnp.einsum("...hwc,...cd->...hwd", features, both),)


gram_matrix.defvjp(_gram_forward, _gram_backward)


class StyleStatistics(NamedTuple):
    """The statistics that every style loss is computed from; `blend_statistics` averages several.

    Attributes:
      gram: the Gram matrix, `(*batch, c, c)`.
      mean: the mean of each channel over positions, `(*batch, c)`.
      positions: how many positions, H W, were summed over.
    """

    gram: Float[Array, "*batch c c"]
    mean: Float[Array, "*batch c"]
    positions: Float[Array, ""]


def covariance(
    mean: Float[Array, "*batch c"], second_moment: Float[Array, "*batch c c"]
) -> Float[Array, "*batch c c"]:
    """Return S - μ μᵀ, with S the second moment: the mean over positions of channel products."""
    return second_moment - mean[..., :, None] * mean[..., None, :]


def style_statistics(features: Float[Array, "*batch h w c"]) -> StyleStatistics:
    """Return a feature map's Gram matrix and mean, which all style terms are computed from.

    Args:
      features: a map of any float type, of any units.
    """
    acc = accumulator(features)
    return StyleStatistics(
        gram_matrix(features),
        jnp.mean(features.astype(acc), axis=(-3, -2)),
        jnp.asarray(features.shape[-3] * features.shape[-2], acc),
    )


def blend_statistics(
    statistics: Sequence[StyleStatistics], weights: Sequence[float | Float[Array, ""]]
) -> StyleStatistics:
    """Average the statistics of several styles, in the proportions of `weights`.

    Means, and Gram matrices divided by their positions, are averaged, so the maps may have any
    sizes. One large image made of the styles in these proportions would have the same statistics.
    For losses that are squared differences of Gram matrices, the gradient is the same as that of
    the weighted sum of each style's own loss, as in jcjohnson/neural-style.
    """
    first, *others = statistics
    if not others:
        return first
    shares = [weight / sum(weights) for weight in weights]
    gram, mean = shares[0] * first.gram, shares[0] * first.mean
    for share, each in zip(shares[1:], others, strict=True):
        gram += share * each.gram * (first.positions / each.positions)
        mean += share * each.mean
    return StyleStatistics(gram, mean, first.positions)
