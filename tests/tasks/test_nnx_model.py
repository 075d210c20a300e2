"""A VGG is part of a model in Flax NNX: an optimizer trains the model's own layers alone."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from nst_jax import VGG19, describe_style, parameters, perceptual_loss

LAYERS = ("relu1_1", "relu2_1")


class Painter(nnx.Module):
    def __init__(self, rngs):
        self.features = VGG19(rngs=rngs, deepest="relu2_1").features(LAYERS)
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)

    def __call__(self, images):
        return images + self.conv(images)

    def loss(self, images, style):
        total, _ = perceptual_loss(
            self(images), images, features=self.features, style=style, content_layers=LAYERS[1:]
        )
        return total / len(images)


@nnx.jit
def train(painter, optimizer, images, style):
    value, gradient = nnx.value_and_grad(Painter.loss)(painter, images, style)
    optimizer.update(painter, gradient)
    return value


@pytest.fixture
def trained():
    painter = Painter(nnx.Rngs(0))
    optimizer = nnx.Optimizer(painter, optax.adam(0.01), wrt=nnx.Param)
    images = np.random.default_rng(0).uniform(size=(3, 16, 20, 3)).astype(np.float32)
    style = describe_style(painter.features, images[0, ::-1], layers=LAYERS)
    before = jax.tree.map(np.asarray, (parameters(painter.features.network), painter.conv.bias[:]))
    losses = [float(train(painter, optimizer, images[1:], style)) for _ in range(8)]
    return painter, optimizer, before, losses


def test_the_model_learns_and_the_network_stays(trained):
    painter, optimizer, (network, bias), losses = trained
    assert losses[-1] < 0.8 * losses[0]
    assert (painter.conv.bias[:] != bias).all()
    jax.tree.map(np.testing.assert_array_equal, parameters(painter.features.network), network)
    # Two moments of the 84 numbers of the convolution, and none of the network's.
    assert sum(x.size for x in jax.tree.leaves(optimizer.opt_state) if x.size > 1) == 2 * 84
