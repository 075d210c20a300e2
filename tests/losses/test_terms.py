import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax.losses import statistics as moments
from nst_jax.losses import terms

pytestmark = pytest.mark.usefixtures("strict_dtypes")

GRAM_LOSSES = ["relative-gram", "pytorch", "gatys-paper", "gatys-code", "neural-style"]


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def target_of(style, like, kind):
    statistics = moments.style_statistics(jnp.asarray(style))
    positions = like.shape[-3] * like.shape[-2]
    return terms.style_target(statistics, positions=positions, kind=kind)


# Compiled at once: each operation alone takes as long to compile.
@functools.partial(jax.jit, static_argnums=2)
def value(features, style, kind):
    return terms.style_loss(jnp.asarray(features), target_of(style, features, kind), kind=kind)


def flat(f):
    return np.asarray(f, np.float64).reshape(-1, f.shape[-1]).T


def as_published(kind, f, style):
    """Write each formula down as its source does, entry by entry, for maps of any sizes."""
    x, y = flat(f), flat(style)
    (channels, positions), others = x.shape, y.shape[1]
    g, a = x @ x.T, y @ y.T
    match kind:
        case "relative-gram":
            return np.sum((g / positions - a / others) ** 2) / np.sum((a / others) ** 2)
        case "pytorch":
            return np.mean((g - a * positions / others) ** 2) / (channels * positions)
        case "gatys-paper":
            scaled = a * positions / others
            return np.sum((g - scaled) ** 2) / (4 * channels**2 * positions**2)
        case "gatys-code":
            return np.mean((g / positions - a / others) ** 2)
        case "neural-style":
            return np.mean((g / (channels * positions) - a / (channels * others)) ** 2)
        case "moments":
            c, d = (np.atleast_2d(np.cov(z, bias=True)) for z in (x, y))
            second = a / others
            of_mean = np.sum((x.mean(1) - y.mean(1)) ** 2)
            of_mean /= max(np.sum(y.mean(1) ** 2), 0.005 * np.trace(second))
            return of_mean + np.sum((c - d) ** 2) / max(np.sum(d**2), 0.005 * np.sum(second**2))


@pytest.mark.parametrize("kind", [*GRAM_LOSSES, "moments"])
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 5), st.integers(2, 5), st.integers(1, 6), st.integers(0, 99))
def test_style_losses_as_published_in_float64(kind, height, width, channels, seed):
    f, style = draw(seed, height, width, channels), draw(seed + 1, width, height + 1, channels)
    with jax.enable_x64(True):
        found = float(value(f, style, kind))
    np.testing.assert_allclose(found, as_published(kind, f, style), rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_content_losses_in_float64(height, width, channels, seed):
    f, other = (draw(seed + i, height, width, channels) for i in range(2))
    with jax.enable_x64(True):
        content_loss = jax.jit(terms.content_loss, static_argnames="kind")
        found = {
            kind: float(content_loss(jnp.asarray(f), jnp.asarray(other), kind=kind))
            for kind in ("mean", "half-sum", "relative")
        }
    square = np.square(f - other).sum()
    np.testing.assert_allclose(found["mean"], square / f.size, rtol=1e-12)
    np.testing.assert_allclose(found["half-sum"], square / 2, rtol=1e-12)
    np.testing.assert_allclose(found["relative"], square / np.square(other).sum(), rtol=1e-12)


def test_the_gram_losses_are_multiples_of_one_difference():
    """The conversion table of docs/presets.md."""
    f, style = draw(0, 6, 7, 5), draw(1, 6, 7, 5)
    channels, positions = 5, 42
    with jax.enable_x64(True):
        found = {kind: float(value(f, style, kind)) for kind in GRAM_LOSSES}
    t = flat(style) @ flat(style).T / positions
    d = found["gatys-code"] * channels**2
    factors = {
        "relative-gram": 1 / np.sum(t**2),
        "pytorch": positions / channels**3,
        "gatys-paper": 1 / (4 * channels**2),
        "gatys-code": 1 / channels**2,
        "neural-style": 1 / channels**4,
    }
    assert found == pytest.approx({kind: d * factor for kind, factor in factors.items()})


def test_for_maps_of_one_size_the_pytorch_target_is_the_gram_matrix_itself():
    style = jnp.asarray(draw(0, 4, 7, 3), np.float32)
    np.testing.assert_array_equal(target_of(style, style, "pytorch"), moments.gram_matrix(style))


@pytest.mark.parametrize("kind", ["moments", "relative-gram"])
def test_a_factor_of_all_activations_changes_no_relative_loss(kind):
    f, style = (jnp.asarray(draw(i, 6, 7, 5), np.float32) for i in range(2))
    expected, gradient = jax.value_and_grad(value)(f, style, kind)
    for factor in (1024.0, 2.0**-12):  # powers of two round nothing
        found, scaled = jax.value_and_grad(value)(factor * f, factor * style, kind)
        assert found == expected
        np.testing.assert_array_equal(factor * scaled, gradient)
    odd = value(np.float32(3.7) * f, np.float32(3.7) * style, kind)
    np.testing.assert_allclose(odd, expected, rtol=1e-5)
    content = terms.content_loss(f, style, kind="relative")
    assert terms.content_loss(64 * f, 64 * style, kind="relative") == content


def test_the_widest_layers_have_as_many_channels_as_vgg():
    f, style = (jnp.asarray(draw(i, 2, 3, 512), np.float32) for i in range(2))
    for kind in (*GRAM_LOSSES, "moments"):
        assert np.isfinite(value(f, style, kind))


@pytest.mark.parametrize("kind", get_args(terms.StyleLoss))
def test_every_loss_is_least_at_the_style(kind):
    f, style = (jnp.asarray(np.maximum(draw(i, 6, 7, 5), 0), np.float32) for i in range(2))
    least, gradient = jax.value_and_grad(value)(style, style, kind)
    assert abs(least) < 1e-4 * value(f, style, kind)
    far = jax.grad(value)(f, style, kind)
    assert jnp.linalg.norm(gradient) < 0.05 * jnp.linalg.norm(far)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.floats(0, 1e-4), st.integers(0, 99), st.booleans())
