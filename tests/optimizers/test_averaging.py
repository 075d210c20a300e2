import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax.optimizers import averaging, minimize


def bowl(x):
    value = jnp.sum(x**2)
    return value, value


START = np.array([1.0, -2.0], np.float32)


def follow(keep, steps, **options):
    """Return the picture, and all iterates, of gradient descent."""
    optimizer = optax.sgd(0.1)
    state = minimize.init(jnp.asarray(START), optimizer=optimizer, keep=keep)
    variables = [START]
    for _ in range(steps):
        state, _ = minimize.step(state, loss=bowl, optimizer=optimizer, keep=keep, **options)
        variables.append(np.asarray(state.variable))
    return np.asarray(keep.read(state.kept, state.variable)), variables


def test_last():
    picture, variables = follow(averaging.last(), 4)
    np.testing.assert_array_equal(picture, variables[-1])


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_average_is_the_weighted_mean_of_all_iterates(steps):
    picture, variables = follow(averaging.average(0.9), steps)
    weights = 0.9 ** np.arange(steps, -1, -1)
    expected = np.average(variables, axis=0, weights=weights)
    np.testing.assert_allclose(picture, expected, rtol=1e-6)


def test_best_is_the_iterate_of_the_least_loss_that_was_computed():
    jumps = iter([0.5, -2.0, 3.0, 1.0])

    def jump(x):
        return x * next(jumps)

    picture, variables = follow(averaging.best(), 4, project=jump)
    losses = [float(np.sum(x**2)) for x in variables[:-1]]
    np.testing.assert_array_equal(picture, variables[int(np.argmin(losses))])
    assert int(np.argmin(losses)) not in (0, 3)


def test_best_forgets_what_is_not_a_number():
    keep = averaging.best()
    kept = keep.init(jnp.asarray(START))
    kept = keep.update(kept, jnp.ones(2), jnp.asarray(3.0), jnp.zeros(2))
    kept = keep.update(kept, jnp.zeros(2), jnp.asarray(jnp.nan), jnp.zeros(2))
    np.testing.assert_array_equal(keep.read(kept, jnp.zeros(2)), np.ones(2))


def test_a_projection_holds_after_every_step():
    _, variables = follow(averaging.last(), 3, project=lambda x: jnp.clip(x, -1.2, 0.5))
    assert all((x >= -1.2).all() and (x <= 0.5).all() for x in variables[1:])
    np.testing.assert_allclose(variables[1], [0.5, -1.2])
