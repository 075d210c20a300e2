import jax.numpy as jnp
import numpy as np

from nst_jax.optimizers import minimize
from nst_jax.optimizers.adam import AdamState, torch_adam
from nst_jax.optimizers.lbfgs import torch_lbfgs
from nst_jax.scale.warm_start import carry, resample_adam


def states(optimizer):
    rng = np.random.default_rng(0)
    state = minimize.init(jnp.asarray(rng.random((6, 8, 3)), jnp.float32), optimizer=optimizer)
    fresh = minimize.init(jnp.asarray(rng.random((9, 12, 3)), jnp.float32), optimizer=optimizer)
    loss = lambda x: (jnp.sum((x - 3) ** 4), {})  # noqa: E731
    for _ in range(3):
        state, _ = minimize.step(state, loss=loss, optimizer=optimizer)
    return state, fresh


def test_adam_is_carried_to_the_next_scale():
    state, fresh = states(torch_adam(0.02))
    found = carry(state, fresh)
    assert isinstance(found.optimizer, AdamState)
    assert found.optimizer.iteration == 3
    for before, after in zip(state.optimizer[1:], found.optimizer[1:], strict=True):
        assert after.shape == (9, 12, 3)
        np.testing.assert_allclose(after.mean(), before.mean(), rtol=0.05)
    np.testing.assert_array_equal(found.variable, fresh.variable)
    assert found.step == 0


def test_squares_stay_positive():
    square = jnp.zeros((6, 8, 3)).at[2, 3].set(1.0)
    found = resample_adam(AdamState(jnp.asarray(1), square, square), (12, 16))
    assert found.square.min() >= 0 > found.mean.min()  # cubics overshoot


def test_lbfgs_starts_anew():
    state, fresh = states(torch_lbfgs(memory_size=3))
    assert carry(state, fresh) is fresh
