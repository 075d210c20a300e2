"""Pictures whose ends meet: no row and no column is the first."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import Config, build_vgg19, gram_matrix, layers, stylize
from nst_jax.config import SettingError
from nst_jax.devices.backend import resolve
from nst_jax.network.vgg import recast
from nst_jax.scale.step import prepare_step

CONFIG = Config(
    wrap="both",
    content_layers=layers("relu2_1"),
    style_layers=layers("relu2_1"),
    min_size=16,
    scale_factor=2.0,
    first_steps=2,
    steps=2,
    precision="float32",
    conv="direct",
)


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params, deepest="relu2_1")


def draw(*shape):
    return np.random.default_rng(sum(shape)).random((*shape, 3), np.float32)


def paint(network, content, config, **options):
    *_, last = stylize(content, draw(40, 30), network=network, config=config, **options)
    return np.asarray(last.image)


def test_a_rolled_picture_is_painted_as_the_picture(network):
    content, start = draw(32, 64), draw(16, 32)  # two scales
    mask = draw(32, 64)[..., 0]
    roll = lambda x, by: np.roll(x, (by, 2 * by), (0, 1))  # noqa: E731
    one = paint(network, content, CONFIG, start=start, style_strength=mask)
    turned = {"start": roll(start, 4), "style_strength": roll(mask, 8)}
    other = paint(network, roll(content, 8), CONFIG, **turned)
    # In float32 sums are added in another order, and positions between pixels are rounded.
    np.testing.assert_allclose(other, roll(one, 8), atol=1e-4)


def test_a_style_image_has_no_border_and_does_not_wrap(network):
    style = jnp.asarray(draw(40, 30))
    found = prepare_step(
        jnp.asarray(draw(16, 16)),
        [style],
        network=recast(network, wrap="both"),
        config=resolve(dataclasses.replace(CONFIG, style_loss="relative-gram")),
    )[1].targets.style
    for ends, same in (("repeat", True), ("meet", False)):
        maps = recast(network, wrap="both", ends=ends)(style, list(found))
        for name, target in found.items():
            gram = gram_matrix(maps[name]) / maps[name][..., 0].size
            assert same == np.allclose(jax.tree.leaves(target)[0], gram, rtol=1e-4), name


def test_the_picture_takes_the_nearest_size_without_a_seam(network):
    config = dataclasses.replace(CONFIG, wrap="x", min_size=0)
    assert paint(network, draw(37, 45), config).shape == (37, 48, 3)


def test_tiles_do_not_wrap():
    with pytest.raises(SettingError) as found:
        Config(wrap="x", tile=64)
    assert found.value.in_flags == (
        "--wrap is x, which is for a picture that is computed at once, but tile is 64; leave one "
        "of the two out"
    )
