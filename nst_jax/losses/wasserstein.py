"""Style as a Gaussian: the Wasserstein-2 distance between the statistics of two feature maps.

Each map is described by the mean and the covariance of its activations over positions. The
distance of two such Gaussians is the least cost of moving one onto the other. The term is that of
crowsonkb/style-transfer-pytorch (`StyleLossW2`); the distance is Olkin and Pukelsheim, "The
distance between two random vectors with given dispersion matrices" (1982).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.losses.statistics import accumulator, covariance

HIGHEST = jax.lax.Precision.HIGHEST

# The least variance that `_transport` resolves, relative to the largest, by the dtype's bytes.
_RESOLUTION = {4: 1e-5, 8: 1e-12}

_Attempt = tuple[Array, Array, Array, Array, Array, Array]


class Gaussian(NamedTuple):
    """Mean and covariance of the activations of one feature map, or of several together.

    Attributes:
      mean: of each channel over positions.
      covariance: of each pair of channels over positions; nothing is added to its diagonal.
    """

    mean: Float[Array, "*batch c"]
    covariance: Float[Array, "*batch c c"]


def gaussian(mean: Float[Array, "*batch c"], second_moment: Float[Array, "*batch c c"]) -> Gaussian:
    """Return the Gaussian with these moments; its covariance is S - μ μᵀ.

    Eigenvalues of the covariance that rounding has made negative are set to zero. This takes an
    eigendecomposition: make a target once, not at every step.

    Args:
      mean: of the activations over positions, in float32 at least; or an average over maps.
      second_moment: S = F Fᵀ / (H W), or the same average over maps. (Moments may be averaged,
        covariances may not.)
    """
    values, vectors = _eigenvectors(covariance(mean, second_moment))
    return Gaussian(mean, _product(vectors * jnp.maximum(values, 0)[..., None, :], vectors.mT))


def _eigenvectors(matrix: Array) -> tuple[Array, Array]:
    """Return the eigenvalues and the eigenvectors of symmetric matrices, one after the other.

    jaxlib's LAPACK (0.10.2) takes the matrices of a batch side by side, and its threads can then
    wait for each other for ever: on two cores in every second run with five batches of two.
    """
    if matrix.ndim > 2:
        found: tuple[Array, Array] = jax.lax.map(_eigenvectors, matrix)
        return found
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def wasserstein_loss(
    features: Float[Array, "*batch h w c"], target: Gaussian, *, eps: float = 1e-4
) -> Float[Array, "*batch"]:
    """Squared Wasserstein-2 distance between two Gaussians, over C.

    mean((μ - μ_s)²) + mean(diag(Σ + Σ_s - 2 (Σ_s^½ Σ Σ_s^½)^½)), where both covariances have `eps`
    added to their diagonals: crowsonkb/style-transfer-pytorch, `StyleLossW2`. That program
    computes the root by 12 Newton-Schulz iterations, which on VGG's maps leaves up to 8 % of the
    mean variance even between equal Gaussians; here the iteration runs until it has converged.

    Where `eps` is less than four units in the last place of a covariance's norm, as for the large
    activations of deep layers, four such units are added instead; see `_positive_transport`. In
    float32 the error of the value is then at most 2e-4 of the target's mean square, else at most
    5e-6; the value may be that much below zero. The error of the gradient is at most 0.004 of its
    size, or 0.04 for maps with fewer positions than channels. (Measured on VGG-19's maps of
    photographs; bfloat16 maps add no more than their own rounding.)

    The value has squared units of the activations. It has derivatives of any order, in forward and
    reverse mode. The error of the second derivative in one direction is at most 0.001 of its size,
    or 0.01 for maps with fewer positions than channels. (Measured in float32 on VGG-19's maps of
    two pictures of 128 px. Where variances fall by a million it was 0.05, and 0.15 with so few
    positions.)

    Args:
      features: the image's feature map.
      target: from `gaussian`, of a map of any size.
      eps: variance added to every channel of both Gaussians; above zero.
    """
    return gaussian_distance(*_statistics(features), target, eps=eps)


def relative_wasserstein_loss(
    features: Float[Array, "*batch h w c"], target: Gaussian, *, eps: float = 1e-4
) -> Float[Array, "*batch"]:
    """Squared Wasserstein-2 distance between two Gaussians, over the target's mean square.

    This is `wasserstein_loss` times C / E|x|², with E|x|² = tr Σ_s + |μ_s|². So the value has no
    unit: it stays the same, bit for bit, if all activations are multiplied by a power of two, and
    is about 1 for activations of zero. The formula is ours. A target of zeros divides by 1.

    The errors have the same bounds as those of `wasserstein_loss`, and all derivatives exist too.

    Args:
      features: the image's feature map.
      target: from `gaussian`, of a map of any size.
      eps: variance added to every channel of both Gaussians, in units of the target's mean square
        over channels; above zero.
    """
    return gaussian_distance(*_statistics(features), target, eps=eps, relative=True)


def gaussian_distance(
    mean: Float[Array, "*batch c"],
    covariance: Float[Array, "*batch c c"],
    target: Gaussian,
    *,
    eps: float = 1e-4,
    relative: bool = False,
) -> Float[Array, "*batch"]:
    """Compute `wasserstein_loss`, or `relative_wasserstein_loss`, from a map's statistics.

    Args:
      mean: of each channel over positions.
      covariance: of each pair of channels.
      target: see `wasserstein_loss`.
      eps: see the loss that is computed.
      relative: compute `relative_wasserstein_loss`.
    """
    channels = mean.shape[-1]
    # Loops and rules of differentiation need one type, and only one may vary over a mesh.
    one = jnp.ones_like(covariance) * jnp.ones_like(target.covariance)
    ours, theirs = one * covariance, one * target.covariance
    if not relative:
        apart = jnp.mean((mean - target.mean) ** 2, axis=-1)
        return apart + _bures(ours, theirs, eps) / channels
    square = _trace(target.covariance) + jnp.sum(target.mean**2, axis=-1)
    unit = jnp.where(square > 0, square, 1)
    ours, theirs = (each / unit[..., None, None] for each in (ours, theirs))
    apart = jnp.sum((mean - target.mean) ** 2, axis=-1) / unit
    return apart + _bures(ours, theirs, eps / channels)


@jax.custom_jvp
def _statistics(features: Array) -> tuple[Array, Array]:
    """Return the mean and the covariance over positions.

    The map is centered before it is squared: a constant map's covariance is then zero, not the
    difference of two large sums. (TF32 in place of "highest" would leave eigenvalues far below 0.)
    """
    mean, centered = _center(features)
    products = jnp.einsum("...hwc,...hwd->...cd", centered, centered, precision=HIGHEST)
    return mean, products / math.prod(features.shape[-3:-1])


@_statistics.defjvp
def _statistics_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    (features,), (tangent,) = primals, tangents
    share = tangent.astype(accumulator(features)) / math.prod(features.shape[-3:-1])
    # The tangent need not be centered, as centered activations sum to zero. XLA turns the transpose
    # of a product of matrices into a product, but that of a product over height and width into one
    # in another layout and a slow copy.
    left, right = (x.reshape(*x.shape[:-3], -1, x.shape[-1]) for x in (_center(features)[1], share))
    half = jnp.einsum("...nc,...nd->...cd", left, right)
    return _statistics(features), (jnp.sum(share, axis=(-3, -2)), half + half.mT)


def _center(features: Array) -> tuple[Array, Array]:
    wide = features.astype(accumulator(features))
    mean = jnp.mean(wide, axis=(-3, -2))
    return mean, wide - mean[..., None, None, :]


def _trace(matrix: Array) -> Array:
    return jnp.trace(matrix, axis1=-2, axis2=-1)


class _Plan(NamedTuple):
    """The cost of moving one Gaussian onto another, what is moved, and how: see `_transport`."""

    cost: Array
    a: Array
    b: Array
    transport: Array
    inverse: Array

    def slope(self, a: Array, b: Array) -> Array:
        """Return the derivative of the cost in the direction of a and b."""
        identity = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
        of_a, of_b = identity - self.transport, identity - self.inverse
        return jnp.sum(of_a * a, axis=(-2, -1)) + jnp.sum(of_b * b, axis=(-2, -1))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _bures(a: Array, b: Array, floor: float) -> Array:
    """Return tr(a + b - 2 (b^½ a b^½)^½), with `floor` on both diagonals.

    With the transport map T of `_transport`, the root's trace is both tr(T a) and tr(T⁻¹ b). Errors
    of T cancel in the mean of these two, which is minimal at T. For the same reason the gradients
    are just I - T and I - T⁻¹.
    """
    return _plan(a, b, floor).cost


@_bures.defjvp
def _bures_tangent(
    floor: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    plan = _plan(*primals, floor)
    return plan.cost, plan.slope(*tangents)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _plan(a: Array, b: Array, floor: float) -> _Plan:
    plan = _Plan(jnp.zeros(a.shape[:-2], a.dtype), *_positive_transport(a, b, floor))
    return plan._replace(cost=plan.slope(plan.a, plan.b))


@_plan.defjvp
def _plan_tangent(
    floor: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[_Plan, _Plan]:
    # Only for second derivatives. The additions to the diagonals have none.
    plan, (da, db) = _plan(*primals, floor), tangents
    _, a, b, transport, inverse = plan
    change = db - _product(_product(transport, da), transport)  # of T a T = b
    moved = _transport_slope(a, b, transport, change)
    of_inverse = -_product(_product(inverse, moved), inverse)
    return plan, _Plan(plan.slope(da, db), da, db, moved, of_inverse)


def _transport_slope(a: Array, b: Array, transport: Array, change: Array) -> Array:
    """Return the derivative of T by b in one direction: the X with T a X + X a T = change.

    The derivative of the iteration is the solution. The iteration itself is differentiated only
    once, as its second derivative grows with every step; that of X solves the equation again.
    """
    moves = _product(transport, a)

    def solve(a: Array, b: Array, change: Array) -> Array:
        slope: Array = jax.jvp(lambda b: _transport(a, b, more=1)[0], (b,), (change,))[1]
        return slope

    slope: Array = jax.lax.custom_linear_solve(
        lambda x: _product(moves, x) + _product(x, moves.mT),
        change,
        lambda _, change: solve(a, b, change),
        lambda _, change: solve(b, a, change),  # (T a)ᵀ = T⁻¹ b
    )
    return slope


def _positive_transport(a: Array, b: Array, floor: float) -> tuple[Array, Array, Array, Array]:
    """Make both matrices positive by additions to their diagonals; return them and `_transport`.

    Rounding alone can make an eigenvalue of a singular matrix negative; then there is no T, and the
    iteration diverges. The eigenvalue is mostly less than four units in the last place below zero;
    these are added first, if they are more than `floor`. It can be a hundred units where all summed
    products are alike, as in a map of two values; so larger additions are tried until the iteration
    converges. (Cholesky's factorization would find such eigenvalues too, but where other work keeps
    the cores busy, jaxlib's LAPACK waits for its threads a hundred times as long as the work takes.
    The same holds for an eigendecomposition.)
    """

    def attempt(state: _Attempt) -> _Attempt:
        units, done, *_ = state
        units = jnp.where(done, units, 8 * units)
        x, y = (_lift(each, floor, units) for each in (a, b))
        transport, inverse = _transport(x, y)
        # After convergence T⁻¹ T has eigenvalues from 0 to 1; else some are beyond all bounds.
        product = _product(inverse, transport)
        squares = jnp.sum(product * product.mT, axis=(-2, -1))
        return units, squares <= 2 * a.shape[-1], x, y, transport, inverse

    units = jnp.full_like(_trace(a), 0.5)  # like the trace, as it may vary over a mesh
    _, _, x, y, transport, inverse = jax.lax.while_loop(
        lambda state: (~state[1] & (state[0] < 0.5 * 8**6)).any(),  # a NaN is never done
        attempt,
        (units, jnp.zeros_like(units, bool), a, b, a, b),
    )
    return x, y, transport, inverse


def _lift(covariance: Array, floor: float, units: Array) -> Array:
    # The Frobenius norm, of the matrix over its trace so that the squares do not overflow.
    trace = _trace(covariance)[..., None, None]
    share = covariance / jnp.where(trace > 0, trace, 1)
    norm = trace[..., 0, 0] * jnp.sqrt(jnp.sum(share**2, axis=(-2, -1)))
    variance = jnp.maximum(units * np.finfo(norm.dtype).eps * norm, floor)
    identity = jnp.broadcast_to(jnp.eye(covariance.shape[-1], dtype=norm.dtype), covariance.shape)
    return covariance + variance[..., None, None] * identity


def _transport(a: Array, b: Array, *, more: int = 0) -> tuple[Array, Array]:
    """Return the symmetric, positive T with T a T = b, and its inverse.

    T moves a Gaussian of covariance a onto one of covariance b at the least cost. It is the upper
    corner of the matrix sign of [[0, b], [a, 0]], and T⁻¹ the lower one (Higham, "Functions of
    Matrices", 2008, theorem 5.2). Newton-Schulz finds both by products alone, without the root of
    either matrix. It resolves variances down to the precision of the dtype; b^½ a b^½ would hold
    their squares, and lose all variances below the root of that precision.

    The derivative needs one step `more`: an error of 1e-8 in T can be 0.01 in its derivative.
    """
    # The trace of a product of positive matrices is at least its largest eigenvalue, which has to
    # be at most 1 for the iteration to converge.
    size = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(a * b), axis=(-2, -1)))[..., None, None]
    size = jnp.where(size > 0, size, 1)
    three = jnp.broadcast_to(3 * jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)

    def step(pair: tuple[Array, Array], scale: Array) -> tuple[tuple[Array, Array], None]:
        y, z = pair
        factor = scale / 2 * (three - scale**2 * _product(z, y))
        return (_product(y, factor), _product(factor, z)), None

    scales = jnp.asarray(_scales(_RESOLUTION[a.dtype.itemsize]) + [1.0] * more, a.dtype)
    (y, z), _ = jax.lax.scan(step, (b / size, a / size), scales)
    return (y + y.mT) / 2, (z + z.mT) / 2


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=HIGHEST)


def _scales(least: float) -> list[float]:
    """Return the factor of each Newton-Schulz step that takes [least, 1] to 1.

    Chen and Chow, "A stable scaling of Newton-Schulz for improving the sign function computation of
    a Hermitian matrix" (2014): a factor above 1 lifts small numbers faster. The fastest, √3, would
    take 1 itself to 0, where all its digits are lost; 1.7 takes it to 0.09.
    """
    scales = []
    while 1 - least > 1e-4:  # one step after that squares the error
        scales.append(min(1.7, math.sqrt(3 / (1 + least + least**2))))
        ends = (scales[-1] * least, scales[-1])
        least = min(x * (3 - x**2) / 2 for x in ends)
    return [*scales, 1.0]
