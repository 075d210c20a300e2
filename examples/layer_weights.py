"""Learn the weights of the style layers: a gradient through the optimization that uses them.

    python examples/layer_weights.py --size=64 --steps=6 --outer-steps=6

An inner loop stylizes for a few steps with a weight for each layer. An outer loss judges the
picture, and `jax.grad` goes back through all inner steps to the weights; `jax.checkpoint` keeps
only the picture of each step. (The network's operations have gradients of their own, which can be
differentiated again in reverse mode, not in forward mode.) The outer loss has equal weights: the
weights are learned with which a few steps reduce this loss most.

A ReLU network's gradient jumps: finite differences must be so small that they need float64.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import optax

import nst_jax

CONTENT = ("relu3_1",)
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


@functools.partial(jax.jit, static_argnames="steps")
def judge(logits, network, content, style, *, steps):
    """Return the outer loss of the picture after the inner steps, and that picture."""
    features = functools.partial(network, taps=CONTENT + STYLE)
    targets = nst_jax.make_targets(
        features, content, style, content_layers=CONTENT, style_layers=STYLE
    )
    outer = functools.partial(nst_jax.style_transfer_loss, targets=targets, features=features)
    weights = dict(zip(STYLE, len(STYLE) * jax.nn.softmax(logits), strict=True))
    inner = functools.partial(outer, style_layer_weights=weights)
    # Each step changes the picture by a root mean square of 0.02.
    optimizer = optax.normalize_by_update_norm(scale_factor=-0.02 * content.size**0.5)

    @jax.checkpoint
    def step(state, _):
        return nst_jax.step(state, loss=inner, optimizer=optimizer)

    state, _ = jax.lax.scan(step, nst_jax.init(content, optimizer=optimizer), length=steps)
    return outer(state.variable)[0], state.variable


def main():
    """Check a gradient, learn the weights, and save the pictures of the first and the last."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=64, help="longest side in px")
    parser.add_argument("--steps", type=int, default=6, help="inner steps")
    parser.add_argument("--outer-steps", type=int, default=6)
    parser.add_argument("--network", default="vgg19", choices=("vgg19", "vgg16"))
    parser.add_argument("--weights", default="auto", help="as for nst_jax.load_network")
    parser.add_argument("--output", default="layer_weights.png")
    flags = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    network = nst_jax.load_network(flags.network, flags.weights, dtype=jnp.float64)
    content = jnp.asarray(nst_jax.load_image("png/content.png", size=flags.size), jnp.float64)
    style = jnp.asarray(nst_jax.load_image("png/style.png", size=flags.size), jnp.float64)
    given = {"network": network, "content": content, "style": style, "steps": flags.steps}
    judge_and_gradient = jax.jit(jax.value_and_grad(judge, has_aux=True), static_argnames="steps")

    logits, optimizer = jnp.zeros(len(STYLE)), optax.adam(0.2)
    after, before = (judge(logits.at[0].add(h), **given)[0] for h in (1e-6, -1e-6))
    print(f"gradient for {STYLE[0]} by a finite difference: {(after - before) / 2e-6:.9f}")

    state, pictures = optimizer.init(logits), [content]
    for _ in range(flags.outer_steps):
        (loss, picture), slope = judge_and_gradient(logits, **given)
        print(f"outer loss {loss:.4f}, weights {4 * jax.nn.softmax(logits)}, gradient {slope}")
        updates, state = optimizer.update(slope, state)
        logits, pictures = optax.apply_updates(logits, updates), [*pictures, picture]
    nst_jax.save_image(flags.output, jnp.clip(jnp.concatenate([pictures[1], picture], 1), 0, 1))


if __name__ == "__main__":
    main()
