"""The terms of style transfer: pure functions of feature maps, each with its normalizer cited.

All sums are in float32 at least, whatever the dtype of the feature maps. Leading batch
dimensions are kept, so each image of a batch has its own value.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, assert_never

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nst_jax.errors import check_choice
from nst_jax.losses.statistics import (
    StyleStatistics,
    accumulator,
    as_statistics,
    covariance,
    for_matrices,
)
from nst_jax.losses.wasserstein import (
    Gaussian,
    gaussian,
    gaussian_distance,
    relative_wasserstein_loss,
    wasserstein_loss,
)

ContentLoss = Literal["relative", "mean", "half-sum"]
StyleLoss = Literal[
    "moments",
    "relative-gram",
    "pytorch",
    "gatys-paper",
    "gatys-code",
    "neural-style",
    "wasserstein",
    "relative-wasserstein",
]


class StyleFormula(NamedTuple):
    """A style loss of your own, in place of the name of one.

    Attributes:
      target: takes the style image's feature map `(h, w, c)` to any pytree of arrays.
      loss: takes the image's map `(*batch, h, w, c)` and the target to one value for each image.
    """

    target: Callable[[Any], PyTree[Array]]
    loss: Callable[[Any, PyTree[Array]], Float[Array, "*batch"]]


# The divisors of "moments" are at least this share of the style's second moment. At the recipe's
# layers the covariance's share is 0.0078 to 0.5 for paintings, drawings and photographs, and 1e-12
# to 1e-8 for plain paper and flat colors at relu1_1 (docs/presets.md).
LEAST_SHARE = 0.005


def content_loss(
    features: Float[Array, "*batch h w c"],
    target: Float[Array, "*batch h w c"],
    *,
    kind: ContentLoss = "relative",
    weights: Float[Array, "*#batch h w"] | None = None,
) -> Float[Array, "*batch"]:
    """Compute the squared difference of two feature maps.

    Args:
      features: of the image.
      target: of the content image.
      kind: "mean": over channels and positions, as in most programs. "half-sum": half the sum,
        Gatys et al., arXiv 1508.06576, eq. 1. "relative": the sum over the target's sum of squares,
        which does not depend on the scale of the activations; for a target of zeros, the sum.
      weights: factor of the squares at each position, such as a mask of the map's size; 1 by
        default. Nothing is divided by their sum: the masks of regions divide the loss into parts.

    Returns:
      One value of at least 0 for each image of the batch, in float32 at least.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import content_loss
      >>> ones = jnp.ones((4, 5, 2))
      >>> float(content_loss(1.5 * ones, ones, kind="mean"))
      0.25
      >>> float(content_loss(3 * ones, 2 * ones))  # relative: 1 over 2 squared
      0.25
    """
    check_choice("content_loss", kind, ContentLoss)
    acc = accumulator(features)
    target = target.astype(acc)
    axes = (-3, -2, -1)
    count = math.prod(features.shape[-3:])
    squares = (features.astype(acc) - target) ** 2
    if weights is not None:
        squares *= jnp.broadcast_to(weights[..., None].astype(acc), squares.shape)
    square = jnp.sum(squares, axis=axes)
    return content_loss_of(square, jnp.sum(target**2, axis=axes), count, kind=kind)


def content_loss_of(
    square: Float[Array, "*batch"],
    target_square: Float[Array, "*batch"],
    count: int,
    *,
    kind: ContentLoss = "relative",
) -> Float[Array, "*batch"]:
    """Compute `content_loss` from sums over a map, which may be summed in parts.

    Args:
      square: the sum of the squared differences.
      target_square: the sum of the target's squares.
      count: number of summed values, C H W.
      kind: see `content_loss`.
    """
    match kind:
        case "mean":
            return square / float(count)  # can exceed an int32
        case "half-sum":
            return square / 2
        case "relative":
            return square / _unit(target_square)


def style_target(
    statistics: StyleStatistics,
    *,
    positions: int | float | Float[Array, ""] | None = None,
    kind: StyleLoss = "moments",
) -> PyTree[Array]:
    """Turn a style's statistics into the target of `style_loss` of this kind.

    Args:
      statistics: of the style, or a blend.
      positions: H W of the *image's* map at this layer. Only "pytorch" uses it: its Gram matrices
        are sums, so the style's is scaled to the positions of the image; by default it is not.
      kind: see `style_loss`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import style_statistics, style_target
      >>> style = style_statistics(jnp.ones((4, 5, 2)))
      >>> style_target(style, positions=20, kind="gatys-code").tolist()  # of 20 positions, the mean
      [[1.0, 1.0], [1.0, 1.0]]
      >>> style_target(style, positions=80, kind="pytorch").tolist()  # the sum over 80
      [[80.0, 80.0], [80.0, 80.0]]
    """
    check_choice("style_loss", kind, StyleLoss)
    second = statistics.second_moment
    match kind:
        case "pytorch":  # a factor of exactly 1 if both have the same size
            positions = statistics.positions if positions is None else positions
            return statistics.gram * for_matrices(positions / statistics.positions)
        case "wasserstein" | "relative-wasserstein":
            return gaussian(statistics.mean, second)
        case "moments":
            return Gaussian(statistics.mean, covariance(statistics.mean, second))
        case _:
            return second


def style_loss(
    features: Float[Array, "*batch h w c"] | StyleStatistics,
    target: PyTree[Array],
    *,
    kind: StyleLoss | StyleFormula = "moments",
) -> Float[Array, "*batch"]:
    """Compare the features' statistics with a style's.

    G = F Fᵀ is the Gram matrix of the image's map (C channels, N positions) and S = G / N; A and T
    are the same of the style. μ and ν are the means of image and style, Σ = S − μμᵀ and Φ their
    covariances, and D = Σ (S − T)²:

    ==================== ===================================== =========================
    kind                 value                                 source
    ==================== ===================================== =========================
    moments              Σ (μ − ν)² / Σ ν² + Σ (Σ − Φ)² / Σ Φ² ours, the recipe default
    relative-gram        D / Σ T²                              ours
    pytorch              mean((G − A)²) / (C N) = D N / C³     the program reimplemented
    gatys-paper          Σ (G − A)² / (4 C² N²) = D / (4 C²)   arXiv 1508.06576, eq. 4
    gatys-code           mean((S − T)²) = D / C²               leongatys
    neural-style         mean((S/C − T/C)²) = D / C⁴           jcjohnson, the tutorial
    wasserstein          W² / C                                crowsonkb
    relative-wasserstein W² / tr T                             ours
    ==================== ===================================== =========================

    The sources are leongatys/PytorchNeuralStyleTransfer, jcjohnson/neural-style, PyTorch's neural
    style tutorial and crowsonkb/style-transfer-pytorch.

    W² is the squared Wasserstein-2 distance between the Gaussians of μ, Σ + εI and ν, Φ + εI,
    Σ (μ − ν)² + tr(Σ + Φ + 2εI) − 2 tr((Φ + εI)^½ (Σ + εI) (Φ + εI)^½)^½. The regularization ε is
    1e-4 in "wasserstein", and 1e-4 tr T / C in "relative-wasserstein"; of large activations it is
    more, four units in the last place of a covariance's norm.

    "moments" and the relative kinds do not depend on the scale of the activations, and only
    "pytorch" grows with the image's size.

    "moments" divides by Σ ν² and Σ Φ², but by no less than 0.005 tr T and 0.005 Σ T². So the mean
    of a style without contrast still counts, although the covariance Φ is almost zero. For a style
    whose map is zero, "moments" and the relative kinds divide by 1.

    Args:
      features: of the image; or its statistics, such as those of one region. The Wasserstein losses
        have fewer digits of statistics than of maps.
      target: from `style_target` of the same kind.
      kind: one of the table, or a formula of your own.

    Returns:
      One value for each image of the batch, in float32 at least.

    Raises:
      InputError: if there is no such kind.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import style_loss, style_statistics, style_target
      >>> ones = jnp.ones((4, 5, 2))
      >>> target = style_target(style_statistics(2 * ones), positions=20, kind="gatys-code")
      >>> float(style_loss(ones, target, kind="gatys-code"))  # (1 - 4) squared
      9.0
      >>> float(style_loss(2 * ones, target, kind="gatys-code"))
      0.0
    """
    if isinstance(kind, StyleFormula):
        return kind.loss(features, target)
    check_choice("style_loss", kind, StyleLoss)
    if kind not in ("wasserstein", "relative-wasserstein"):
        return style_loss_of(as_statistics(features), target, kind=kind)
    relative = kind == "relative-wasserstein"
    if isinstance(features, StyleStatistics):
        centered = covariance(features.mean, features.second_moment)
        return gaussian_distance(features.mean, centered, target, relative=relative)
    return (relative_wasserstein_loss if relative else wasserstein_loss)(features, target)


def shift_of(target: Any, kind: StyleLoss) -> Any:
    """Return what is taken off a map before it is summed for `style_loss_of`; None: nothing.

    Args:
      target: from `style_target`, or the shapes of one.
      kind: see `style_loss`.
    """
    wasserstein = kind in ("wasserstein", "relative-wasserstein")
    return target.mean if wasserstein else None


def style_loss_of(
    statistics: StyleStatistics, target: PyTree[Array], *, kind: StyleLoss = "moments"
) -> Float[Array, "*batch"]:
    """Compute `style_loss` from sums over a map, which may be summed in parts.

    Args:
      statistics: of the image's map; for the Wasserstein losses, of the map minus the target's
        mean, as a difference of large sums would have few digits left.
      target: from `style_target` of the same kind.
      kind: see `style_loss`.
    """
    channels, positions = statistics.mean.shape[-1], statistics.positions
    axes = (-2, -1)
    match kind:
        case "moments":
            return _moments_loss(statistics, target)
        case "pytorch":
            return jnp.mean((statistics.gram - target) ** 2, axis=axes) / (channels * positions)
        case "wasserstein" | "relative-wasserstein":
            mean = statistics.mean + target.mean
            centered = covariance(statistics.mean, statistics.second_moment)
            relative = kind == "relative-wasserstein"
            return gaussian_distance(mean, centered, target, relative=relative)
    square = jnp.sum((statistics.second_moment - target) ** 2, axis=axes)
    match kind:
        case "relative-gram":
            return square / _unit(jnp.sum(target**2, axis=axes))
        case "gatys-paper":
            return square / (4.0 * channels**2)
        case "gatys-code":
            return square / float(channels**2)
        case "neural-style":
            return square / float(channels**4)  # as an integer it would be too large for 32 bits
        case _:
            assert_never(kind)


def _moments_loss(statistics: StyleStatistics, target: Gaussian) -> Float[Array, "*batch"]:
    mean = statistics.mean
    ours = covariance(mean, statistics.second_moment)
    of_mean = jnp.sum((mean - target.mean) ** 2, axis=-1)
    of_covariance = jnp.sum((ours - target.covariance) ** 2, axis=(-2, -1))
    # The covariance of a style without contrast is almost zero, and so is the mean of activations
    # that cancel; neither can be a divisor then. The second moment includes both.
    second = target.covariance + target.mean[..., :, None] * target.mean[..., None, :]
    mean_unit = jnp.maximum(
        jnp.sum(target.mean**2, axis=-1),
        LEAST_SHARE * jnp.trace(second, axis1=-2, axis2=-1),
    )
    covariance_unit = jnp.maximum(
        jnp.sum(target.covariance**2, axis=(-2, -1)),
        LEAST_SHARE * jnp.sum(second**2, axis=(-2, -1)),
    )
    return of_mean / _unit(mean_unit) + of_covariance / _unit(covariance_unit)


def _unit(x: Array) -> Array:
    # A map of zeros has no scale to divide by.
    return jnp.where(x > 0, x, 1)
