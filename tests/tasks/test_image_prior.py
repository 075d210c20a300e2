"""Deep image prior: the variable is the parameters of a network whose output is the picture."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from nst_jax import VGG19, Minimizer, best, make_targets, style_transfer_loss

LAYERS = ("relu1_1", "relu2_1")


class Generator(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.last = nnx.Conv(16, 3, (3, 3), rngs=rngs)

    def __call__(self, noise):
        return nnx.sigmoid(self.last(nnx.relu(self.first(noise))))


@pytest.fixture
def given():
    features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(LAYERS)
    content, style = jax.random.uniform(jax.random.key(0), (2, 16, 20, 3))
    targets = make_targets(features, content, style, content_layers=LAYERS[1:], style_layers=LAYERS)
    return jax.random.normal(jax.random.key(1), (16, 20, 8)), features, targets


def loss(generator, noise, features, targets):
    return style_transfer_loss(generator(noise), targets, features=features)[0]


def test_it_is_the_loop_of_nnx(given):
    graph, params = nnx.split(Generator(nnx.Rngs(2)))
    minimizer = Minimizer(
        lambda params, *given: loss(nnx.merge(graph, params), *given),
        optax.adam(0.02),
        iterates=best(),
    )
    state, record = minimizer.run(minimizer.init(params), 8, *given)

    generator = Generator(nnx.Rngs(2))
    optimizer = nnx.Optimizer(generator, optax.adam(0.02), wrt=nnx.Param)
    value_and_grad, expected = nnx.jit(nnx.value_and_grad(loss)), []
    for _ in range(8):
        value, gradient = value_and_grad(generator, *given)
        optimizer.update(generator, gradient)
        expected.append(float(value))
    # Sums of float32 in another order; Adam makes as much of small gradients as of large ones.
    np.testing.assert_allclose(record.loss, expected, rtol=1e-4)
    assert expected[-1] < 0.9 * expected[0]
    found = loss(nnx.merge(graph, minimizer.read(state)), *given)
    np.testing.assert_allclose(found, min(expected), rtol=1e-4)
