"""The sizes of pictures: proportions, the sizes of a run's scales, resampling, and borders."""

import bisect
import functools
import itertools
import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.errors import InputError

Method = Literal["lanczos3", "cubic", "linear"]
Side = Literal["longest", "shortest"]
Wrap = Literal["none", "x", "both"]
Ends = Literal["meet", "repeat"]
Shape = tuple[int, int]
Size = int | str  # see `plain_size`
SIZES = (  # more digits would overflow numbers of XLA
    "px of one side as 512, WIDTHxHEIGHT as 1920x1080 (7 digits at most), megapixels as 12MP, "
    "original or max"
)


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


def plain_size(value: object) -> Size:
    """Return a size as `fit` takes it: 512, "1920x1080", "12MP", "original" or "max".

    Args:
      value: in a text spaces, and the case of letters, do not matter.

    Raises:
      InputError: if it is none of these.
    """
    known = isinstance(value, str) or type(value) is int  # True is an int, but no length
    text = str(value).lower().replace("×", "x").replace(" ", "") if known else ""
    if text in ("original", "max"):
        return text
    if re.fullmatch("0*[1-9][0-9]{0,6}", text):
        return int(text)
    if re.fullmatch("0*[1-9][0-9]{0,6}x0*[1-9][0-9]{0,6}", text):
        return "x".join(str(int(side)) for side in text.split("x"))
    if re.fullmatch(r"([0-9]{1,9}\.?[0-9]*|\.[0-9]+)mp", text) and (pixels := _pixels(text)):
        return f"{Decimal(pixels) / 10**6:f}MP"
    raise InputError(f"size is {value!r}; it must be {SIZES}")


def _pixels(megapixels: str) -> int:
    return int(Decimal(megapixels[:-2]) * 10**6)


def fit(height: int, width: int, size: Size, *, side: Side = "longest") -> Shape:
    """Return the (height, width) of a picture of some size, with the proportions of an image.

    A number is the length of one side in px, "1920x1080" the width and the height in px that the
    picture fits into, and "12MP" the millions of px that it has at most; it is as large as that
    allows. "original" is the image's own size. Sides are rounded, half a pixel to an even number,
    and have at least 1 px.

    Args:
      height: of the image, in px.
      width: of the image, in px.
      size: from `plain_size`.
      side: the side that a number is the length of.

    Raises:
      InputError: for "max", which the memory decides.
    """
    match size:
        case int():
            ratio = Fraction(size, side_of((height, width), side))
        case "original":
            ratio = Fraction(1)
        case "max":
            raise InputError("size is max, which the main command alone finds; give a number of px")
        case _ if size.endswith("MP"):
            most = _pixels(size)
            lengths = range(1, most + 1)
            longest = bisect.bisect(lengths, most, key=lambda n: math.prod(fit(height, width, n)))
            return fit(height, width, longest)
        case _:
            most_width, most_height = map(int, size.split("x"))
            ratio = min(Fraction(most_width, width), Fraction(most_height, height))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def wrapped_sides(wrap: Wrap) -> tuple[bool, bool]:
    """Say of the height and of the width whether their two ends meet."""
    return wrap == "both", wrap != "none"


@functools.partial(jax.jit, static_argnames=("shape", "method", "wrap"))
def resample(
    image: Float[Array, "*batch h w c"],
    shape: Shape,
    *,
    method: Method = "lanczos3",
    wrap: Wrap = "none",
) -> Float[Array, "*batch p q c"]:
    """Resample an image to (height, width) px; smoothed first where it shrinks.

    Nothing is clipped: lanczos3 and cubic overshoot at edges. An image that has the shape already
    is returned as it is.

    Args:
      image: a picture or a feature map, of any units.
      shape: (height, width) of the result in px.
      method: how values between positions are found, as in `jax.image.resize`.
      wrap: the sides whose two ends meet; x: left and right, both: also top and bottom.
    """
    before, whole = image.shape[-3:-1], (*image.shape[:-3], *shape, image.shape[-1])
    if before == shape:
        return image
    if wrap == "none":
        found: Array = jax.image.resize(image, whole, method)
        return found
    # Far enough for the widest kernel, of three pixels of the smaller size on each side.
    added = [
        wraps * (3 * math.ceil(max(1, old / new)) + 1)
        for wraps, old, new in zip(wrapped_sides(wrap), before, shape, strict=True)
    ]
    edges = [(0, 0)] * (image.ndim - 3) + [(n, n) for n in added] + [(0, 0)]
    scale = [new / old for old, new in zip(before, shape, strict=True)]
    shift = [-n * ratio for n, ratio in zip(added, scale, strict=True)]
    axes, kind = (image.ndim - 3, image.ndim - 2), image.dtype
    around = jnp.pad(image, edges, mode="wrap")
    found = jax.image.scale_and_translate(
        around, whole, axes, jnp.asarray(scale, kind), jnp.asarray(shift, kind), method
    )
    return found


def pad_border(
    x: Float[Array, "*batch h w c"],
    *,
    wrap: Wrap = "none",
    ends: Ends = "meet",
    repeat: bool = True,
) -> Float[Array, "*batch p q c"]:
    """Pad a map by one row or column at each end of its sides.

    `jnp.pad` slices all axes, which JAX refuses where the batch has an explicit sharding.

    Args:
      x: the map.
      wrap: the sides whose ends are padded: meet: each with the values at the other end; repeat:
        each with its own once more.
      ends: see `wrap`.
      repeat: whether the ends of the other sides get their own values once more, or nothing.
    """
    for axis, wraps in zip((x.ndim - 3, x.ndim - 2), wrapped_sides(wrap), strict=True):
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, -1, None, axis=axis)
        if wraps and ends == "meet":
            x = jnp.concatenate([last, x, first], axis=axis)
        elif wraps or repeat:
            x = jnp.concatenate([first, x, last], axis=axis)
    return x
