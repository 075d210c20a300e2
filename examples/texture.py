"""Grow a texture out of noise: style statistics alone, no content.

    python examples/texture.py --style=png/mosaic.png --size=192 --steps=200

Gatys, Ecker and Bethge, arXiv 1505.07376: any picture whose feature maps have the texture's Gram
matrices looks like the texture. So L-BFGS starts from noise and matches the matrices. Without
content layers `make_targets` keeps nothing of its content image; here the style stands in.
"""

import argparse
from tempfile import gettempdir

import jax
import jax.numpy as jnp
import optax

import nst_jax

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


def loss(image, features, targets):
    """Return the loss of a picture, and its parts."""
    return nst_jax.style_transfer_loss(image, targets, features=features)


def main():
    """Grow one square texture, print the loss of each layer, and save the texture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--style", default="png/mosaic.png", help="the texture to imitate")
    parser.add_argument("--size", type=int, default=192, help="sides of the new texture in px")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", default="vgg19", choices=("vgg19", "vgg16"))
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default=f"{gettempdir()}/texture.png")
    flags = parser.parse_args()

    style = jnp.asarray(nst_jax.load_image(flags.style, size=flags.size, side="shortest"))
    mean, deviation = style.mean((0, 1), keepdims=True), style.std((0, 1), keepdims=True)
    shape = (flags.size, flags.size, 3)
    noise = mean + deviation * jax.random.normal(jax.random.key(flags.seed), shape)

    features = nst_jax.load_network(flags.network, flags.weights).features(LAYERS)
    targets = nst_jax.make_targets(
        features, style, style, content_layers=(), style_layers=LAYERS, style_loss="relative-gram"
    )
    minimizer = nst_jax.Minimizer(loss, optax.lbfgs(memory_size=20), has_aux=True)
    state, record = minimizer.run(minimizer.init(noise), flags.steps, features, targets)
    for name, terms in record.aux.style_terms.items():
        print(f"{name}  {terms[0]:.3e} at first, {terms[-1]:.3e} at last")
    texture = jnp.clip(state.variable, 0, 1)
    nst_jax.save_image(flags.output, jnp.concatenate([style, texture], axis=1))
    print(f"wrote {flags.output}")


if __name__ == "__main__":
    main()
