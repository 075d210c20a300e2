"""What the optimizer knew at one scale, brought to the next one's size."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from nst_jax.geometry import Shape, Wrap, resample, shape_of
from nst_jax.optimizers.adam import AdamState
from nst_jax.optimizers.minimize import State

# The parts of an optimizer's state that go on.
_CARRIED = (AdamState, optax.ScaleByAdamState, optax.ScaleByScheduleState)


def resize_state(state: State, fresh: State, *, wrap: Wrap = "none") -> State:
    """Start a larger scale: the fresh state with what the optimizer knew at the scale before.

    Adam, ours or optax's, goes on with its count of updates and its averages at the new size: the
    mean is interpolated by cubics and the square linearly, kept at least 0, as in
    crowsonkb/style-transfer-pytorch. The step of a schedule goes on too. All else is fresh; pairs
    of L-BFGS, for instance, belong to the function of one scale.

    Args:
      state: at the scale before; its variable is an image.
      fresh: from `Minimizer.init` at the enlarged picture, of the same optimizer.
      wrap: see `resample`.
    """

    def carry(before: Any, after: Any) -> Any:
        match before:
            case AdamState(count, mean, square) | optax.ScaleByAdamState(count, mean, square):
                resized = _resized(mean, square, shape_of(fresh.variable), wrap)
                return type(before)(count, *resized)
            case optax.ScaleByScheduleState():
                return before
        return after

    known = lambda node: isinstance(node, _CARRIED)  # noqa: E731
    optimizer = jax.tree.map(carry, state.optimizer, fresh.optimizer, is_leaf=known)
    return fresh._replace(optimizer=optimizer)


def _resized(mean: Array, square: Array, shape: Shape, wrap: Wrap) -> tuple[Array, Array]:
    return (
        resample(mean, shape, method="cubic", wrap=wrap),
        jnp.maximum(resample(square, shape, method="linear", wrap=wrap), 0),
    )
