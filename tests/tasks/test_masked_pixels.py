"""Inpainting: pixels in a mask change, and all others keep their colors to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nst_jax import VGG19, Minimizer, make_targets, style_transfer_loss

LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture
def problem():
    features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(LAYERS)
    content, style = jax.random.uniform(jax.random.key(0), (2, 16, 20, 3))
    targets = make_targets(features, content, style, content_layers=LAYERS[1:], style_layers=LAYERS)
    mask = jnp.zeros((16, 20, 1), bool).at[4:12, 5:15].set(True)
    return features, targets, content, mask


def loss(image, features, targets):
    return style_transfer_loss(image, targets, features=features)[0]


def test_only_pixels_in_the_mask_change(problem):
    features, targets, content, mask = problem
    minimizer = Minimizer(
        loss, optax.adam(0.02), project=lambda image: jnp.where(mask, image.clip(0, 1), content)
    )
    state, record = minimizer.run(minimizer.init(content), 5, features, targets)
    changed = np.asarray(state.variable != content).any(-1)
    np.testing.assert_array_equal(changed, mask[..., 0])
    assert record.loss[-1] < 0.9 * record.loss[0]


def test_it_descends_as_if_only_those_pixels_were_the_variable(problem):
    features, targets, content, mask = problem
    optimizer = optax.sgd(0.3)
    projected = Minimizer(loss, optimizer, project=lambda image: jnp.where(mask, image, content))
    inside = Minimizer(
        lambda image, *given: loss(jnp.where(mask, image, content), *given), optimizer
    )
    pictures = [
        each.run(each.init(content), 3, features, targets)[0].variable
        for each in (projected, inside)
    ]
    # Sums of float32 in another order.
    np.testing.assert_allclose(*pictures, atol=1e-6)
