"""Windows whose parts are the whole picture, and maps that are its own there."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax import Config, build_vgg19, layers
from nst_jax.losses.regularizers import (
    add_up,
    range_penalty,
    range_summands,
    total_variation,
    variation_summands,
)
from nst_jax.network.architecture import ARCHITECTURES, STRIDE
from nst_jax.scale.tiled import margin
from nst_jax.scale.windows import cover


def test_margins():
    """What a tap sees on each side: 1 px for each convolution at full size, 2 at half of it, …"""

    def of(*names, network="vgg19"):
        config = Config(style_layers=layers(*names), content_layers=(), network=network)
        return margin(config)

    assert of("relu1_1") == 16
    assert of("relu5_1") == 80  # 2 + 4 + 16 + 32 + 16 = 70
    assert of("relu1_1", "conv5_4") == 128  # 54 + 64 = 118
    assert of("relu5_1", network="vgg16") == 64  # 2 + 4 + 12 + 24 + 16 = 58


@given(
    st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 700), st.sampled_from([16, 80, 128])
)
def test_parts_are_the_picture_and_lie_well_inside_their_windows(height, width, tile, margin):
    picture, size, windows = cover(height, width, tile=tile, margin=margin)
    rows = sorted({(w.top, w.bounds[0], w.bounds[1]) for w in windows})
    columns = sorted({(w.left, w.bounds[2], w.bounds[3]) for w in windows})
    assert len(windows) == len(rows) * len(columns)
    for length, side, found in zip(picture, size, (rows, columns), strict=True):
        assert side % 16 == length % 16
        parts = [(start + first, start + end) for start, first, end in found]
        assert (parts[0][0], parts[-1][1]) == (0, length)
        assert all(one[1] == two[0] for one, two in itertools.pairwise(parts))
        for (start, *_), (first, end) in zip(found, parts, strict=True):
            assert 0 <= start <= length - side
            assert start % 16 == 0
            assert first == 0 or (first % 16 == 0 and first - start >= margin)
            # The margin is whole even at the deepest layers, which drop the rest over 16.
            stop = start + side
            assert end == length or (end % 16 == 0 and stop // 16 * 16 - end >= margin)
    # No larger than asked for, but for margins and the rest over 16.
    step = -(-tile // 16) * 16
    assert all(side <= max(step + 2 * margin + 15, 1) for side in size)


PICTURE = np.random.default_rng(0).uniform(size=(101, 143, 3)).astype(np.float32)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_maps_inside_are_those_of_the_whole_picture(random_params, padding):
    taps = ("relu1_1", "relu2_2", "relu3_1")
    network = build_vgg19(random_params, padding=padding, pooling="max", deepest=taps[-1])
    describe = jax.jit(functools.partial(network, taps=taps))
    whole = describe(PICTURE)
    config = Config(style_layers=layers(*taps), content_layers=())
    covered = cover(*PICTURE.shape[:2], tile=32, margin=margin(config))
    assert len(covered.windows) == 6
    seen = {name: np.zeros(whole[name].shape[:2], int) for name in taps}
    for window in covered.windows:
        part = covered.part(window)
        maps = describe(covered.cut(PICTURE, window))
        for name in taps:
            s = config.architecture.stride(name)
            inside = np.asarray(part.inside(*maps[name].shape[:2], stride=s))
            rows, columns = np.nonzero(inside)
            here = rows + window.top // s, columns + window.left // s
            np.testing.assert_allclose(maps[name][inside], whole[name][here], atol=2e-5)
            seen[name][here] += 1
    assert all((count == 1).all() for count in seen.values())


@pytest.mark.parametrize("kind", ["nine-point", "l2", "l1"])
def test_regularizers_of_parts_add_up(kind):
    """Values and gradients; at odd sizes and where a part has only one row or column."""
    picture = 1.2 * jnp.asarray(PICTURE[:33, :49]) - 0.1

    def regularize(image):
        return total_variation(image, kind=kind) + range_penalty(image)

    def regularize_part(image, part):
        summands = variation_summands(image, kind=kind, shape=part.shape)
        summands += range_summands(image, shape=part.shape)
        return add_up(x._replace(values=part.own(x.values, before=x.before)) for x in summands)

    value, gradient = jax.jit(jax.value_and_grad(regularize))(picture)
    covered = cover(33, 49, tile=1, margin=0)
    assert len(covered.windows) == 6
    total, summed = 0.0, np.zeros(picture.shape, np.float32)
    # A margin of 16 px is more than a neighbor needs.
    covered = cover(33, 49, tile=1, margin=16)
    for window in covered.windows:
        part = covered.part(window)
        share, pull = jax.value_and_grad(regularize_part)(covered.cut(picture, window), part)
        total += share
        covered.cut(summed, window)[...] += pull
    np.testing.assert_allclose(total, value, rtol=1e-6)
    np.testing.assert_allclose(summed, gradient, atol=1e-6 * float(abs(gradient).max()))


def test_strides():
    table = ARCHITECTURES["vgg19"]
    assert [table.stride(tap) for tap in ("conv1_1", "relu2_2", "relu5_4")] == [1, 2, STRIDE]
