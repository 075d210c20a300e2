"""Feature networks of Linen and of Equinox over scales; their arrays are arguments of the loss."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen

from nst_jax import Minimizer, Problem, make_targets, resample, run_scales, style_transfer_loss

LAYERS = {"content_layers": ["coarse"], "style_layers": ["fine", "coarse"]}
SCALES = [((12, 16), 6), ((24, 32), 6)]


class LinenPyramid(linen.Module):
    @linen.compact
    def __call__(self, image):
        fine = linen.relu(linen.Conv(8, (3, 3))(image))
        return {"fine": fine, "coarse": linen.avg_pool(fine, (2, 2), (2, 2))}


def linen_features():
    pyramid = LinenPyramid()
    params = pyramid.init(jax.random.key(0), jnp.zeros((8, 8, 3)))
    return jax.tree_util.Partial(pyramid.apply, params)


def equinox_features():
    eqx = pytest.importorskip("equinox")

    class EquinoxPyramid(eqx.Module):
        conv: eqx.nn.Conv2d

        def __call__(self, image):
            fine = jax.nn.relu(self.conv(image.transpose(2, 0, 1))).transpose(1, 2, 0)
            return {"fine": fine, "coarse": linen.avg_pool(fine, (2, 2), (2, 2))}

    return EquinoxPyramid(eqx.nn.Conv2d(3, 8, 3, padding=1, key=jax.random.key(0)))


def loss(image, features, targets):
    return style_transfer_loss(image, targets, features=features)


@pytest.mark.parametrize("network", [linen_features, equinox_features])
def test_the_loss_falls_at_every_scale(network):
    features = network()
    content, style = jax.random.uniform(jax.random.key(1), (2, 24, 32, 3))
    minimizer = Minimizer(loss, optax.adam(0.02), has_aux=True)

    def problem(shape):
        return Problem(
            minimizer, (features, make_targets(features, resample(content, shape), style, **LAYERS))
        )

    snapshots = list(run_scales(content, problem, scales=SCALES, snapshot_every=6))
    assert [s.image.shape for s in snapshots] == [(12, 16, 3), (24, 32, 3)]
    assert all(s.losses.loss[-1] < 0.9 * s.losses.loss[0] for s in snapshots)
