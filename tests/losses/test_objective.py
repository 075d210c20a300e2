import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.losses.objective import make_targets as make_any_targets
from nst_jax.losses.objective import style_transfer_loss as any_style_transfer_loss

pytestmark = pytest.mark.usefixtures("strict_dtypes")


# The formulas of the PyTorch program, which are the easiest to write down again.
style_transfer_loss = functools.partial(
    any_style_transfer_loss,
    content_loss="mean",
    style_loss="pytorch",
    content_weight=1.0,
    style_weight=100.0,
)
make_targets = functools.partial(make_any_targets, style_loss="pytorch")


def features(image):
    """A feature network that is no VGG: any callable from an image to named maps will do."""
    edges = image[..., 1:, :, :] - image[..., :-1, :, :]
    return {"color": image, "edges": edges, "unused": image * jnp.nan}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.random((6, 5, 3)), np.float32) for _ in range(3)]


def targets_of(images, **layers):
    layers = {"content_layers": ("edges",), "style_layers": ("color", "edges"), **layers}
    return make_targets(features, images[0], images[1], **layers)


def test_total_is_the_weighted_sum_of_the_named_terms(images):
    targets = targets_of(images)
    total, parts = style_transfer_loss(
        images[2], targets, features=features, content_weight=3.0, style_weight=7.0
    )
    assert list(parts.content_terms) == ["edges"]
    assert list(parts.style_terms) == ["color", "edges"]
    x, content, style = (np.asarray(i, np.float64) for i in (images[2], images[0], images[1]))
    diff = np.diff(x, axis=0) - np.diff(content, axis=0)
    np.testing.assert_allclose(parts.content, np.mean(diff**2), rtol=1e-5)
    gram = lambda f: f.reshape(-1, 3).T @ f.reshape(-1, 3)  # noqa: E731
    expected = [
        np.mean((gram(f) - gram(g)) ** 2) / f.size
        for f, g in ((x, style), (np.diff(x, axis=0), np.diff(style, axis=0)))
    ]
    np.testing.assert_allclose(list(parts.style_terms.values()), expected, rtol=1e-5)
    np.testing.assert_allclose(parts.style, sum(expected), rtol=1e-5)
    np.testing.assert_allclose(total, 3 * parts.content + 7 * parts.style, rtol=1e-6)
    assert parts.total == total


def test_content_is_zero_at_the_content_and_style_at_the_style(images):
    targets = targets_of(images)
    assert style_transfer_loss(images[0], targets, features=features)[1].content == 0
    assert style_transfer_loss(images[1], targets, features=features)[1].style == 0


def test_style_image_may_have_another_size(images):
    targets = make_targets(
        features, images[0], images[1][:4], content_layers=("color",), style_layers=("color",)
    )
    assert np.isfinite(style_transfer_loss(images[2], targets, features=features)[0])


def test_no_content_layers_is_texture_synthesis(images):
    targets = targets_of(images, content_layers=())
    total, parts = style_transfer_loss(images[2], targets, features=features)
    assert parts.content == 0
    assert total == 100 * parts.style


def test_batch_is_the_sum_of_its_images(images):
    batch = jnp.stack(images)
    targets = make_targets(
        features, batch, batch[::-1], content_layers=("color",), style_layers=("edges",)
    )
    alone = [
        style_transfer_loss(
            batch[i],
            make_targets(
                features,
                batch[i],
                batch[2 - i],
                content_layers=("color",),
                style_layers=("edges",),
            ),
            features=features,
        )[0]
        for i in range(3)
    ]
    total = style_transfer_loss(batch, targets, features=features)[0]
    np.testing.assert_allclose(total, sum(alone), rtol=1e-5)


def test_vmaps_over_style_weights(images):
    targets = targets_of(images)
    loss = lambda weight: style_transfer_loss(  # noqa: E731
        images[2], targets, features=features, style_weight=weight
    )[0]
    weights = jnp.asarray([1.0, 10.0, 100.0])
    mapped = jax.vmap(loss)(weights)
    np.testing.assert_allclose(mapped, [loss(w) for w in weights], rtol=1e-6)


def test_unknown_layer_is_an_error(images):
    with pytest.raises(KeyError, match="relu9_9"):
        targets_of(images, content_layers=("relu9_9",))
