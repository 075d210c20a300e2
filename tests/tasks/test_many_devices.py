"""A batch of 16 images over four devices: the gradient of each image is that of one device."""

import os
import subprocess
import sys

from fast import xla_flags

# A process of its own, as JAX must be told of the devices before it starts.
PROGRAM = """
import jax, numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from nst_jax import VGG19, describe_style, perceptual_loss

TAPS = ("relu1_1", "relu2_1")
features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(TAPS)
contents, images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 16, 3))
style = describe_style(features, contents[0, ::-1], layers=TAPS)

@jax.jit
def gradient(images, contents, features, style):
    def loss(images):
        return perceptual_loss(images, contents, features=features, style=style,
                               content_layers=["relu2_1"])
    return jax.grad(loss, has_aux=True)(images)

expected, its_losses = gradient(images, contents, features, style)
for kind in (AxisType.Explicit, AxisType.Auto):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
    cut, whole = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())
    inputs = *jax.device_put((images, contents), cut), *jax.device_put((features, style), whole)
    with jax.set_mesh(mesh):
        found, losses = gradient(*inputs)
    assert found.sharding.shard_shape(found.shape) == (4, 16, 16, 3), found.sharding
    assert losses.total.sharding.shard_shape((16,)) == (4,), losses.total.sharding
    # Sums of float32 in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
    np.testing.assert_allclose(losses.total, its_losses.total, rtol=1e-5)
"""


def test_gradient_is_that_of_one_device():
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices=4)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
