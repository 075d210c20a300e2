"""What the optimizer knew at one scale, brought to the next one's size."""

import jax.numpy as jnp

from nst_jax.geometry import Shape, resample
from nst_jax.optimizers.adam import AdamState
from nst_jax.optimizers.minimize import State


def resample_adam(state: AdamState, shape: Shape) -> AdamState:
    """Bring Adam's moments of an image to another size, and keep its count of updates.

    The mean is interpolated by cubics and the square linearly, kept at least 0, as in
    crowsonkb/style-transfer-pytorch.
    """
    return AdamState(
        state.iteration,
        resample(state.mean, shape, method="cubic"),
        jnp.maximum(resample(state.square, shape, method="linear"), 0),
    )


def carry(state: State, fresh: State) -> State:
    """Start a larger scale: the fresh state with what the optimizer knew at the scale before.

    Adam goes on. Pairs of L-BFGS belong to the function of one scale, so it starts anew.
    """
    if not isinstance(state.optimizer, AdamState):
        return fresh
    shape = fresh.variable.shape[-3:-1]
    return fresh._replace(optimizer=resample_adam(state.optimizer, shape))
