"""Products with the Hessian and with the Gauss–Newton matrix, which no program forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nst_jax import VGG19, make_targets, style_transfer_loss

LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture
def problem():
    """In float64, as a difference of gradients loses half of the digits."""
    with jax.enable_x64(True):
        double = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        network = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1", **double)
        draws = jax.random.uniform(jax.random.key(0), (3, 12, 10, 3), jnp.float64)
        yield network.features(LAYERS), *draws


def test_hessian_vector_product_is_the_change_of_the_gradient(problem):
    features, content, style, vector = problem
    targets = make_targets(features, content, style, content_layers=LAYERS[1:], style_layers=LAYERS)

    @jax.jit
    @jax.grad
    def gradient(image):
        return style_transfer_loss(image, targets, features=features)[0]

    _, product = jax.jvp(gradient, (1 - content,), (vector,))
    step = 1e-6  # so small that no ReLU changes sides, and rounding is 1e-16 / 1e-6
    after, before = (gradient(1 - content + h * vector) for h in (step, -step))
    np.testing.assert_allclose(
        product, (after - before) / (2 * step), atol=1e-7 * abs(product).max()
    )


def test_without_residuals_the_hessian_is_the_gauss_newton_matrix(problem):
    features, content, _, vector = problem
    targets = make_targets(features, content, content, content_layers=LAYERS, style_layers=())

    def loss(image):
        options = {"content_loss": "half-sum", "content_weight": 1.0}
        return style_transfer_loss(image, targets, features=features, **options)[0]

    @jax.jit
    def gauss_newton(vector):
        _, push = jax.linearize(features, content)
        _, pull = jax.vjp(features, content)
        return pull(push(vector))[0]

    _, hessian = jax.jvp(jax.grad(loss), (content,), (vector,))
    product = gauss_newton(vector)
    np.testing.assert_allclose(product, hessian, atol=1e-12 * abs(hessian).max())
    assert jnp.vdot(vector, product) > 0
