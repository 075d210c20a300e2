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

from nst_jax.linear import linear_call


def accumulator(x: Array) -> np.dtype:
    """Return the dtype to sum in: float32, or the dtype of `x` if it is wider."""
    return x.dtype if x.dtype.itemsize > 4 else np.dtype(np.float32)


@jax.custom_jvp
def gram_matrix(features: Float[Array, "*batch h w c"]) -> Float[Array, "*batch c c"]:
    """Sum over positions of the products of channels, G = F Fᵀ with F the C x (H W) map.

    Gatys et al., arXiv 1508.06576, eq. 3. The sum is not normalized; each loss divides it by its
    own normalizer. The gradient is (S + Sᵀ) F for a cotangent S, one matrix product in the layout
    of the map; JAX's own rule computes two products in another layout and transposes them.

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
    return _channel_products(features, features)


def _channel_products(f: Array, g: Array) -> Array:
    height, width, channels = f.shape[-3:]
    product = functools.partial(jnp.einsum, preferred_element_type=accumulator(f))

    def at_once(f: Array, g: Array) -> Array:
        return product("...hwc,...hwd->...cd", f, g)

    def by_rows(f: Array, g: Array) -> Array:
        return product("...hwc,...hwd->...hcd", f, g).sum(-3)

    # XLA's CPU backend transposes the map first. The numbers of one position then lie so far apart
    # that the copy takes longer than the product. Measured in float32: docs/performance.md.
    if f.dtype == jnp.float32 and channels <= 128 and height * width >= 8 * channels**2:
        products: Array = jax.lax.platform_dependent(f, g, cpu=by_rows, default=at_once)
        return products
    return at_once(f, g)


@gram_matrix.defjvp
def _gram_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (features,) = primals
    gram = gram_matrix(features)
    return gram, linear_call(_gram_tangent, _gram_cotangent, features, *tangents, like=gram)


def _gram_tangent(features: Array, tangent: Array) -> Array:
    half = _channel_products(features, tangent)
    return half + half.swapaxes(-1, -2)


def _gram_cotangent(features: Array, cotangent: Array) -> Array:
    both = (cotangent + cotangent.swapaxes(-1, -2)).astype(features.dtype)
    return jnp.einsum("...hwc,...cd->...hwd", features, both)


class StyleStatistics(NamedTuple):
    """The statistics that every style loss is computed from; `blend_statistics` averages several.

    Attributes:
      gram: the Gram matrix, `(*batch, c, c)`.
      mean: the mean of each channel over positions, `(*batch, c)`.
      positions: how many positions, H W, were summed over, or the sum of their weights; a number,
        or one for each image of the batch.
    """

    gram: Float[Array, "*batch c c"]
    mean: Float[Array, "*batch c"]
    positions: Float[Array, "*#batch"]

    @property
    def second_moment(self) -> Float[Array, "*batch c c"]:
        """The mean over positions of the products of channels."""
        return self.gram / for_matrices(self.positions)


def for_matrices(values: Float[Array, "*#batch"]) -> Float[Array, "..."]:
    """Give one value for each image the axes of one matrix for each; leave a number as it is."""
    return values[..., None, None] if values.ndim else values


def covariance(
    mean: Float[Array, "*batch c"], second_moment: Float[Array, "*batch c c"]
) -> Float[Array, "*batch c c"]:
    """Return S - μ μᵀ, with S the second moment: the mean over positions of channel products."""
    return second_moment - mean[..., :, None] * mean[..., None, :]


def style_statistics(
    features: Float[Array, "*batch h w c"], *, weights: Float[Array, "*#batch h w"] | None = None
) -> StyleStatistics:
    """Return a feature map's Gram matrix and mean, which all style terms are computed from.

    With weights these are the guided Gram matrix and mean of a region, Gatys et al.,
    arXiv 1611.07865, eq. 4; here the sums are divided by the sum of the weights.

    Args:
      features: a map of any float type, of any units.
      weights: how much each position counts, at least 0, such as a mask of the map's size; 1 by
        default. Where all are 0, so are the statistics.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import style_statistics
      >>> features = jnp.ones((4, 6, 2)).at[:, 3:].set(5.0)
      >>> left = jnp.zeros((4, 6)).at[:, :3].set(1.0)  # a mask
      >>> region = style_statistics(features, weights=left)
      >>> region.mean.tolist(), float(region.positions)
      ([1.0, 1.0], 12.0)
    """
    acc = accumulator(features)
    if weights is None:
        mean = jnp.mean(features.astype(acc), axis=(-3, -2))
        positions = jnp.asarray(features.shape[-3] * features.shape[-2], acc)
        return StyleStatistics(gram_matrix(features), mean, positions)
    weights = jnp.broadcast_to(weights.astype(acc), features.shape[:-1])
    each = weights[..., None] * features.astype(acc)
    gram = jnp.einsum("...hwc,...hwd->...cd", each, features.astype(acc))
    total = weights.sum((-2, -1))
    positions = jnp.where(total > 0, total, 1)
    return StyleStatistics(gram, each.sum((-3, -2)) / positions[..., None], positions)


def as_statistics(features: Float[Array, "*batch h w c"] | StyleStatistics) -> StyleStatistics:
    """Return the statistics of a map, or statistics as they are."""
    return features if isinstance(features, StyleStatistics) else style_statistics(features)


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
        gram += share * each.gram * for_matrices(first.positions / each.positions)
        mean += share * each.mean
    return StyleStatistics(gram, mean, first.positions)
