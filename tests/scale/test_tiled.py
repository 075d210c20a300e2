"""Tiles against the whole picture at once: the loss with all its parts, the gradient, a run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import Config, build_vgg19, layers, preset, stylize
from nst_jax.devices.backend import resolve
from nst_jax.errors import InputError
from nst_jax.geometry import shape_of
from nst_jax.losses.regularizers import Anchor
from nst_jax.network.vgg import freeze
from nst_jax.scale.interface import ScaleInputs
from nst_jax.scale.prepare import begin_scale
from nst_jax.scale.step import prepare_step, variable_loss
from nst_jax.scale.tiled import TiledScale
from nst_jax.scale.whole import WholeScale
from nst_jax.transfer.schedule import make_schedule
from package import ROOT

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
SHALLOW = {
    "content_layers": layers("relu2_1"),
    "style_layers": layers("relu2_2", relu1_1=2.0),
    "conv": "direct",
}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(121, 97, 3)), 0), 1)
    content = (smooth - smooth.min()) / np.ptp(smooth)
    style = rng.uniform(size=(75, 83, 3))
    picture = np.clip(content + 0.1 * rng.normal(size=content.shape), 0, 1)
    return [image.astype(np.float32) for image in (content, style, picture)]


def compare(images, network, config, **masks):
    """Return relative errors: the largest of all losses, and the gradient's; and the tiles."""
    config = resolve(config)
    content, style, picture = map(jnp.asarray, images)
    given = {"network": freeze(network, taps=config.taps), "config": config, "picture": picture}
    given |= masks
    tiled = TiledScale(ScaleInputs(content, [style], **given))
    losses, gradient = tiled.evaluate()
    state, inputs = prepare_step(content, [style], **given)

    @jax.jit
    def whole(variable, inputs):
        of_variable = functools.partial(variable_loss, anchor=inputs.anchor)
        return jax.grad(of_variable, has_aux=True)(variable, *inputs[:3])

    with jax.default_matmul_precision(config.matmul_precision):
        expected, expected_losses = whole(state.variable, inputs)
    pairs = zip(jax.tree.leaves(losses), jax.tree.leaves(expected_losses), strict=True)
    worst = max(abs(float(a) - float(b)) / (abs(float(b)) or 1) for a, b in pairs)
    distance = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
    return worst, distance, tiled


# Sums of float32 numbers in another order: a few units of the last place, 6e-8. The gradient of the
# Wasserstein terms is that of a function of differences of sums.
BUDGETS = {"wasserstein": 1e-5, "relative-wasserstein": 1e-5}


# The others differ from relative-gram by factors alone.
STYLE_LOSSES = ["moments", slow("relative-gram"), "pytorch", "wasserstein"]
STYLE_LOSSES += [slow("relative-wasserstein")]


@pytest.mark.parametrize("style_loss", STYLE_LOSSES)
def test_every_style_loss(random_params, images, style_loss):
    config = Config(style_loss=style_loss, tile=32, pooling="average", **SHALLOW)
    network = build_vgg19(random_params)
    worst, distance, tiled = compare(images, network, config)
    assert len(tiled._cover.windows) == 6
    assert worst < 3e-6
    assert distance < BUDGETS.get(style_loss, 2e-6)


@pytest.mark.parametrize("style_loss", ["moments", slow("wasserstein")])
def test_regions(random_params, images, style_loss):
    config = Config(style_loss=style_loss, tile=32, pooling="average", **SHALLOW)
    draw = np.random.default_rng(1).uniform
    content, style, _ = (jnp.asarray(draw(size=(*x.shape[:2], 2)), jnp.float32) for x in images)
    masks = {"masks": content, "style_masks": [style]}
    worst, distance, tiled = compare(images, build_vgg19(random_params), config, **masks)
    assert len(tiled._cover.windows) == 6
    assert worst < 3e-6
    assert distance < BUDGETS.get(style_loss, 2e-6)


def test_a_frame_of_a_film(random_params, images):
    config = Config(tile=32, pooling="average", temporal_weight=50.0, **SHALLOW)
    draw = np.random.default_rng(1).uniform
    anchor = Anchor(*(jnp.asarray(draw(size=(121, 97, n)), jnp.float32) for n in (3, 1)))
    worst, distance, tiled = compare(images, build_vgg19(random_params), config, anchor=anchor)
    assert len(tiled._cover.windows) == 6
    assert tiled.evaluate()[0].terms["temporal"] > 0.05
    assert worst < 3e-6
    assert distance < 2e-6


