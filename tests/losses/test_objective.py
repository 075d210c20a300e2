import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import (
    InputError,
    StyleFormula,
    Targets,
    style_loss,
    style_statistics,
    style_target,
)
from nst_jax.losses.objective import make_targets as make_any_targets
from nst_jax.losses.objective import style_transfer_loss as any_style_transfer_loss

pytestmark = pytest.mark.usefixtures("strict_dtypes")


# The formulas of the PyTorch program, which are the easiest to write down again.
style_transfer_loss = functools.partial(
    any_style_transfer_loss,
    content_loss="mean",
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


def test_each_image_of_a_batch_has_its_own_loss_and_weights(images):
    batch, layers = jnp.stack(images), {"content_layers": ("color",), "style_layers": ("edges",)}
    of_each, gains = jnp.asarray([1.0, 20.0, 3.0]), jnp.asarray([0.5, 1.0, 2.0])
    darkness = lambda image, maps: jnp.mean(maps["color"], (-3, -2, -1))  # noqa: E731

    def loss(image, content, style, style_weight, gain, weight):
        return style_transfer_loss(
            image,
            make_targets(features, content, style, **layers),
            features=features,
            style_weight=style_weight,
            content_layer_weights={"color": gain},
            terms={"darkness": (weight, darkness)},
        )

    alone = [
        loss(batch[i], batch[(i + 1) % 3], batch[2 - i], of_each[i], gains[i], of_each[i])
        for i in range(3)
    ]
    total, losses = loss(batch, batch[jnp.asarray([1, 2, 0])], batch[::-1], of_each, gains, of_each)
    np.testing.assert_allclose(losses.total, [each.total for _, each in alone], rtol=1e-5)
    np.testing.assert_allclose(total, losses.total.sum(), rtol=1e-6)
    assert all(x.shape == (3,) for x in jax.tree.leaves(losses))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"style_layer_weights": {"relu9_1": 5.0}},
            "weights name relu9_1; the targets",
        ),
        ({"content_layer_weights": {"color": 1.0}}, "name color; the targets have edges"),
        ({"style_weight": jnp.ones(3)}, r"weight of style has the shape \[3\]; allowed are \[\]"),
        ({"terms": {"x": (1.0, lambda *_: jnp.ones(2))}}, r"value of x has the shape \[2\]"),
        ({"content_loss": "mse"}, "content_loss is 'mse'; allowed are relative, mean, half-sum"),
    ],
)
def test_what_would_give_a_wrong_number_is_refused(images, unchecked, options, message):
    arguments = {"features": features, **options}
    with pytest.raises(InputError, match=message):
        any_style_transfer_loss(images[2], targets_of(images), **arguments)


def test_a_weight_for_each_image_is_not_one_for_each_of_another_batch(images, unchecked):
    batch = jnp.stack(images)
    targets = make_targets(
        features, batch, images[0], content_layers=("color",), style_layers=("edges",)
    )
    with pytest.raises(InputError, match=r"has the shape \[2\]; allowed are \[\] and \[3\], one"):
        style_transfer_loss(batch, targets, features=features, style_weight=jnp.ones(2))


@pytest.mark.parametrize("kind", ["gatys-code", "moments", "relative-wasserstein"])
def test_the_targets_know_their_formula(images, kind, unchecked):
    layers = {"content_layers": (), "style_layers": ("color",)}
    targets = make_any_targets(features, images[0], images[1], style_loss=kind, **layers)
    _, losses = style_transfer_loss(images[2], targets, features=features)
    target = style_target(style_statistics(images[1]), positions=30, kind=kind)
    expected = style_loss(images[2], target, kind=kind)
    np.testing.assert_allclose(losses.style_terms["color"], expected, rtol=1e-6)
    leaves, structure = jax.tree.flatten(targets)
    assert jax.tree.unflatten(structure, leaves).style_loss == kind
    with pytest.raises(InputError, match="is 'gram'; allowed are moments, relative"):
        make_any_targets(features, images[0], images[1], style_loss="gram", **layers)


def test_a_style_loss_of_your_own(images):
    brightest = StyleFormula(
        target=lambda map_: map_.max((-3, -2)),
        loss=lambda map_, target: jnp.sum((map_.max((-3, -2)) - target[None]) ** 2, -1),
    )
    targets = make_any_targets(
        features,
        jnp.stack(images),
        images[1],
        content_layers=("color",),
        style_layers=("color", "edges"),
        style_loss=brightest,
    )
    _, losses = style_transfer_loss(jnp.stack(images), targets, features=features)
    most = [np.max(image, (0, 1)) for image in images]
    expected = [np.sum((each - most[1]) ** 2) for each in most]
    np.testing.assert_allclose(losses.style_terms["color"], expected, rtol=1e-6)
    assert expected[0] > 0 == losses.style_terms["edges"][1]


@pytest.mark.parametrize("kind", ["moments", "pytorch", "wasserstein"])
def test_two_styles_by_mask(images, kind):
    """Statistics may stand where maps are: each half of the image has its own style."""
    left = jnp.zeros((6, 5)).at[:, :2].set(1.0)
    halves = {"left": left, "right": 1 - left}

    def guided(image):
        return {name: style_statistics(image, weights=mask) for name, mask in halves.items()}

    goals = OrderedDict(
        (name, style_target(style_statistics(x), positions=mask.sum(), kind=kind))
        for (name, mask), x in zip(halves.items(), images[:2], strict=True)
    )
    targets = Targets(OrderedDict(), goals, kind)
    _, losses = style_transfer_loss(images[2], targets, features=guided)
    for name, part in (("left", images[2][:, :2]), ("right", images[2][:, 2:])):
        # Float32; the Wasserstein losses subtract large sums of statistics.
        expected = style_loss(part, goals[name], kind=kind)
        np.testing.assert_allclose(losses.style_terms[name], expected, rtol=1e-4)
    gradient = jax.grad(lambda x: style_loss(guided(x)["left"], goals["left"], kind=kind))(
        images[2]
    )
    assert np.abs(gradient[:, :2]).min() > 0
    assert not gradient[:, 2:].any()


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
