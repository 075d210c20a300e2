"""Windows that cover a picture, and the part of the picture that each of them answers for.

Sums over a picture's positions are sums over such parts, to the last position. A window is larger
than its part by a margin as wide as what one position of the deepest layer sees, so that the part's
maps are those of the whole picture.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from nst_jax.network.architecture import STRIDE


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
    """The part of a picture that a window answers for; a pytree.

    Attributes:
      bounds: first row, end of the rows, first column, end of the columns, in px of the window:
        multiples of 16, or an end of the picture. Integers, (4,).
      shape: (height, width) of the whole picture; static.
    """

    bounds: Any
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def inside(self, height: int, width: int, *, stride: int = 1) -> Bool[Array, "height width"]:
        """Say for each position of the window's map whether it is the part's."""
        top, bottom, left, right = (self.bounds // stride)[:, None, None]
        row = jnp.arange(height, dtype=jnp.int32)[:, None]
        column = jnp.arange(width, dtype=jnp.int32)[None, :]
        rows, columns = (top <= row) & (row < bottom), (left <= column) & (column < right)
        both: Array = rows & columns
        return both

    def own(self, x: Array, *, stride: int = 1, before: tuple[int, int] = (0, 0)) -> Array:
        """Set to zero what is not the part's.

        Args:
          x: (*batch, h, w, c): a map of the window.
          stride: of the map.
          before: rows and columns that the map has before the window's first; whose that one is,
            these are too.
        """
        above, left = before
        inside = self.inside(x.shape[-3] - above, x.shape[-2] - left, stride=stride)
        inside = jnp.pad(inside, ((above, 0), (left, 0)), mode="edge")
        return jnp.where(inside.reshape((1,) * (x.ndim - 3) + (*inside.shape, 1)), x, 0)


class Window(NamedTuple):
    """Where a window lies, and its part.

    Attributes:
      top: its first row in the picture, in px.
      left: its first column.
      bounds: see `Part`.
    """

    top: int
    left: int
    bounds: tuple[int, int, int, int]


class Cover(NamedTuple):
    """Windows of one size, whose parts are the whole picture.

    Attributes:
      picture: (height, width) of the picture in px.
      size: (height, width) of each window in px.
      windows: row by row.
    """

    picture: tuple[int, int]
    size: tuple[int, int]
    windows: tuple[Window, ...]

    def cut(self, image: Any, window: Window) -> Any:
        """Return the window of an image, (*batch, height, width, c)."""
        rows = slice(window.top, window.top + self.size[0])
        return image[..., rows, window.left : window.left + self.size[1], :]

    def part(self, window: Window) -> Part:
        """Return the part of the picture that a window answers for."""
        return Part(np.asarray(window.bounds, np.int32), self.picture)


def cover(height: int, width: int, *, tile: int, margin: int) -> Cover:
    """Cover a picture with windows whose parts have sides of `tile` px at most, up to the borders.

    All windows lie inside the picture, begin at multiples of 16, so that no pooling window lies
    across two parts, and are of one size whose sides leave the picture's own rest over 16: so one
    program serves all, the zeros that convolutions pad are where the whole picture has them, and
    odd sizes are rounded down as there. Windows at the picture's borders need no margin there, and
    have larger parts.

    Args:
      height: of the picture, in px.
      width: of the picture, in px.
      tile: rounded up to a multiple of 16.
      margin: how far a window reaches beyond its part, in px; a multiple of 16.
    """
    tall, rows = _cover_side(height, tile, margin)
    wide, columns = _cover_side(width, tile, margin)
    windows = (
        Window(top, left, (first - top, end - top, start - left, stop - left))
        for top, first, end in rows
        for left, start, stop in columns
    )
    return Cover((height, width), (tall, wide), tuple(windows))


def _cover_side(length: int, tile: int, margin: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the windows' side, and for each its start and the first and the end of its part."""
    rest = length % STRIDE
    inner = length - rest - 2 * margin  # what two windows at the ends leave to share
    count = max(1, math.ceil(inner / round_up(tile)))
    if count == 1:
        return length, [(0, 0, length)]
    step = round_up(math.ceil(inner / count))  # the last window is not much smaller than the others
    side = step + 2 * margin + rest
    ends = [margin + step * (k + 1) for k in range(count)]
    found, first = [], 0
    for end in [*(end for end in ends if end < length - margin - rest), length]:
        start = min(max(first - margin, 0), length - side)
        found.append((start, first, end))
        first = end
    return side, found


def round_up(length: int) -> int:
    """Return the next multiple of 16."""
    return math.ceil(length / STRIDE) * STRIDE
