"""Bring your own optimizer: any optax transformation, here one written by hand and a schedule.

    python examples/own_optimizer.py --size=160 --steps=150

`normalized_momentum` steps along the averaged gradient, as gradient descent with momentum does, but
only the schedule sets the length of a step: a factor of the loss makes no difference.
"""

import argparse
import functools

import jax
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


@functools.partial(jax.jit, static_argnames="steps")
def paint(network, content, style, *, steps):
    """Return the state after some steps from the content image, and the `Losses` of each."""
    features = functools.partial(network, taps=(*CONTENT_LAYERS, *STYLE_LAYERS))
    targets = nst_jax.make_targets(
        features, content, style, content_layers=CONTENT_LAYERS, style_layers=tuple(STYLE_LAYERS)
    )
    loss = functools.partial(
        nst_jax.style_transfer_loss,
        targets=targets,
        features=features,
        style_layer_weights=STYLE_LAYERS,
        regularizers={"variation": (40.0, nst_jax.total_variation)},
    )
    schedule = optax.cosine_decay_schedule(0.01, steps)
    optimizer = optax.chain(normalized_momentum(0.9), optax.scale_by_learning_rate(schedule))
    state = nst_jax.init(content, optimizer=optimizer)
    return nst_jax.run(state, steps, loss=loss, optimizer=optimizer)


def main():
    """Paint one picture, print its loss, and save it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--content", default="png/content.png")
    parser.add_argument("--style", default="png/style.png")
    parser.add_argument("--size", type=int, default=160, help="longest side in px")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--network", default="vgg19", choices=("vgg19", "vgg16"))
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default="own_optimizer.png")
    flags = parser.parse_args()

    network = nst_jax.load_network(flags.network, flags.weights, pooling="max")
    content = jnp.asarray(nst_jax.load_image(flags.content, size=flags.size))
    style = jnp.asarray(nst_jax.load_image(flags.style, size=flags.size))
    state, losses = paint(network, content, style, steps=flags.steps)
    print(f"loss {losses.total[0]:.4f} at first, {losses.total[-1]:.4f} at last")
    nst_jax.save_image(flags.output, jnp.clip(state.variable, 0, 1))


if __name__ == "__main__":
    main()
