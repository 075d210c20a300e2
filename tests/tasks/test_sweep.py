"""A sweep over style weights and content images, as one program: `vmap` of whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nst_jax import VGG19, Minimizer, make_targets, style_transfer_loss

LAYERS = {"content_layers": ("relu2_1",), "style_layers": ("relu1_1", "relu2_1")}


def loss(image, features, targets, style_weight):
    return style_transfer_loss(image, targets, features=features, style_weight=style_weight)


# Plain gradient descent: Adam's first steps are the gradient's sign, which rounding can turn.
MINIMIZER = Minimizer(loss, optax.sgd(0.3), has_aux=True)


def paint(weight, content, style, features):
    targets = make_targets(features, content, style, **LAYERS)
    state, record = MINIMIZER.run(MINIMIZER.init(content), 3, features, targets, weight)
    return state.variable, record.aux


@pytest.fixture(scope="module")
def sweep():
    features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(LAYERS["style_layers"])
    *contents, style = jax.random.uniform(jax.random.key(0), (3, 16, 18, 3))
    given = jnp.asarray([0.1, 1.0, 3.0]), jnp.stack(contents), style, features
    over_contents = jax.vmap(paint, in_axes=(None, 0, None, None))
    return given, jax.jit(jax.vmap(over_contents, in_axes=(0, None, None, None)))(*given)


@pytest.mark.parametrize(("i", "j"), [(0, 1), (2, 0)])
def test_each_picture_is_that_of_a_run_of_its_own(sweep, i, j):
    (weights, contents, style, features), (pictures, losses) = sweep
    assert pictures.shape == (3, 2, 16, 18, 3)
    alone, its_losses = paint(weights[i], contents[j], style, features)
    # Sums of float32 in another order.
    np.testing.assert_allclose(pictures[i, j], alone, atol=1e-5)
    np.testing.assert_allclose(losses.total[i, j], its_losses.total, rtol=1e-4)


def test_a_larger_weight_brings_more_style(sweep):
    _, (_, losses) = sweep
    assert losses.style.shape == (3, 2, 3)
    assert (np.diff(losses.style[..., -1], axis=0) < 0).all()
    assert (np.diff(losses.content[..., -1], axis=0) > 0).all()
