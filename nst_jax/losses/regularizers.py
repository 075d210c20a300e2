"""Terms of the image alone: pure functions of sRGB images, one value for each image."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.errors import check_choice
from nst_jax.geometry import Wrap, pad_border, wrapped_sides

TotalVariation = Literal["nine-point", "l2", "l1"]


class Anchor(NamedTuple):
    """What a picture stays close to: the picture before, as it lies in this one.

    Attributes:
      picture: sRGB.
      mask: how much each of its pixels counts.
    """

    picture: Float[Array, "*batch height width 3"]
    mask: Float[Array, "*batch height width 1"]


class Summand(NamedTuple):
    """A part of a regularizer before it is summed over the image.

    Attributes:
      values: at each position of the image.
      factor: of the sum of the values.
      before: how many rows and how many columns of values precede those of the first pixel.
    """

    values: Float[Array, "*batch rows columns 3"]
    factor: float
    before: tuple[int, int] = (0, 0)


def add_up(summands: Iterable[Summand]) -> Float[Array, "*batch"]:
    """Return the regularizer, one value for each image of the batch."""
    first, *others = (x.factor * jnp.sum(x.values, (-3, -2, -1)) for x in summands)
    return sum(others, first)


def total_variation(
    image: Float[Array, "*batch h w 3"],
    *,
    kind: TotalVariation = "nine-point",
    weights: Float[Array, "*#batch h w"] | None = None,
    wrap: Wrap = "none",
) -> Float[Array, "*batch"]:
    """Sum up how much neighboring pixels differ.

    Args:
      image: sRGB in [0, 1]; an image of s times the values has s² times the result ("l1": s).
      kind: "nine-point": mean squares of the differences to all eight neighbors, the diagonal ones
        with a quarter of the others' weight; the border is repeated once. For equal slopes
        the result does not depend on the image's size. crowsonkb/style-transfer-pytorch, `TVLoss`.
        "l2": half the sum of the squared differences to the right and lower neighbors, without the
        last row and column. jcjohnson/neural-style, `TVLoss`, which computes only the gradient;
        there of an image in [0, 256].
        "l1": the sum of the absolute differences to the right and lower neighbors.
        ProGamerGov/neural-style-pt, `TVLoss`; there of an image in [0, 256].
      weights: factor of each pixel's differences to its right and lower neighbors, such as a mask;
        1 by default. Nothing is divided by their sum.
      wrap: the sides whose two ends are neighbors; x: left and right, both: also top and bottom.

    Returns:
      One value of at least 0 for each image of the batch.

    Raises:
      InputError: if there is no such kind, or no such wrap.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import total_variation
      >>> flat = jnp.full((4, 6, 3), 0.5)
      >>> float(total_variation(flat))
      0.0
      >>> edge = flat.at[:, 3:].add(0.25)  # 4 rows of 3 colors
      >>> float(total_variation(edge, kind="l1"))
      3.0
    """
    check_choice("kind", kind, TotalVariation)
    check_choice("wrap", wrap, Wrap)
    summands = variation_summands(image, kind=kind, shape=image.shape[-3:-1], wrap=wrap)
    return add_up(summands if weights is None else _weighted(summands, weights))


def _weighted(summands: Iterable[Summand], weights: Array) -> list[Summand]:
    """Multiply the values at each pixel; the ones before the first row and column as that has."""

    def times(x: Summand) -> Summand:
        edges = [(0, 0)] * (weights.ndim - 2) + [(n, 0) for n in x.before]
        rows, columns = x.values.shape[-3:-1]
        own = jnp.pad(weights, edges, mode="edge")[..., :rows, :columns, None]
        return x._replace(values=x.values * jnp.broadcast_to(own, x.values.shape))

    return [times(x) for x in summands]


def variation_summands(
    image: Float[Array, "*batch h w 3"],
    *,
    kind: TotalVariation,
    shape: tuple[int, ...],
    wrap: Wrap = "none",
) -> list[Summand]:
    """Return the summands of `total_variation`.

    Args:
      image: sRGB in [0, 1], or a window of one, which does not wrap.
      kind: see `total_variation`.
      shape: (height, width) of the whole image.
      wrap: see `total_variation`.
    """
    around = pad_border(image, wrap=wrap, repeat=kind == "nine-point")
    # Pairs across a seam are counted once, with the last row or column.
    rows, columns = map(int, wrapped_sides(wrap))
    x = around[..., rows:, columns:, :]
    match kind:
        case "nine-point":
            inner = around[..., 1:-1, 1:-1, :]
            right, down = around[..., 1:-1, 2:, :] - inner, around[..., 2:, 1:-1, :] - inner
            falling = x[..., 1:, 1:, :] - x[..., :-1, :-1, :]
            rising = x[..., 1:, :-1, :] - x[..., :-1, 1:, :]
            height, width = map(float, shape)  # their product can exceed an int32
            above, left = 1 - rows, 1 - columns
            corners = 1 / (18 * (height + above) * (width + left))
            return [
                Summand(right**2 + down**2, 2 / (9 * height * width)),
                Summand(falling**2 + rising**2, corners, before=(above, left)),
            ]
        case "l2":
            right, down = _differences(x)
            return [
                Summand(right[..., :-1, :, :] ** 2, 1 / 2),
                Summand(down[..., :, :-1, :] ** 2, 1 / 2),
            ]
        case "l1":
            right, down = _differences(x)
            right, down = right[..., : image.shape[-3], :, :], down[..., : image.shape[-2], :]
            return [Summand(_magnitude(right), 1.0), Summand(_magnitude(down), 1.0)]
        case _:
            assert_never(kind)


def _magnitude(x: Array) -> Array:
    # The gradient of jnp.abs is 1 at zero; torch's is 0, and a flat picture should stay flat.
    return x * jax.lax.stop_gradient(jnp.sign(x))


def _differences(image: Array) -> tuple[Array, Array]:
    return (
        image[..., :, 1:, :] - image[..., :, :-1, :],
        image[..., 1:, :, :] - image[..., :-1, :, :],
    )


def range_penalty(
    image: Float[Array, "*batch h w 3"], *, weights: Float[Array, "*#batch h w"] | None = None
) -> Float[Array, "*batch"]:
    """Mean squared distance of the values from [0, 1], the range that a picture can show.

    Args:
      image: sRGB.
      weights: factor of the squares of each pixel, such as a mask; 1 by default. Nothing is divided
        by their sum.
    """
    summands = range_summands(image, shape=image.shape[-3:-1])
    return add_up(summands if weights is None else _weighted(summands, weights))


def range_summands(image: Float[Array, "*batch h w 3"], *, shape: tuple[int, ...]) -> list[Summand]:
    """Return the summands of `range_penalty` of an image of this shape, or of a window of one."""
    height, width = map(float, shape)
    return [Summand((image - jnp.clip(image, 0, 1)) ** 2, 1 / (3 * height * width))]


def temporal_loss(
    image: Float[Array, "*batch h w 3"],
    previous: Float[Array, "*#batch h w 3"],
    *,
    mask: Float[Array, "*#batch h w"] | None = None,
) -> Float[Array, "*batch"]:
    """Mean squared difference of a frame from the one before it, where that shows the same.

    Ruder, Dosovitskiy and Brox, arXiv 1604.08610, the short-term temporal loss.

    Args:
      image: sRGB in [0, 1].
      previous: the frame before, moved by `warp`.
      mask: factor of the squares of each pixel, as from `seen_before`; 1 by default. Nothing is
        divided by their sum.
    """
    over = jnp.ones(image.shape[:-1], image.dtype) if mask is None else mask
    anchor = Anchor(
        jnp.broadcast_to(previous, image.shape),
        jnp.broadcast_to(over[..., None], (*image.shape[:-1], 1)),
    )
    return add_up(temporal_summands(image, shape=image.shape[-3:-1], anchor=anchor))


def temporal_summands(
    image: Float[Array, "*batch h w 3"], *, shape: tuple[int, ...], anchor: Anchor
) -> list[Summand]:
    """Return the summands of `temporal_loss` of an image of this shape, or of a window of one."""
    height, width = map(float, shape)
    values = anchor.mask * (image - anchor.picture) ** 2
    return [Summand(jnp.broadcast_to(values, image.shape), 1 / (3 * height * width))]
