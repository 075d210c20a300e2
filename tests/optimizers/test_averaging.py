import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax.optimizers import averaging, minimize


def bowl(x):
    return jnp.sum(x**2)


START = np.array([1.0, -2.0], np.float32)


def follow(keep, steps, **options):
    """Return the picture, and all iterates, of gradient descent."""
    minimizer = minimize.Minimizer(bowl, optax.sgd(0.1), iterates=keep, **options)
    state, variables = minimizer.init(jnp.asarray(START)), [START]
    for _ in range(steps):
        state, _ = minimize.step_once(minimizer, state, ())
        variables.append(np.asarray(state.variable))
    return np.asarray(minimizer.read(state)), variables


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


RULES = {
    "last": averaging.last(),
    "average": averaging.average(0.9),
    "first average": averaging.average(0.0),
    "best": averaging.best(),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_types_are_kept(rule, kind, strict_dtypes):
    """Also where the loss is summed in a wider type than the variable's."""
    keep, x = RULES[rule], jnp.ones(3, kind)
    kept = keep.init(x)
    with jax.debug_nans(True):
        after = keep.update(kept, x, jnp.float32(3), 2 * x)
        picture = keep.read(after, 2 * x)
    assert picture.dtype == x.dtype
    assert jax.tree.map(lambda a: a.dtype, after) == jax.tree.map(lambda a: a.dtype, kept)


def test_best_tells_losses_apart_that_the_type_of_the_variable_cannot():
    keep, x = averaging.best(), jnp.zeros(1, "bfloat16")
    kept = keep.update(keep.init(x), x, jnp.float32(1.001), x)
    kept = keep.update(kept, x + 1, jnp.float32(1.0005), x)
    assert keep.read(kept, x) == 1
