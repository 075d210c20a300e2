"""The sizes of pictures: proportions, the sizes of a run's scales, resampling, and borders."""

import functools
import itertools
from fractions import Fraction
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Method = Literal["lanczos3", "cubic", "linear"]
Side = Literal["longest", "shortest"]
Shape = tuple[int, int]


def scales(height: int, width: int, *, min_size: int, factor: float | int) -> tuple[Shape, ...]:
    """Return the (height, width) of each scale in px, the smallest first, the given one last.

    From one scale to the next the sides grow by `factor`; the longest is at least `min_size` px.
    They are counted down from the last, as in crowsonkb/style-transfer-pytorch.

    Args:
      height: of the last scale, in px.
      width: of the last scale, in px.
      min_size: of the longest side of the first scale, in px; 0 gives one scale only, as does
        a picture that is no larger.
      factor: more than 1.
    """
    found: list[Shape] = [(height, width)]
    for number in itertools.count(1):
        size = round(max(height, width) / factor**number)
        if not min_size or size < min_size:
            break
        shape = fit(height, width, size)
        if shape != found[-1]:  # rounding can take a small factor back
            found.append(shape)
    return tuple(reversed(found))


def shape_of(image: Float[np.ndarray | Array, "..."]) -> Shape:
    """Return an image's (height, width)."""
    height, width = image.shape[-3:-1]
    return height, width


def side_of(shape: Shape, side: Side) -> int:
    """Return the length of the longest or the shortest side."""
    return max(shape) if side == "longest" else min(shape)


def fit(height: int, width: int, size: int, *, side: Side = "longest") -> Shape:
    """Return the shape of the same proportions that has one side of `size` px, the longest say.

    It is exact for every whole number, and half a pixel is rounded to an even number of them.
    """
    given = side_of((height, width), side)
    return (
        max(1, round(Fraction(height * size, given))),
        max(1, round(Fraction(width * size, given))),
    )


@functools.partial(jax.jit, static_argnames=("shape", "method"))
def resample(
    image: Float[Array, "*batch h w c"], shape: Shape, *, method: Method = "lanczos3"
) -> Float[Array, "*batch p q c"]:
    """Resample an image to (height, width) px; smoothed first where it shrinks.

    Nothing is clipped: lanczos3 and cubic overshoot at edges. An image that has the shape already
    is returned as it is.

    Args:
      image: a picture or a feature map, of any units.
      shape: (height, width) of the result in px.
      method: how values between positions are found, as in `jax.image.resize`.
    """
    if image.shape[-3:-1] == shape:
        return image
    found: Array = jax.image.resize(image, (*image.shape[:-3], *shape, image.shape[-1]), method)
    return found


def repeat_border(x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h+2 w+2 c"]:
    """Pad a map's height and width by one on each side with the values at its border.

    `jnp.pad(..., mode="edge")` slices all axes, which JAX refuses where the batch has an explicit
    sharding.
    """
    for axis in (x.ndim - 3, x.ndim - 2):
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, -1, None, axis=axis)
        x = jnp.concatenate([first, x, last], axis=axis)
    return x
