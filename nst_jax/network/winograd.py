"""Winograd's F(4x4, 3x3): a 3x3 convolution with a quarter of the multiplications.

A 4x4 tile of the output is a product of polynomials, computed from values at five finite points and
at infinity instead of coefficient by coefficient (Lavin and Gray, arXiv 1509.09308, after Toom and
Cook). The maps are transformed tile by tile, 36 ordinary matrix products mix the channels, and a
second transform gives the output: Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for each tile.

Two things are not in the textbooks:

* The points are 0, ±5/8, ±3/2 and infinity; with the usual 0, ±1, ±2 the error is twice as large.
* The convolution with the kernel turned by 180°, which the gradient needs, uses the same
  transformed kernel: reversing a polynomial, x² k(1/x), replaces the points by their reciprocals,
  so only A and B differ.
"""

import functools
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nst_jax.linear import vary_like

TILE, _WINDOW = 4, 6
# Column points in one matrix product. With all six, a step takes 5 % longer, as the operands exceed
# the cache; with fewer than three, compilation takes longer.
_GROUP = 3
_POINTS = (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))
Matrix = Float[np.ndarray, "rows columns"]
TransformedKernel = tuple[Float[Array, "points inputs outputs"], ...]


def _from_roots(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """Return the coefficients of Π (x - root), the constant first, padded with zeros to six."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [
            up - root * same for up, same in zip(shifted, [*coefficients, Fraction(0)], strict=True)
        ]
    return coefficients + [Fraction(0)] * (_WINDOW - len(coefficients))


def _normalizer(point: Fraction, points: tuple[Fraction, ...]) -> Fraction:
    product = Fraction(1)
    for other in points:
        product *= point - other if other != point else 1
    return product


def _as_array(rows: list[list[Fraction]]) -> Matrix:
    return np.array([[float(value) for value in row] for row in rows])


def kernel_matrix() -> Float[np.ndarray, "6 3"]:
    """Return G: the powers of each point, divided by the point's normalizer."""
    rows = [[p**k / _normalizer(p, _POINTS) for k in range(3)] for p in _POINTS]
    return _as_array([*rows, [Fraction(0), Fraction(0), Fraction(1)]])


@functools.cache
def map_matrices(turned: bool) -> tuple[Float[np.ndarray, "6 6"], Float[np.ndarray, "4 6"]]:
    """Return Bᵀ and Aᵀ, for the kernel as it is or turned by 180°; points in the order of G."""
    points: tuple[Fraction, ...] = _POINTS
    scales = [Fraction(1)] * _WINDOW
    order = list(range(_WINDOW))
    if turned:
        points = (Fraction(0), *(1 / p for p in _POINTS[1:]))
        # The factors from the value of k at p to that of x² k(1/x) at 1/p. Zero and infinity swap
        # places.
        scales = [_normalizer(p, _POINTS) / _normalizer(1 / p, points) / p**2 for p in _POINTS[1:]]
        scales = [_normalizer(_POINTS[0], _POINTS), *scales, 1 / _normalizer(points[0], points)]
        order = [5, 1, 2, 3, 4, 0]
    to_points = [_from_roots(tuple(q for q in points if q != p)) for p in points]
    to_points.append(_from_roots(points))
    from_points = [[p**row for p in points] + [Fraction(row == TILE - 1)] for row in range(TILE)]
    return (
        _as_array([[scales[k] * v for v in to_points[order[k]]] for k in range(_WINDOW)]),
        _as_array([[row[k] for k in order] for row in from_points]),
    )


def transform_kernel(kernel: Float[Array, "3 3 inputs outputs"]) -> TransformedKernel:
    """Compute G g Gᵀ for each pair of channels, for `convolve` in both directions.

    The column points are split into groups, with one array and one matrix product each. Entry
    6 j + i of a group is at row point i and the group's column point j. All groups together take
    four times the memory of the kernel.
    """
    G = kernel_matrix()
    taps = kernel.reshape(9, -1)
    groups = []
    for first in range(0, _WINDOW, _GROUP):
        both = np.einsum("ik,jl->jikl", G, G[first : first + _GROUP]).reshape(-1, 9)
        group = jnp.dot(jnp.asarray(both, kernel.dtype), taps, precision="highest")
        groups.append(group.reshape(-1, *kernel.shape[2:]))
    return tuple(groups)


@functools.partial(jax.jit, static_argnames=("turned", "rectify"))
def convolve(
    x: Float[Array, "n h w channels"],
    transformed: TransformedKernel,
    bias: Float[Array, " mixed"] | None = None,
    *,
    turned: bool = False,
    rectify: bool = False,
) -> Float[Array, "n h w mixed"]:
    """Correlate a zero-padded map with the kernel that `transform_kernel` was given.

    Args:
      x: the map.
      transformed: from `transform_kernel`.
      bias: added to the result, whose channels are the kernel's outputs (its inputs if `turned`).
      turned: correlate with the kernel turned by 180° and with inputs and outputs exchanged, as the
        gradient of the plain convolution does.
      rectify: apply a ReLU to the result.
    """
    x = vary_like(x, (transformed, bias))
    batch, height, width, channels = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    tiles, mixed = batch * rows * columns, transformed[0].shape[1 if turned else 2]
    # One more tile than the output has: a tile's window reaches two positions into the next tile.
    padded_height, padded_width = TILE * (rows + 1), TILE * (columns + 1)
    after = ((1, padded_height - height - 1), (1, padded_width - width - 1))
    padded = jnp.pad(x, ((0, 0), *after, (0, 0)))
    BT, AT = map_matrices(turned)
    wide = np.promote_types(x.dtype, np.float32)
    apart = functools.partial(
        _apart,
        jax.lax.optimization_barrier(jnp.asarray(True)),
        zeros=jnp.zeros_like(x[:, 0, 0, 0]),
    )

    def down(padded: Array) -> Array:
        windows = padded.reshape(batch, rows + 1, TILE, padded_width, channels)
        parts = [windows[:, k // TILE :, k % TILE][:, :rows] for k in range(_WINDOW)]
        return _combine(BT, [part.astype(wide) for part in parts], 0)

    def across(halfway: Array) -> tuple[Array, ...]:
        windows = halfway.reshape(_WINDOW, batch, rows, columns + 1, TILE, channels)
        parts = [windows[..., k // TILE :, k % TILE, :] for k in range(_WINDOW)]
        parts = [part[..., :columns, :] for part in parts]
        groups = (_combine(BT[j : j + _GROUP], parts, 0) for j in range(0, _WINDOW, _GROUP))
        # JAX merges axes of a map with an explicit sharding one group of axes at a time.
        merged = (jax.lax.collapse(jax.lax.collapse(group, 2, 5), 0, 2) for group in groups)
        return tuple(group.astype(x.dtype) for group in merged)

    def back_across(products: tuple[Array, ...]) -> Array:
        columns = [
            column for group in products for column in group.reshape(-1, _WINDOW, tiles, mixed)
        ]
        return _combine(AT, columns, 2)

    def back_down(halfway: Array) -> Array:
        parts = list(halfway.reshape(_WINDOW, batch, rows, columns, TILE, mixed))
        out = jax.lax.collapse(jax.lax.collapse(_combine(AT, parts, 2), 3, 5), 1, 3)
        out = out[:, :height, :width]
        out = out if bias is None else out + bias.astype(wide).reshape(1, 1, 1, mixed)
        return (jax.nn.relu(out) if rectify else out).astype(x.dtype)

    shape: Callable[..., Any] = jax.ShapeDtypeStruct
    split = shape((_WINDOW, batch, rows, padded_width, channels), wide)
    group = shape((_WINDOW * _GROUP, tiles, channels), x.dtype)
    groups = (group,) * (_WINDOW // _GROUP)
    values = apart(across, apart(down, padded, split), groups)
    equation = "ptd,pcd->ptc" if turned else "ptc,pcd->ptd"
    products = tuple(
        jnp.einsum(equation, value, kernel, preferred_element_type=wide)
        for value, kernel in zip(values, transformed, strict=True)
    )
    joined = apart(back_across, products, shape((_WINDOW, tiles, TILE, mixed), wide))
    out: Array = apart(back_down, joined, shape((batch, height, width, mixed), x.dtype), axis=0)
    return out


def _combine(matrix: Matrix, parts: list[Array], axis: int) -> Array:
    """Multiply a small matrix with a list of arrays; the matrix's rows become a new axis."""
    shape = [1] * (parts[0].ndim + 1)
    shape[axis] = len(matrix)
    # The matrix stays in NumPy: as a JAX array, each of its columns would add operations to trace.
    terms = [
        column.astype(part.dtype).reshape(shape) * jnp.expand_dims(part, axis)
        for column, part in zip(matrix.T, parts, strict=True)
    ]
    total: Array = functools.reduce(operator.add, terms)
    return total


def _apart(
    always: Bool[Array, ""],
    function: Callable[[Any], Any],
    operand: Any,
    result: Any,
    *,
    zeros: Float[Array, " n"],
    axis: int = 1,
) -> Any:
    """Call a function so that XLA cannot fuse it with the operations around it.

    XLA's CPU backend would fuse both halves of a transform into one kernel that computes the first
    half six times over (measured: the whole convolution takes twice as long). XLA does not fuse
    across a conditional, and cannot know that `always` is true. `result` has the shape and the
    dtype of the function's result. The branch that is never taken gives `zeros` for each image of
    the batch, whose positions are at `axis` of the result, so that both are sharded alike.
    """

    def never(_: Any) -> Any:
        def fill(x: Any) -> Array:
            before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
            each = (*before, zeros.size, size // zeros.size, *after)
            return jax.lax.broadcast_in_dim(zeros.astype(x.dtype), each, (axis,)).reshape(x.shape)

        return jax.tree.map(fill, result)

    return jax.lax.cond(always, function, never, operand)
