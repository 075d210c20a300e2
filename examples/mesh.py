"""One image over many devices: its rows are sharded, and the compiler does the rest.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/mesh.py --size=256 --steps=3

The variable simulates four devices on one CPU; without it the script takes all devices of JAX.
Convolutions get border rows from neighbors (collective-permute), statistics are sums (all-reduce),
and no device holds a whole map (all-gather). The poolings need 16 n rows on each device, and the
mesh's axis is of the type Auto: the sums over rows say nothing of where their results are.
"""

import argparse
from tempfile import gettempdir

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import nst_jax

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def loss(image, features, targets):
    """Return the loss of a picture; the code is the same for any number of devices."""
    return nst_jax.style_transfer_loss(image, targets, features=features)[0]


def paint(features, content, style, *, steps):
    """Return the picture after some steps, the loss before the last, and the compiled step."""
    targets = nst_jax.make_targets(
        features, content, style, content_layers=CONTENT_LAYERS, style_layers=STYLE_LAYERS
    )
    minimizer = nst_jax.Minimizer(loss, optax.adam(0.02, b2=0.99))
    state = minimizer.init(content)
    step = jax.jit(minimizer.step).lower(state, features, targets).compile()
    for _ in range(steps):
        state, record = step(state, features, targets)
    return np.asarray(state.variable), float(record.loss), step


def main():
    """Make the same steps on one device and on all, compare the pictures, and save one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="both sides in px")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--network", default="vgg19", choices=("vgg19", "vgg16"))
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default=f"{gettempdir()}/mesh.png")
    flags = parser.parse_args()
    shape = (flags.size,) * 2
    content = jnp.asarray(nst_jax.load_image("png/content.png", shape=shape))
    style = jnp.asarray(nst_jax.load_image("png/style.png", shape=shape))
    network = nst_jax.load_network(flags.network, flags.weights, conv="direct")
    features = network.features(CONTENT_LAYERS + STYLE_LAYERS)
    alone, its_loss, one = paint(features, content, style, steps=flags.steps)

    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
    rows, every = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("rows", None))
    content, features, style = jax.device_put((content, features, style), (rows, every, every))
    together, same_loss, many = paint(features, content, style, steps=flags.steps)

    program = many.as_text()
    assert "all-gather" not in program, "a device holds a whole map"
    count = {name: program.count(f" {name}(") for name in ("collective-permute", "all-reduce")}
    print(f"{mesh.size} devices: {count}, no all-gather")
    memory = [each.memory_analysis().temp_size_in_bytes / 1e6 for each in (one, many)]
    print(f"working memory of one device: {memory[0]:.0f} MB alone, {memory[1]:.0f} MB of many")
    errors = abs(same_loss / its_loss - 1), np.linalg.norm(together - alone) / np.linalg.norm(alone)
    print("relative difference: {:.1e} of the loss, {:.1e} of the picture".format(*errors))
    nst_jax.save_image(flags.output, np.clip(together, 0, 1))
    print(f"wrote {flags.output}")


if __name__ == "__main__":
    main()
