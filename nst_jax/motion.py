"""Optical flow: where the pixels of a picture were in the one before, and which were seen there."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.geometry import Shape, resample

Flow = Float[Array, "*batch height width 2"]


@jax.jit
def warp(
    image: Float[Array, "*batch height width c"], flow: Flow
) -> Float[Array, "*batch height width c"]:
    """Move a picture's pixels to where the next picture shows them.

    Values between pixels are linear, and those outside are those of the border.

    Args:
      image: the picture before, of any units.
      flow: of the next picture: where each of its pixels was in `image`, less where it is; x to the
        right and y down, in px.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import warp
      >>> row = jnp.arange(4.0).reshape(1, 4, 1)
      >>> flow = jnp.stack([jnp.ones((1, 4)), jnp.zeros((1, 4))], axis=-1)
      >>> warp(row, flow).ravel().tolist()
      [1.0, 2.0, 3.0, 3.0]
    """

    def plane(values: Array, flow: Array) -> Array:
        places = list(jnp.moveaxis(_places(flow), -1, 0))
        found: Array = jax.scipy.ndimage.map_coordinates(values, places, order=1, mode="nearest")
        return found

    each = jax.vmap(plane, in_axes=(-1, None), out_axes=-1)
    moved: Array = jnp.vectorize(each, signature="(h,w,c),(h,w,d)->(h,w,c)")(image, flow)
    return moved


@jax.jit
def seen_before(flow: Flow, onward: Flow) -> Float[Array, "*batch height width"]:
    """Return 1 where the picture before shows what a picture shows, and its flow is sure; else 0.

    The flow is not sure where the two flows do not lead back to the pixel, and at the borders of
    what moves: Ruder, Dosovitskiy and Brox, arXiv 1604.08610, after Sundaram, Brox and Keutzer.
    Nor has the picture before what comes from outside it.

    Args:
      flow: from the picture to the one before; see `warp`.
      onward: from the picture before to the picture.
    """
    back, there = _squares(flow), warp(onward, flow)
    meets = _squares(there + flow) <= 0.01 * (_squares(there) + back) + 0.5
    rows, columns = jnp.gradient(flow, axis=(-3, -2))
    smooth = _squares(rows) + _squares(columns) <= 0.01 * back + 0.002
    height, width = flow.shape[-3:-1]
    row, column = jnp.moveaxis(_places(flow), -1, 0)
    inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
    seen: Array = (meets & smooth & inside).astype(flow.dtype)
    return seen


def resize_flow(flow: Flow, shape: Shape) -> Float[Array, "*batch p q 2"]:
    """Return the flow between two pictures at another size, (height, width) in px."""
    height, width = flow.shape[-3:-1]
    ratios = jnp.asarray([shape[1] / width, shape[0] / height], flow.dtype)
    resized = resample(flow, shape, method="linear")
    scaled: Array = resized * jnp.broadcast_to(ratios, resized.shape)
    return scaled


def _places(flow: Flow) -> Flow:
    """Return the row and the column that each pixel comes from."""
    height, width = flow.shape[-3:-1]
    rows = jnp.arange(height, dtype=flow.dtype)[:, None]
    columns = jnp.arange(width, dtype=flow.dtype)[None, :]
    grid = jnp.stack(jnp.broadcast_arrays(rows, columns), -1)
    return jnp.broadcast_to(grid, flow.shape) + flow[..., ::-1]


def _squares(flow: Flow) -> Float[Array, "*batch height width"]:
    return jnp.sum(flow**2, -1)
