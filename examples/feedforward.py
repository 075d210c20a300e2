"""Train a small network that stylizes any picture in one pass, in Flax NNX.

    python examples/feedforward.py --content png/content.png --size=96 --steps=300

Johnson et al., arXiv 1603.08155: `perceptual_loss` compares an output with its input and a style.
"""

import argparse
from tempfile import gettempdir

import jax
import numpy as np
import optax
from flax import nnx

import nst_jax

STYLE = {"relu1_1": 8.0, "relu2_1": 8.0, "relu3_1": 4.0, "relu4_1": 2.0}


class Stylizer(nnx.Module):
    """Downsample to a quarter, apply residual blocks, upsample; the identity before training."""

    def __init__(self, rngs):
        plan = [(3, 32, 2), (32, 64, 2), *[(64, 64, 1)] * 3, (64, 32, 1), (32, 32, 1)]
        self.convs = nnx.List(nnx.Conv(a, b, (3, 3), strides=s, rngs=rngs) for a, b, s in plan)
        self.last = nnx.Conv(32, 3, (3, 3), kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, images):
        """Stylize sRGB images (n, height, width, 3)."""
        x = images
        for i, conv in enumerate(self.convs):
            x = x.repeat(2, 1).repeat(2, 2) if i >= 5 else x
            y = nnx.relu(jax.nn.standardize(conv(x), axis=(1, 2)))
            x = x + y if x.shape == y.shape else y
        change = self.last(x)[:, : images.shape[1], : images.shape[2]]
        return nnx.sigmoid(jax.scipy.special.logit(0.01 + 0.98 * images) + change)


@nnx.jit
def train(stylizer, optimizer, batch, **given):
    """Make one update, and return the mean loss of the batch before it."""
    value, gradient = nnx.value_and_grad(
        lambda f: nst_jax.perceptual_loss(f(batch), batch, content_layers=["relu4_2"], **given)[0]
    )(stylizer)
    optimizer.update(stylizer, gradient)
    return value / len(batch)


def main():
    """Train on random crops, print the loss, and save the first image before and after."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--content", nargs="+", default=["png/content.png"], help="images")
    parser.add_argument("--style", default="png/style.png")
    parser.add_argument("--size", type=int, default=96, help="sides of the crops in px")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default=f"{gettempdir()}/feedforward.png")
    flags = parser.parse_args()
    size, rng, losses = flags.size, np.random.default_rng(0), []
    first = nst_jax.load_image(flags.content[0], size=2 * size, side="shortest")
    pictures = [nst_jax.load_image(path, shape=first.shape[:2]) for path in flags.content]
    vgg = nst_jax.load_network("vgg19", flags.weights, pooling="max").features(["relu4_2", *STYLE])
    style = nst_jax.load_image(flags.style, size=2 * size, side="shortest")
    statistics = nst_jax.describe_style(vgg, style, layers=tuple(STYLE))
    given = {"features": vgg, "style": statistics, "style_layer_weights": STYLE}
    stylizer = Stylizer(nnx.Rngs(0))
    optimizer = nnx.Optimizer(stylizer, optax.adam(2e-3), wrt=nnx.Param)
    for _ in range(flags.steps):
        corners = rng.integers(np.subtract(first.shape[:2], size) + 1, size=(4, 2))
        crops = [rng.choice(pictures)[y : y + size, x : x + size] for y, x in corners]
        losses.append(train(stylizer, optimizer, np.stack(crops), **given))
    print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last")
    nst_jax.save_image(flags.output, np.concatenate([first, stylizer(first[None])[0]], axis=1))
    print(f"wrote {flags.output}")


if __name__ == "__main__":
    main()
