import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import InputError
from nst_jax.losses.regularizers import range_penalty, temporal_loss, total_variation

KINDS = ["nine-point", "l2", "l1"]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.5, 0.4, shape)


def nine_point(x):
    """Neighbor by neighbor; the border is its own neighbor."""
    height, width, channels = x.shape
    at = lambda i, j: x[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]  # noqa: E731
    straight = sum(
        np.sum((at(i + di, j + dj) - at(i, j)) ** 2)
        for i in range(height)
        for j in range(width)
        for di, dj in ((0, 1), (1, 0))
    ) / (height * width * channels)
    diagonal = sum(
        np.sum((at(i + 1, j + 1) - at(i, j)) ** 2 + (at(i + 1, j) - at(i, j + 1)) ** 2)
        for i in range(-1, height)
        for j in range(-1, width)
    ) / ((height + 1) * (width + 1) * channels)
    return 2 * (straight / 3 + diagonal / 12)


def l2(x):
    height, width, _ = x.shape
    return 0.5 * sum(
        np.sum((x[i, j] - x[i, j + 1]) ** 2 + (x[i, j] - x[i + 1, j]) ** 2)
        for i in range(height - 1)
        for j in range(width - 1)
    )


def l1(x):
    return np.abs(np.diff(x, axis=0)).sum() + np.abs(np.diff(x, axis=1)).sum()


REFERENCES = {"nine-point": nine_point, "l2": l2, "l1": l1}


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 4, 3), (4, 1, 3), (1, 1, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbor_by_neighbor_in_float64(kind, shape):
    x = draw(*shape)
    with jax.enable_x64(True):
        found = float(jax.jit(functools.partial(total_variation, kind=kind))(jnp.asarray(x)))
    np.testing.assert_allclose(found, REFERENCES[kind](x), rtol=1e-12, atol=1e-15)


def nine_point_of_x(x):
    """As `nine_point`; the last column's right neighbor is the first."""
    down = np.pad(x, ((1, 1), (0, 0), (0, 0)), mode="edge")
    right = np.roll(down, -1, axis=1)
    straight = np.mean((right - down)[1:-1] ** 2) + np.mean((down[2:] - down[1:-1]) ** 2)
    diagonal = np.mean((right[1:] - down[:-1]) ** 2) + np.mean((down[1:] - right[:-1]) ** 2)
    return 2 * (straight / 3 + diagonal / 12)


def nine_point_of_both(x):
    down, right = np.roll(x, -1, axis=0), np.roll(x, -1, axis=1)
    straight = np.mean((down - x) ** 2) + np.mean((right - x) ** 2)
    diagonal = np.mean((np.roll(right, -1, axis=0) - x) ** 2) + np.mean((down - right) ** 2)
    return 2 * (straight / 3 + diagonal / 12)


def of_one_more_tile(reference, x, wrap):
    """A sum over the plane grows by this with each tile."""
    of = lambda rows, columns: reference(np.tile(x, (rows, columns, 1)))  # noqa: E731
    return of(1, 3) - of(1, 2) if wrap == "x" else of(3, 3) - of(2, 3) - of(3, 2) + of(2, 2)


@pytest.mark.parametrize("wrap", ["x", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_ends_that_meet_are_neighbors(kind, wrap):
    x = draw(5, 4, 3)
    if kind == "nine-point":
        expected = nine_point_of_x(x) if wrap == "x" else nine_point_of_both(x)
    else:
        expected = of_one_more_tile(REFERENCES[kind], x, wrap)
    with jax.enable_x64(True):
        value = jax.jit(functools.partial(total_variation, kind=kind, wrap=wrap))
        found, ones = value(jnp.asarray(x)), jnp.ones(x.shape[:2])
        weighted = value(jnp.asarray(x), weights=ones) if kind != "l2" else found
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(weighted, expected, rtol=1e-12)


def test_nine_point_is_the_peers_in_torch(torch):
    from torch.nn import functional

    x = draw(6, 9, 3)
    padded = functional.pad(torch.from_numpy(x).permute(2, 0, 1)[None], (1,) * 4, "replicate")
    s1, s2, s3, s4 = slice(1, -1), slice(2, None), slice(None, -1), slice(1, None)
    square = lambda a, b: (padded[..., *a] - padded[..., *b]).pow(2).mean().item()  # noqa: E731
    expected = 2 * (
        square((s1, s2), (s1, s1)) / 3
        + square((s2, s1), (s1, s1)) / 3
        + square((s4, s4), (s3, s3)) / 12
        + square((s4, s3), (s3, s4)) / 12
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(total_variation(jnp.asarray(x)), expected, rtol=1e-12)


def test_l2_has_the_gradient_that_its_program_knows_it_by():
    x = draw(5, 6, 3)
    right, down = x[:-1, :-1] - x[:-1, 1:], x[:-1, :-1] - x[1:, :-1]
    expected = np.zeros_like(x)
    expected[:-1, :-1] += right + down
    expected[:-1, 1:] -= right
    expected[1:, :-1] -= down
    with jax.enable_x64(True):
        found = jax.grad(lambda y: total_variation(y, kind="l2"))(jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_pictures_have_none_and_no_gradient(kind):
    flat = jnp.full((4, 5, 3), 0.3)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: total_variation(x, kind=kind)))(flat)
    assert value == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("function", [*KINDS, "range"])
def test_each_image_of_a_batch_has_its_own_value(function):
    batch = jnp.asarray(draw(3, 5, 4, 3), jnp.float32)

    @jax.jit
    def value(x):
        return range_penalty(x) if function == "range" else total_variation(x, kind=function)

    found = value(batch)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, [value(x) for x in batch], rtol=1e-5)


@pytest.mark.parametrize("kind", ["nine-point", "l2", "l1", "range"])
def test_a_picture_may_have_more_values_than_an_int32_counts(kind):
    large = jax.ShapeDtypeStruct((75_000, 100_000, 3), jnp.float32)
    function = range_penalty if kind == "range" else functools.partial(total_variation, kind=kind)
    assert jax.eval_shape(jax.grad(function), large).shape == large.shape


def test_range_penalty():
    x = np.full((2, 2, 3), 0.5, np.float32)
    assert range_penalty(jnp.asarray(x)) == 0
    x[0, 0], x[1, 1, 2] = 1.5, -2.0
    np.testing.assert_allclose(range_penalty(jnp.asarray(x)), (3 * 0.25 + 4) / 12, rtol=1e-6)


def test_temporal_loss_in_numpy():
    image, previous, mask = draw(4, 5, 3), draw(4, 5, 3, seed=1), draw(4, 5, seed=2) > 0.5
    with jax.enable_x64(True):
        over = jnp.asarray(mask, float)
        found, gradient = jax.value_and_grad(temporal_loss)(
            jnp.asarray(image), jnp.asarray(previous), mask=over
        )
        batch = temporal_loss(jnp.stack([image, previous]), jnp.asarray(previous[None]))
    np.testing.assert_allclose(found, np.mean(mask[..., None] * (image - previous) ** 2))
    assert not gradient[~mask].any()
    np.testing.assert_allclose(gradient[mask], 2 * (image - previous)[mask] / image.size)
    np.testing.assert_allclose(batch, [np.mean((image - previous) ** 2), 0])


def test_an_unknown_kind_is_refused_with_those_that_there_are(unchecked):
    with pytest.raises(InputError, match="kind is 'l3'; allowed are nine-point, l2, l1"):
        total_variation(jnp.zeros((4, 4, 3)), kind="l3")
