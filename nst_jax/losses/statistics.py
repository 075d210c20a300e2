"""What style terms are made from: Gram matrices and means of feature maps, and blends of them.

All sum in float32 at least, whatever the feature maps are stored in: Gram sums overflow float16,
and bfloat16 would lose them. Leading batch dimensions are kept.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def accumulator(x: Array) -> np.dtype:
    """Return the type to sum in: float32, or that of `x` if it is wider."""
    return x.dtype if x.dtype.itemsize > 4 else np.dtype(np.float32)


@jax.custom_vjp
def gram_matrix(features: Float[Array, "*batch h w c"]) -> Float[Array, "*batch c c"]:
    """Sum over positions of the products of channels, G = F Fᵀ with F the C x (H W) map.

    Gatys et al., arXiv 1508.06576, eq. 3. It is not divided by anything here; the losses that use
    it name their own normalizer. The gradient is (S + Sᵀ) F for a cotangent S, one product in the
    layout of the map; JAX's own rule makes two in another layout and transposes them. Reverse mode
    only, as `jax.custom_vjp` is.

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

    # XLA's CPU backend turns a map around first, and then the numbers of one position lie so far
    # apart that copying takes longer than multiplying. Measured in float32: docs/performance.md.
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
    """What every style loss is made from; its fields are sums, so those of several styles blend.

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
    """Return S - μ μᵀ, with S the mean over positions of the products of channels."""
    return second_moment - mean[..., :, None] * mean[..., None, :]


def style_statistics(features: Float[Array, "*batch h w c"]) -> StyleStatistics:
    """Describe a feature map by its Gram matrix and its mean, all that style terms look at.

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
    """Average the statistics of several styles, of maps of any sizes, with the weights' shares.

    Means and Gram matrices over positions are averaged, which is what one large image that is made
    of the styles in these shares would have. For losses that are squares of a difference of Gram
    matrices it has the same gradient as the weighted sum of each style's own loss, which is how
    jcjohnson/neural-style blends.
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