@pytest.mark.parametrize(
    "settings",
    [
        {"content_loss": "mean", "tv_loss": "l1", "range_weight": 1.0, "tile": 48},
        {"content_loss": "half-sum", "tv_loss": "l2", "space": "normalized", "tile": 16},
        # Its maps are too large to be kept, and one layer has no ReLU.
        {"content_layers": layers("conv1_1", "relu2_1"), "tv_weight": 0.0, "tile": 100},
        {"style_layers": (), "tile": 32},
        {"content_layers": (), "tile": 32},
    ],
)
def test_other_terms_and_tiles(random_params, images, settings):
    config = Config(**{**SHALLOW, "padding": "replicate", "pooling": "max", **settings})
    network = build_vgg19(random_params, padding="replicate", pooling="max")
    worst, distance, _ = compare(images, network, config)
    assert worst < 3e-6
    assert distance < 2e-6


@pytest.mark.slow
def test_the_recipe_with_trained_weights_in_float64(package):
    """All layers to relu5_1 of VGG-16, odd sizes.

    In float32 the gradient is 4e-7 to 8e-6 away: where two of a window's four are equal but for
    rounding, max pooling takes one or the other.
    """
    from nst_jax import load_image, load_vgg16

    with jax.enable_x64(True):
        content = load_image(ROOT / "png/content.png", shape=(189, 141))
        style = load_image(ROOT / "png/style.png", size=158)
        noise = np.random.default_rng(0).normal(0, 0.1, content.shape)
        images = [np.float64(image) for image in (content, style, np.clip(content + noise, 0, 1))]
        network = load_vgg16(pooling="max", padding="replicate", dtype="float64")
        config = Config(tile=32, precision="float64", network="vgg16")
        worst, distance, tiled = compare(images, network, config)
    assert len(tiled._cover.windows) == 2
    # A few thousand units of the last place, 1e-16, of sums of 50000.
    assert worst < 1e-12
    assert distance < 1e-12


@pytest.mark.parametrize("optimizer", ["adam", slow("lbfgs-torch")])
def test_a_run_in_tiles_is_the_run(random_params, images, optimizer, monkeypatch):
    """Over two scales, of which only the second has tiles; pieces of the picture are updated."""
    from nst_jax.scale import tiled as scale_tiled

    monkeypatch.setattr(scale_tiled, "_STRIP", 1000)
    kinds = []

    def spy(inputs):
        scale = begin_scale(inputs)
        kinds.append(type(scale))
        return scale

    monkeypatch.setattr("nst_jax.transfer.painting.begin_scale", spy)
    content, style, _ = images
    config = Config(
        **SHALLOW, min_size=80, first_steps=3, steps=3, optimizer=optimizer, memory_size=3
    )
    runs = [
        list(
            stylize(
                content,
                style,
                network=build_vgg19(random_params),
                config=dataclasses.replace(config, tile=tile),
                snapshot_every=None,
            )
        )
        for tile in (0, 64)
    ]
    assert kinds == [WholeScale, WholeScale, WholeScale, TiledScale]
    (whole,), (tiled,) = runs
    np.testing.assert_allclose(tiled.losses.total, whole.losses.total, rtol=3e-5)
    distance = np.linalg.norm(tiled.image - whole.image) / np.linalg.norm(whole.image)
    assert distance < 1e-4  # a few pixels have gradients of no size, whose sign decides


@pytest.mark.parametrize("kind", [np.array, jnp.asarray])
def test_a_kept_state_goes_on_the_same(random_params, images, kind):
    """NumPy's arrays without a copy of them, JAX's, which nobody may write to, with one."""
    content, style, picture = map(jnp.asarray, images)
    config = resolve(Config(**SHALLOW, tile=64))
    network = freeze(build_vgg19(random_params), taps=config.taps)
    whole, again = (
        TiledScale(ScaleInputs(content, [style], picture, network, config)) for _ in range(2)
    )
    whole.advance(1)
    kept = jax.tree.map(kind, whole.state())
    again.load_state(kept)
    assert np.shares_memory(again.state().variable, kept.variable) == (kind is np.array)
    expected, _ = whole.advance(2)
    np.testing.assert_array_equal(again.advance(2)[0], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"optimizer": "lbfgs"}, "line search cannot be computed in tiles"), ({}, "one picture")],
)
def test_what_cannot_be_tiled_says_so(random_params, images, settings, message):
    content, style, _ = images
    config = Config(**SHALLOW, **settings, tile=16, steps=1, min_size=0)
    content = content if settings else np.stack([content, content])
    with pytest.raises(InputError, match=message):
        stylize(content, style, network=build_vgg19(random_params), config=config)


def test_the_preset_pytorch_says_nothing(random_params, images):
    """Its five content layers are computed anew; a picture of one tile is computed at once."""
    config = dataclasses.replace(preset("pytorch"), tile=1024, steps=1)
    content, style, picture = map(jnp.asarray, images)
    schedule = make_schedule(shape_of(content), [shape_of(style)], config)
    assert schedule.last.tiles is None
    network = build_vgg19(random_params)
    scale = begin_scale(ScaleInputs(content, [style], picture, network, resolve(config)))
    assert isinstance(scale, WholeScale)
