"""The loss for training loops: the style transfer loss of a batch, divided by its length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import build_vgg19, describe_style, make_targets, perceptual_loss, style_transfer_loss

CONTENT, STYLE = ("relu2_1",), ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def features(random_params):
    network = build_vgg19(random_params, deepest="relu2_1")
    return jax.jit(functools.partial(network, taps=CONTENT + STYLE))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(3)
    images, contents = rng.uniform(size=(2, 3, 12, 10, 3)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(contents)


@pytest.mark.parametrize("style_loss", ["moments", "pytorch", "wasserstein"])
def test_is_the_loss_of_each_image_of_the_batch(features, batch, photographs, style_loss):
    images, contents = batch
    style = jnp.asarray(photographs[1])
    weights = {"content_weight": 0.5, "style_layer_weights": {"relu2_1": 3.0}}
    found, losses = perceptual_loss(
        images,
        contents,
        style=describe_style(features, style, layers=STYLE),
        features=features,
        content_layers=CONTENT,
        style_loss=style_loss,
        **weights,
    )
    each = []
    for image, content in zip(images, contents, strict=True):
        targets = make_targets(
            features,
            jnp.asarray(content),
            style,
            content_layers=CONTENT,
            style_layers=STYLE,
            style_loss=style_loss,
        )
        value, _ = style_transfer_loss(image, targets, features=features, **weights)
        each.append(value)
    # Float32: sums over some thousand numbers in another order.
    np.testing.assert_allclose(losses.total, each, rtol=1e-5)
    np.testing.assert_allclose(found, np.sum(losses.total), rtol=1e-6)
    assert losses.style_terms["relu1_1"].shape == (len(images),)


def test_without_a_style_it_compares_content_alone(features, batch):
    images, contents = batch
    arguments = {"features": features, "content_layers": CONTENT, "content_loss": "mean"}
    found, losses = perceptual_loss(images, contents, **arguments)
    maps, others = features(images)["relu2_1"], features(contents)["relu2_1"]
    np.testing.assert_allclose(found / len(images), np.mean((maps - others) ** 2), rtol=1e-5)
    assert not losses.style.any()
    assert perceptual_loss(contents, contents, **arguments)[0] == 0


def test_johnsons_style_reconstruction_loss(features, batch, photographs):
    """arXiv 1603.08155, eqs. 3 and 4, in float64."""
    images, contents = batch
    _, losses = perceptual_loss(
        images[0],
        contents[0],
        style=describe_style(features, jnp.asarray(photographs[0]), layers=STYLE),
        features=features,
        content_layers=CONTENT,
        style_loss="gatys-code",
    )

    def gram(map_):
        flat = np.asarray(map_, np.float64).reshape(-1, map_.shape[-1])
        return flat.T @ flat / flat.size

    for name in STYLE:
        ours, theirs = (features(jnp.asarray(x))[name] for x in (images[0], photographs[0]))
        expected = np.sum((gram(ours) - gram(theirs)) ** 2)
        np.testing.assert_allclose(losses.style_terms[name], expected, rtol=1e-4)


def test_gradient_reaches_what_made_the_images_and_not_the_contents(features, batch):
    images, contents = batch

    def loss(gain, contents):
        return perceptual_loss(gain * images, contents, features=features, content_layers=CONTENT)[
            0
        ]

    by_gain, by_contents = jax.jit(jax.grad(loss, argnums=(0, 1)))(0.7, contents)
    assert abs(by_gain) > 0
    assert not by_contents.any()
