"""Bring your own feature network: any callable from an image to named maps.

    python examples/own_network.py --size=160 --steps=150

This network is one layer of random filters at three scales. Ustyuzhaninov et al., arXiv
1606.00021, found that such a layer is enough for textures. Nothing is downloaded or trained.
"""

import argparse
from tempfile import gettempdir

import jax
import jax.numpy as jnp
import optax

import nst_jax


def features(image):
    """Map an HWC image, at three scales, to the rectified results of 64 random 5x5 filters."""
    maps, (height, width, _) = {}, image.shape
    for i in range(3):
        kernel = jax.random.normal(jax.random.key(i), (64, 3, 5, 5))
        small = jax.image.resize(image, (height >> i, width >> i, 3), "linear") - 0.5
        planes = jax.lax.conv(small.transpose(2, 0, 1)[None], kernel, (1, 1), "SAME")
        maps[f"scale{i}"] = jax.nn.relu(planes[0].transpose(1, 2, 0))
    return maps


def loss(image, targets):
    """Return the loss of a picture, and its parts."""
    return nst_jax.style_transfer_loss(
        image,
        targets,
        features=features,
        style_weight=20.0,
        terms={"variation": (20.0, lambda image, maps: nst_jax.total_variation(image))},
    )


def main():
    """Paint one picture, print its loss, and save it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--content", default="png/content.png")
    parser.add_argument("--style", default="png/style.png")
    parser.add_argument("--size", type=int, default=160, help="longest side in px")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", default=f"{gettempdir()}/own_network.png")
    flags = parser.parse_args()

    content = jnp.asarray(nst_jax.load_image(flags.content, size=flags.size))
    style = jnp.asarray(nst_jax.load_image(flags.style, size=flags.size))
    targets = nst_jax.make_targets(
        features,
        content,
        style,
        content_layers=["scale1"],
        style_layers=["scale0", "scale1", "scale2"],
    )
    minimizer = nst_jax.Minimizer(loss, optax.adam(0.02, b2=0.99), has_aux=True)
    state, record = minimizer.run(minimizer.init(content), flags.steps, targets)
    print(f"loss {record.loss[0]:.4f} at first, {record.loss[-1]:.4f} at last")
    nst_jax.save_image(flags.output, jnp.clip(state.variable, 0, 1))
    print(f"wrote {flags.output}")


if __name__ == "__main__":
    main()
