"""Learn the weights of the style layers: a gradient through the optimization that uses them.

    python examples/layer_weights.py --size=64 --steps=6 --outer-steps=6

An inner minimizer makes a few steps with a weight for each layer. `jax.grad` goes back through all
of them, from the loss with equal weights to the layers' weights, and an outer minimizer follows it.
`jax.checkpoint` keeps only the picture of each step.

A ReLU network's gradient jumps: finite differences must be so small that they need float64.
"""

import argparse
import functools
from tempfile import gettempdir

import jax
import jax.numpy as jnp
import optax

import nst_jax

CONTENT = ("relu3_1",)
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


def loss(image, features, targets, weights):
    """Return the loss of a picture; the style layers not named have the weight 1."""
    options = {"features": features, "style_layer_weights": weights}
    return nst_jax.style_transfer_loss(image, targets, **options)[0]


def judge(logits, features, targets, start, *, steps):
    """Return the outer loss of the picture after the inner steps, the weights and the picture."""
    # Each step changes the picture by a root mean square of 0.02.
    optimizer = optax.normalize_by_update_norm(scale_factor=-0.02 * start.size**0.5)
    inner, shares = nst_jax.Minimizer(loss, optimizer), len(STYLE) * jax.nn.softmax(logits)
    weights = dict(zip(STYLE, shares, strict=True))

    @jax.checkpoint
    def step(state, _):
        return inner.step(state, features, targets, weights)

    state, _ = jax.lax.scan(step, inner.init(start), length=steps)
    return loss(state.variable, features, targets, {}), (shares, state.variable)


def main():
    """Check a gradient, learn the weights, and save the picture of each outer step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=64, help="longest side in px")
    parser.add_argument("--steps", type=int, default=6, help="inner steps")
    parser.add_argument("--outer-steps", type=int, default=6)
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default=f"{gettempdir()}/layer_weights.png")
    flags = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    paths = "png/content.png", "png/style.png"
    content, style = (nst_jax.load_image(path, size=flags.size).astype(float) for path in paths)
    features = nst_jax.load_network("vgg19", flags.weights, dtype=float).features(CONTENT + STYLE)
    targets = nst_jax.make_targets(
        features, content, style, content_layers=CONTENT, style_layers=STYLE
    )
    given = features, targets, content

    logits, outer = jnp.zeros(len(STYLE)), functools.partial(judge, steps=flags.steps)
    value, slope = jax.jit(outer), jax.jit(jax.grad(outer, has_aux=True))(logits, *given)[0]
    after, before = (value(logits.at[0].add(h), *given)[0] for h in (1e-6, -1e-6))
    print(f"gradient for {STYLE[0]} {slope[0]:.9f}, difference {(after - before) / 2e-6:.9f}")

    minimizer = nst_jax.Minimizer(outer, optax.adam(0.2), has_aux=True)
    _, record = minimizer.run(minimizer.init(logits), flags.outer_steps, *given)
    for each, weights in zip(record.loss, record.aux[0], strict=True):
        print(f"outer loss {each:.4f}, weights {weights}")
    nst_jax.save_image(flags.output, jnp.clip(jnp.concatenate(record.aux[1], axis=1), 0, 1))
    print(f"wrote {flags.output}")


if __name__ == "__main__":
    main()