def test_a_style_without_contrast_is_no_divisor(channels, contrast, seed, strays):
    """Neither is one whose activations cancel: what is divided by is a share of what is there."""
    f, noise = draw(seed, 4, 5, channels), draw(seed + 1, 6, 7, channels)
    style = 1 + contrast * noise
    if strays:  # each position has its opposite
        style *= np.where(np.arange(42).reshape(6, 7, 1) % 2, 1, -1)
    with jax.enable_x64(True):
        found = float(value(f, style, "moments"))
        least = float(value(style, style, "moments"))
    np.testing.assert_allclose(found, as_published("moments", f, style), rtol=1e-6)
    assert least == 0
    # Nothing that differs by less than the style's second moment twice over can weigh more.
    near = as_published("relative-gram", f, style) + 1
    assert found < 2 * near / 0.005


def test_an_ordinary_style_is_measured_by_itself_alone():
    f, style = (np.maximum(draw(i, 16, 16, 8), 0) for i in range(2))
    c = np.cov(flat(style), bias=True)
    second = flat(style) @ flat(style).T / 256
    assert np.sum(c**2) > 0.005 * np.sum(second**2)
    with jax.enable_x64(True):
        found = float(value(f, style, "moments"))
    x, y = flat(f).mean(1), flat(style).mean(1)
    other = np.sum((np.cov(flat(f), bias=True) - c) ** 2) / np.sum(c**2)
    np.testing.assert_allclose(found, np.sum((x - y) ** 2) / np.sum(y**2) + other, rtol=1e-12)


def test_maps_of_zeros_divide_by_one():
    zero, f = jnp.zeros((3, 4, 2)), jnp.asarray(draw(0, 3, 4, 2), np.float32)
    square = float(terms.content_loss(f, zero, kind="relative"))
    np.testing.assert_allclose(square, np.sum(np.asarray(f) ** 2), rtol=1e-6)
    of_gram = float(value(f, zero, "relative-gram"))
    np.testing.assert_allclose(of_gram, value(f, zero, "gatys-code") * 4, rtol=1e-6)
    for kind in ("moments", "relative-gram"):
        assert 0 < value(f, zero, kind) < 1e3
        assert value(zero, zero, kind) == 0
        np.testing.assert_array_equal(jax.grad(value)(zero, zero, kind), zero)
        assert np.isfinite(value(zero, f, kind))
    assert terms.content_loss(zero, zero, kind="relative") == 0


@pytest.mark.parametrize("kind", [*GRAM_LOSSES, "moments"])
def test_each_image_of_a_batch_has_its_own_loss(kind):
    f, g = (jnp.asarray(draw(i, 3, 4, 5, 6), np.float32) for i in range(2))
    content = terms.content_loss(f, g)
    style = value(f, g, kind)
    assert content.shape == style.shape == (3,)
    for i in range(3):
        np.testing.assert_allclose(content[i], terms.content_loss(f[i], g[i]), rtol=1e-6)
        np.testing.assert_allclose(style[i], value(f[i], g[i], kind), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_maps_are_summed_in_float32(dtype):
    f = jnp.full((64, 64, 2), 10, dtype)
    assert terms.content_loss(f, f - 1, kind="mean").dtype == jnp.float32
    for kind in (*GRAM_LOSSES, "moments"):
        found = value(f, f, kind)
        assert (found.dtype, float(found)) == (jnp.float32, 0.0)


def test_a_map_may_have_more_values_than_an_int32_counts():
    found = terms.content_loss_of(jnp.ones(()), jnp.ones(()), 2**40, kind="mean")
    np.testing.assert_allclose(found, 2.0**-40, rtol=1e-6)
