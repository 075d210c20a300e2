"""Bring your own optimizer: any optax transformation, here one written by hand and a schedule.

    python examples/own_optimizer.py --size=160 --steps=150

`normalized_momentum` steps along the averaged gradient, as gradient descent with momentum does, but
only the schedule sets the length of a step: a factor of the loss makes no difference.
"""

import argparse
from tempfile import gettempdir

import jax.numpy as jnp
import optax

import nst_jax

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = {"relu1_1": 32.0, "relu2_1": 8.0, "relu3_1": 2.0, "relu4_1": 0.5}


def normalized_momentum(decay):
    """Return an optax transformation: the averaged gradient, brought to a root mean square of 1."""

    def update(gradient, momentum, variable=None):
        momentum = decay * momentum + (1 - decay) * gradient
        return momentum / jnp.sqrt(jnp.mean(momentum**2)), momentum

    return optax.GradientTransformation(jnp.zeros_like, update)


def loss(image, features, targets):
    """Return the loss of a picture, and its parts."""
    return nst_jax.style_transfer_loss(
        image,
        targets,
        features=features,
        style_layer_weights=STYLE_LAYERS,
        terms={"variation": (40.0, lambda image, maps: nst_jax.total_variation(image))},
    )


def main():
    """Paint one picture, print its loss, and save it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--content", default="png/content.png")
    parser.add_argument("--style", default="png/style.png")
    parser.add_argument("--size", type=int, default=160, help="longest side in px")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--network", default="vgg19", choices=("vgg19", "vgg16"))
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default=f"{gettempdir()}/own_optimizer.png")
    flags = parser.parse_args()

    network = nst_jax.load_network(flags.network, flags.weights, pooling="max")
    content = jnp.asarray(nst_jax.load_image(flags.content, size=flags.size))
    style = jnp.asarray(nst_jax.load_image(flags.style, size=flags.size))
    features = network.features((*CONTENT_LAYERS, *STYLE_LAYERS))
    targets = nst_jax.make_targets(
        features, content, style, content_layers=CONTENT_LAYERS, style_layers=tuple(STYLE_LAYERS)
    )
    schedule = optax.cosine_decay_schedule(0.01, flags.steps)
    optimizer = optax.chain(normalized_momentum(0.9), optax.scale_by_learning_rate(schedule))
    minimizer = nst_jax.Minimizer(loss, optimizer, has_aux=True)
    state, record = minimizer.run(minimizer.init(content), flags.steps, features, targets)
    print(f"loss {record.loss[0]:.4f} at first, {record.loss[-1]:.4f} at last")
    nst_jax.save_image(flags.output, jnp.clip(state.variable, 0, 1))
    print(f"wrote {flags.output}")


if __name__ == "__main__":
    main()
