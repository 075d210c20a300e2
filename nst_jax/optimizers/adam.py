"""Adam that keeps its digits in float32, as torch's does."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree


class AdamState(NamedTuple):
    """What `torch_adam` remembers.

    Attributes:
      iteration: updates made.
      mean: the moving average of the gradient, not corrected.
      square: that of its square.
    """

    iteration: Int[Array, ""]
    mean: PyTree[Array]
    square: PyTree[Array]


def torch_adam(
    learning_rate: float | Float[Array, ""],
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Return Adam, Kingma and Ba, arXiv 1412.6980, algorithm 1, in `torch.optim.Adam`'s order.

    `optax.adam` computes the bias corrections 1 - bᵗ in float32, where the first ones of b2 = 0.999
    have only five digits left: each early step is then too long or too short by about 1e-5, which
    is more than all other rounding of style transfer. Here they are -expm1(t log b), with the
    logarithm taken in Python's float64; torch computes them in float64.

    Args:
      learning_rate: length of the first steps.
      b1: decay of the mean, in [0, 1).
      b2: decay of the square, in [0, 1).
      eps: added to the root of the corrected square.

    Returns:
      An optax transformation for any pytree.
    """

    def init(params: PyTree[Array]) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        gradient: PyTree[Array], state: AdamState, params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], AdamState]:
        iteration = state.iteration + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, gradient)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.square, gradient)

        def step(m: Array, v: Array) -> Array:
            of_mean, of_square = (_correction(b, iteration, m.dtype) for b in (b1, b2))
            length = jnp.asarray(learning_rate, m.dtype) / of_mean
            return -length * m / (jnp.sqrt(v) / jnp.sqrt(of_square) + eps)

        return jax.tree.map(step, mean, square), AdamState(iteration, mean, square)

    return optax.GradientTransformation(init, update)


def _correction(decay: float, iteration: Array, dtype: jnp.dtype) -> Float[Array, ""]:
    """Compute 1 - decay**iteration without cancellation."""
    if decay == 0:
        return jnp.ones((), dtype)
    return -jnp.expm1(math.log(decay) * iteration.astype(dtype))
