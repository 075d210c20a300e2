"""Paint one picture under several style weights at once: `jax.vmap` over whole optimizations.

    python examples/sweep.py --size=160 --steps=150 --style-weights 0.1 0.3 1 3 10

The loss is a pure function of the picture and of its weights, the optimizer's state is a pytree,
and `Minimizer.run` is a loop on the device. So a sweep is a batch in one program. The strip shows
the content image, then one picture for each weight.
"""

import argparse
from tempfile import gettempdir

import jax
import jax.numpy as jnp
import optax

import nst_jax

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = {"relu1_1": 64.0, "relu2_1": 16.0, "relu3_1": 4.0, "relu4_1": 1.0}


def loss(image, features, targets, style_weight):
    """Return the loss of a picture, and its parts."""
    return nst_jax.style_transfer_loss(
        image,
        targets,
        features=features,
        style_weight=style_weight,
        style_layer_weights=STYLE_LAYERS,
        terms={"variation": (20.0, lambda image, maps: nst_jax.total_variation(image))},
    )


def clip(image):
    """Keep the colors within bounds."""
    return jnp.clip(image, 0, 1)


def main():
    """Paint the sweep, print the content and style losses, and save the strip."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--content", default="png/content.png")
    parser.add_argument("--style", default="png/style.png")
    parser.add_argument("--style-weights", type=float, nargs="+", default=[0.1, 0.3, 1, 3, 10])
    parser.add_argument("--size", type=int, default=160, help="longest side in px")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--network", default="vgg19", choices=("vgg19", "vgg16"))
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default=f"{gettempdir()}/sweep.png")
    flags = parser.parse_args()

    content = jnp.asarray(nst_jax.load_image(flags.content, size=flags.size))
    style = jnp.asarray(nst_jax.load_image(flags.style, size=flags.size))
    network = nst_jax.load_network(flags.network, flags.weights, pooling="max")
    features = network.features((*CONTENT_LAYERS, *STYLE_LAYERS))
    targets = nst_jax.make_targets(
        features, content, style, content_layers=CONTENT_LAYERS, style_layers=tuple(STYLE_LAYERS)
    )
    minimizer = nst_jax.Minimizer(loss, optax.adam(0.02, b2=0.99), has_aux=True, project=clip)
    state = minimizer.init(content)
    paint = jax.vmap(lambda weight: minimizer.run(state, flags.steps, features, targets, weight))
    states, record = paint(jnp.asarray(flags.style_weights))

    print("style weight   content     style   (unweighted, before the last step)")
    last = record.aux.content[:, -1], record.aux.style[:, -1]
    for row in zip(flags.style_weights, *last, strict=True):
        print("{:12g} {:9.4f} {:9.4f}".format(*row))
    nst_jax.save_image(flags.output, jnp.concatenate([content, *states.variable], axis=1))
    print(f"wrote {flags.output}")


if __name__ == "__main__":
    main()
