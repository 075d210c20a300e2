"""Paint one picture under several style weights at once: `jax.vmap` over whole optimizations.

    python examples/sweep.py --size=160 --steps=150 --style-weights 0.1 0.3 1 3 10

The loss is a pure function of the picture and of its weights, the optimizer's state is a pytree,
and `nst_jax.run` is a loop on the device. So a sweep is a batch in one program. The strip shows
the content image, then one picture for each weight.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import optax

import nst_jax

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = {"relu1_1": 64.0, "relu2_1": 16.0, "relu3_1": 4.0, "relu4_1": 1.0}


@functools.partial(jax.jit, static_argnames="steps")
def sweep(network, content, style, style_weights, *, steps):
    """Return the last `State` for each weight, and the `Losses` of every step of each."""
    features = functools.partial(network, taps=CONTENT_LAYERS + tuple(STYLE_LAYERS))
    targets = nst_jax.make_targets(
        features, content, style, content_layers=CONTENT_LAYERS, style_layers=tuple(STYLE_LAYERS)
    )
    optimizer = optax.adam(0.02, b2=0.99)

    def paint(style_weight):
        loss = functools.partial(
            nst_jax.style_transfer_loss,
            targets=targets,
            features=features,
            style_weight=style_weight,
            style_layer_weights=STYLE_LAYERS,
            regularizers={"variation": (20.0, nst_jax.total_variation)},
        )
        state = nst_jax.init(content, optimizer=optimizer)
        clip = functools.partial(jnp.clip, min=0, max=1)
        return nst_jax.run(state, steps, loss=loss, optimizer=optimizer, project=clip)

    return jax.vmap(paint)(style_weights)


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
    parser.add_argument("--output", default="sweep.png")
    flags = parser.parse_args()

    content = jnp.asarray(nst_jax.load_image(flags.content, size=flags.size))
    style = jnp.asarray(nst_jax.load_image(flags.style, size=flags.size))
    network = nst_jax.load_network(flags.network, flags.weights, pooling="max")
    weights = jnp.asarray(flags.style_weights)
    states, losses = sweep(network, content, style, weights, steps=flags.steps)

    print("style weight   content     style   (unweighted, before the last step)")
    for weight, at, toward in zip(weights, losses.content, losses.style, strict=True):
        print(f"{weight:12g} {at[-1]:9.4f} {toward[-1]:9.4f}")
    nst_jax.save_image(flags.output, jnp.concatenate([content, *states.variable], axis=1))


if __name__ == "__main__":
    main()
