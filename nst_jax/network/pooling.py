"""The network's pooling, with gradients that are faster than JAX's own."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Pooling = Literal["average", "max", "l2"]


def _safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # The inner `where` makes the gradient at zero 0 instead of infinity times 0.
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def pool(x: Float[Array, "n h w c"], pooling: Pooling) -> Float[Array, "n p q c"]:
    """Pool 2x2 windows with stride 2; odd sizes are rounded down, as in torch."""
    if pooling == "max":
        return _window_largest(x)
    odd = (x.shape[1] % 2, x.shape[2] % 2)
    if pooling == "average":
        return _window_sums(odd, x) / 4
    # "l2" is torch.nn.LPPool2d(2, 2): the root of the sum, not of the mean.
    return _safe_sqrt(_window_sums(odd, x * x))


@jax.custom_vjp
def _window_largest(x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
    """Take the maximum of each 2x2 window; as in torch, the first of equals gets the gradient.

    XLA's CPU backend computes JAX's own gradient with four maps of indices. This is seven times as
    slow, and takes more memory than anything else in a step.
    """
    window, least = (1, 2, 2, 1), np.asarray(-np.inf, x.dtype)
    largest: Array = jax.lax.reduce_window(x, least, jax.lax.max, window, window, "VALID")
    return largest


def _window_largest_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    largest = _window_largest(x)
    return largest, (x, largest)


def _window_largest_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    x, largest = saved
    _, height, width, _ = largest.shape
    found = jnp.zeros(largest.shape, bool)
    parts = []
    for i in range(2):
        for j in range(2):
            here = (x[:, i : 2 * height : 2, j : 2 * width : 2] == largest) & ~found
            found = found | here
            parts.append(jnp.where(here, cotangent, 0))
    return (_interleave(parts, x.shape),)


_window_largest.defvjp(_window_largest_forward, _window_largest_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _window_sums(odd: tuple[int, int], x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
    """Sum each 2x2 window; `odd` says whether height and width are odd.

    The gradient is a broadcast. JAX's own is a window sum over a dilated map, which takes several
    times as long on a CPU. (A plain sum over axes would have a broadcast as its gradient, but in
    bfloat16 jaxlib 0.12 then reads uninitialized memory.)
    """
    window, zero = (1, 2, 2, 1), np.asarray(0, x.dtype)
    sums: Array = jax.lax.reduce_window(x, zero, jax.lax.add, window, window, "VALID")
    return sums


def _window_sums_forward(odd: tuple[int, int], x: Array) -> tuple[Array, None]:
    return _window_sums(odd, x), None


def _window_sums_backward(odd: tuple[int, int], _: None, cotangent: Array) -> tuple[Array]:
    batch, height, width, channels = cotangent.shape
    shape = batch, 2 * height + odd[0], 2 * width + odd[1], channels

    def broadcast(x: Array) -> Array:
        each = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
        return _joined(each, shape)

    return (
        jax.lax.platform_dependent(
            cotangent, tpu=lambda x: _interleave_by_sum([x] * 4, shape), default=broadcast
        ),
    )


_window_sums.defvjp(_window_sums_forward, _window_sums_backward)


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
    batch, height, _, width, _, channels = each.shape
    odd = shape[1] - 2 * height, shape[2] - 2 * width
    whole = each.reshape(batch, 2 * height, 2 * width, channels)
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
        for part, (i, j) in zip(parts, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
    ]
    return sum(placed[1:], placed[0])
