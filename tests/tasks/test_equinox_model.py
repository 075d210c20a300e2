"""A model in Equinox is trained with a `Minimizer`, after `equinox.partition`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nst_jax import VGG19, Minimizer, describe_style, perceptual_loss

eqx = pytest.importorskip("equinox")

LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture
def problem():
    one, two = jax.random.split(jax.random.key(0))
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 8, 3, padding=1, key=one),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(8, 3, 3, padding=1, key=two),
        ]
    )
    features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(LAYERS)
    images = jax.random.uniform(jax.random.key(1), (2, 16, 20, 3))
    style = describe_style(features, images[0].swapaxes(0, 1), layers=LAYERS)
    return model, images, features, style


def loss(model, images, features, style):
    painted = jax.vmap(model)(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    given = {"features": features, "style": style, "content_layers": LAYERS[1:]}
    return perceptual_loss(painted, images, **given)[0] / len(images)


def test_it_is_the_loop_of_equinox(problem):
    model, *given = problem
    variable, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = optax.adam(0.01)
    minimizer = Minimizer(lambda own, *rest: loss(eqx.combine(own, static), *rest), optimizer)
    state, record = minimizer.run(minimizer.init(variable), 6, *given)

    expected, memory = [], optimizer.init(variable)
    value_and_grad = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    for _ in range(6):
        value, gradient = value_and_grad(model, *given)
        updates, memory = optimizer.update(gradient, memory)
        model, expected = eqx.apply_updates(model, updates), [*expected, float(value)]
    assert expected[-1] < 0.8 * expected[0]
    # Sums of float32 in another order; Adam makes as much of small gradients as of large ones.
    np.testing.assert_allclose(record.loss, jnp.asarray(expected), rtol=1e-4)
    assert eqx.combine(minimizer.read(state), static).layers[1].fn is jax.nn.relu
