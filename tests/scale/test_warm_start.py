import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import Minimizer, resize_state
from nst_jax.optimizers.adam import torch_adam
from nst_jax.optimizers.lbfgs import torch_lbfgs


def states(optimizer):
    rng = np.random.default_rng(0)
    minimizer = Minimizer(lambda x: jnp.sum((x - 3) ** 4), optimizer)
    state = minimizer.init(jnp.asarray(rng.random((6, 8, 3)), jnp.float32))
    fresh = minimizer.init(jnp.asarray(rng.random((9, 12, 3)), jnp.float32))
    return minimizer.run(state, 3)[0], fresh


@pytest.mark.parametrize(
    "optimizer",
    [torch_adam(0.02), optax.adam(0.02), optax.adam(optax.cosine_decay_schedule(0.02, 9))],
    ids=["ours", "optax", "schedule"],
)
def test_adam_is_carried_to_the_next_scale(optimizer):
    state, fresh = states(optimizer)
    found = resize_state(state, fresh)
    assert jax.tree.structure(found) == jax.tree.structure(fresh)
    averages = 0
    for before, after in zip(
        *map(jax.tree.leaves, (state.optimizer, found.optimizer)), strict=True
    ):
        if not before.ndim:
            assert before == after == 3  # the updates of Adam, and of its schedule
            continue
        averages += 1
        assert after.shape == (9, 12, 3)
        np.testing.assert_allclose(after.mean(), before.mean(), rtol=0.05)
    assert averages == 2
    np.testing.assert_array_equal(found.variable, fresh.variable)
    assert found.step == 0


def test_squares_stay_positive():
    state, fresh = states(torch_adam(0.02))
    square = jnp.zeros((6, 8, 3)).at[2, 3].set(1.0)
    edge = state.optimizer._replace(mean=square, square=square)
    found = resize_state(state._replace(optimizer=edge), fresh).optimizer
    assert found.square.min() >= 0 > found.mean.min()  # cubics overshoot


@pytest.mark.parametrize("optimizer", [torch_lbfgs(memory_size=3), optax.lbfgs(memory_size=3)])
def test_lbfgs_starts_anew(optimizer):
    state, fresh = states(optimizer)
    jax.tree.map(np.testing.assert_array_equal, resize_state(state, fresh), fresh)
