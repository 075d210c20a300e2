"""The network's pooling, with gradients that are faster than JAX's own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.linear import linear_call

Pooling = Literal["average", "max", "l2"]
_POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))


def _safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # The inner `where` makes the gradient at zero 0 instead of infinity times 0.
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def pool(x: Float[Array, "n h w c"], pooling: Pooling) -> Float[Array, "n p q c"]:
    """Pool 2x2 windows with stride 2; odd sizes are rounded down, as in torch."""
    if pooling == "max":
        return _window_largest(x)
    # "l2" is torch.nn.LPPool2d(2, 2): the root of the sum, not of the mean.
    summed = x if pooling == "average" else x * x
    sums = linear_call(_sum_windows, _SpreadSums(x.shape), (), summed)
    return sums / 4 if pooling == "average" else _safe_sqrt(sums)


@jax.custom_jvp
def _window_largest(x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
    """Take the maximum of each 2x2 window; as in torch, the first of equals gets the gradient.

    XLA's CPU backend computes JAX's own gradient with four maps of indices. This is seven times as
    slow, and takes more memory than anything else in a step.
    """
    window, least = (1, 2, 2, 1), np.asarray(-np.inf, x.dtype)
    largest: Array = jax.lax.reduce_window(x, least, jax.lax.max, window, window, "VALID")
    return largest


@_window_largest.defjvp
def _window_largest_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    largest = _window_largest(x)
    saved = jax.lax.stop_gradient((x, largest))
    return largest, linear_call(_select, _spread_selected, saved, *tangents, like=largest)


def _selected(saved: tuple[Array, Array]) -> Iterator[tuple[Array, tuple[slice, ...]]]:
    """Yield each of the windows' positions, and where it has the largest value."""
    x, largest = saved
    _, height, width, _ = largest.shape
    found = jnp.zeros_like(largest, bool)
    for i, j in _POSITIONS:
        part = np.s_[:, i : 2 * height : 2, j : 2 * width : 2]
        here = (x[part] == largest) & ~found
        found = found | here
        yield here, part


def _select(saved: tuple[Array, Array], x: Array) -> Array:
    parts = [jnp.where(here, x[part], 0) for here, part in _selected(saved)]
    return sum(parts[1:], parts[0])


def _spread_selected(saved: tuple[Array, Array], y: Array) -> Array:
    parts = [jnp.where(here, y, 0) for here, _ in _selected(saved)]
    return _interleave(parts, saved[0].shape)


def _sum_windows(_: tuple[()], x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
    # A plain sum over axes is slower; in bfloat16 jaxlib 0.12 then reads uninitialized memory.
    window, zero = (1, 2, 2, 1), np.asarray(0, x.dtype)
    sums: Array = jax.lax.reduce_window(x, zero, jax.lax.add, window, window, "VALID")
    return sums


@dataclass(frozen=True)
class _SpreadSums:
    """The transpose of `_sum_windows`: a broadcast to maps of a shape.

    JAX's own is a window sum over a dilated map, which takes several times as long on a CPU.
    """

    shape: tuple[int, ...]

    def __call__(self, _: tuple[()], y: Float[Array, "n p q c"]) -> Float[Array, "n h w c"]:
        batch, height, width, channels = y.shape

        def broadcast(y: Array) -> Array:
            each = (batch, height, 2, width, 2, channels)
            return _joined(jnp.broadcast_to(y[:, :, None, :, None], each), self.shape)

        spread: Array = jax.lax.platform_dependent(
            y, tpu=lambda y: _interleave_by_sum([y] * 4, self.shape), default=broadcast
        )
        return spread


def _interleave(parts: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """Put four maps at the four positions of each 2x2 window; an odd last row or column is zero."""

    def stack(*parts: Array) -> Array:
        rows = [jnp.stack(parts[i : i + 2], axis=3) for i in (0, 2)]
        return _joined(jnp.stack(rows, axis=2), shape)

    def add(*parts: Array) -> Array:
        return _interleave_by_sum(parts, shape)

    interleaved: Array = jax.lax.platform_dependent(*parts, tpu=add, default=stack)
    return interleaved


def _joined(each: Float[Array, "n p 2 q 2 c"], shape: tuple[int, ...]) -> Array:
    _, height, _, width, _, _ = each.shape
    odd = shape[1] - 2 * height, shape[2] - 2 * width
    # JAX merges axes of a map with an explicit sharding one group of axes at a time.
    whole = jax.lax.collapse(jax.lax.collapse(each, 3, 5), 1, 3)
    return jnp.pad(whole, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))


def _interleave_by_sum(parts: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """Interleave without axes of length 2, which a TPU's tiles would pad to 16."""
    _, height, width, _ = parts[0].shape
    odd, none = (shape[1] - 2 * height, shape[2] - 2 * width), (0, 0, 0)
    placed = [
        jax.lax.pad(
            part,
            jnp.zeros((), part.dtype),
            (none, (i, 1 - i + odd[0], 1), (j, 1 - j + odd[1], 1), none),
        )
        for part, (i, j) in zip(parts, _POSITIONS, strict=True)
    ]
    return sum(placed[1:], placed[0])
