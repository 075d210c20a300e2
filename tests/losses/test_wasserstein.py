import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from nst_jax.losses.statistics import accumulator, gram_matrix
from nst_jax.losses.wasserstein import (
    Gaussian,
    _bures,
    gaussian,
    relative_wasserstein_loss,
    wasserstein_loss,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")

EPS = 1e-4
LOSSES = [wasserstein_loss, relative_wasserstein_loss]


def draw(seed, *shape):
    """Rectified maps with means and correlated channels, in float64."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(shape[-1], shape[-1]))
    return np.maximum(rng.normal(size=shape) @ mixing + 0.3, 0)


def graded(seed, positions, channels, least):
    """A map whose variances fall from 1 to `least`, in directions of its own."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(channels, channels)))[0]
    spread = np.sqrt(np.geomspace(1, least, channels))
    return (rng.normal(size=(1, positions, channels)) * spread) @ basis.T


@jax.jit
def target_of(features):
    acc = features.astype(accumulator(features))
    positions = features.shape[-3] * features.shape[-2]
    return gaussian(jnp.mean(acc, axis=(-3, -2)), gram_matrix(features) / positions)


def moments(features):
    flat = features.reshape(-1, features.shape[-1])
    return flat.mean(0), np.cov(flat.T, bias=True).reshape(flat.shape[1], flat.shape[1])


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def reference(features, style, floor):
    """The distance times C and its gradient, by eigendecompositions in float64."""
    (mean, a), (mean_s, b) = (moments(x) for x in (features, style))
    identity = np.eye(len(a))
    a, b = a + floor * identity, b + floor * identity
    of_a, of_b = root(a), root(b)
    left, overlaps, right = np.linalg.svd(of_a @ of_b)  # no square of a small number, as in b½ a b½
    transport = np.linalg.solve(of_a, left @ right @ of_b)  # a⁻½ (a½ b a½)½ a⁻½
    value = np.sum((mean - mean_s) ** 2) + np.trace(a + b) - 2 * overlaps.sum()
    flat = features.reshape(-1, len(a))
    gradient = (mean - mean_s) + (flat - mean) @ (identity - transport)
    return value, (2 / len(flat) * gradient).reshape(features.shape)


def relative_reference(features, style, eps=EPS):
    unit = np.sum(style**2) / (style.size // style.shape[-1])
    value, gradient = reference(features, style, eps * unit / style.shape[-1])
    return value / unit, gradient / unit


# Jitted, as one by one their operations take long to compile.
value_and_grads = {loss: jax.jit(jax.value_and_grad(loss)) for loss in LOSSES}


@settings(max_examples=20)
@given(st.sampled_from([(1, 1, 1), (1, 4, 3), (5, 4, 3), (3, 1, 6)]), st.integers(0, 99))
def test_closed_forms_in_float64(shape, seed):
    height, width, channels = shape
    f, style = draw(seed, height, width, channels), draw(seed + 100, 3, 5, channels) + 0.1
    value, gradient = reference(f, style, EPS)
    relative, relative_gradient = relative_reference(f, style)
    with jax.enable_x64(True):
        target = target_of(jnp.asarray(style))
        got = value_and_grads[wasserstein_loss](jnp.asarray(f), target)
        got_relative = value_and_grads[relative_wasserstein_loss](jnp.asarray(f), target)
    # A direction without variance has the ratio of its spread to the root of eps for a condition.
    tolerance = {"rtol": 1e-6, "atol": 1e-9}
    np.testing.assert_allclose(got[0], value / channels, **tolerance)
    np.testing.assert_allclose(got[1], gradient / channels, **tolerance)
    np.testing.assert_allclose(got_relative[0], relative, **tolerance)
    np.testing.assert_allclose(got_relative[1], relative_gradient, **tolerance)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss):
    with jax.enable_x64(True):
        f = jnp.asarray(draw(0, 3, 4, 5))
        mean, covariance = target_of(jnp.asarray(draw(1, 4, 4, 5)))

        @jax.jit
        def of_both(features, mean, root):  # a root, lest a step leads out of the positive ones
            return loss(features, Gaussian(mean, root @ root.T))

        check_grads(of_both, (f, mean, jnp.linalg.cholesky(covariance)), order=1)


def orthogonal(positions, channels):
    """A map whose channels all have the same variance and do not depend on each other."""
    ones = np.ones((positions, 1))
    basis = np.linalg.qr(np.hstack([ones, np.random.default_rng(0).normal(size=(positions, 9))]))[0]
    return np.sqrt(positions) * basis[None, :, 1 : channels + 1]


HARD = {
    "well conditioned": (draw(0, 4, 5, 4), draw(1, 4, 4, 4)),
    "equal eigenvalues": (2 * orthogonal(20, 4), orthogonal(16, 4)),
    "fewer positions than channels": (0.3 * draw(0, 1, 3, 5), 0.3 * draw(1, 2, 2, 5)),
}


def directional(loss):
    """Return three ways to the derivative of the gradient in one direction."""

    def gradient(f, target):
        return jax.grad(loss)(f, target)

    def forward_over_reverse(f, target, v):
        return jax.jvp(lambda f: gradient(f, target), (f,), (v,))[1]

    def reverse_over_reverse(f, target, v):
        return jax.grad(lambda f: jnp.sum(v * gradient(f, target)))(f)

    def reverse_over_forward(f, target, v):
        return jax.grad(lambda f: jax.jvp(lambda f: loss(f, target), (f,), (v,))[1])(f)

    return forward_over_reverse, reverse_over_reverse, reverse_over_forward


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("loss", LOSSES)
def test_second_derivatives_agree_with_differences_of_the_gradient(loss, case):
    f, style = HARD[case]
    with jax.enable_x64(True):
        # With a variance of eps alone, the fourth derivative grows as its power of -7/2.
        loss = functools.partial(loss, eps=0.01)
        f, v = jnp.asarray(f), jnp.asarray(np.random.default_rng(2).normal(size=f.shape))
        target, step = target_of(jnp.asarray(style)), 1e-4
        gradient = jax.jit(jax.grad(loss))
        expected = (gradient(f + step * v, target) - gradient(f - step * v, target)) / (2 * step)
        for way in directional(loss):
            got = jax.jit(way)(f, target, v)
            # Of the differences, not of ours: step² and 1e-12 / step.
            np.testing.assert_allclose(got, expected, atol=1e-5 * jnp.abs(expected).max())


def test_derivatives_of_any_order_agree_with_a_closed_form():
    """Eigenvalues x and x + 1 against y: (√x - √y)² + (√(x + 1) - √y)²."""

    def ours(x, y):
        return _bures(x * jnp.eye(2) + jnp.diag(jnp.arange(2.0)), y * jnp.eye(2), 0.0)

    def exact(x, y):
        return sum((jnp.sqrt(x + i) - jnp.sqrt(y)) ** 2 for i in range(2))

    def forward(f):
        return lambda x, y: jax.jvp(lambda x: f(x, y), (x,), (1.0,))[1]

    @jax.jit
    def orders(x, y):
        mixed = [f := ours] + [f := way(f) for way in (jax.grad, forward, jax.grad)]
        right = [f := exact] + [f := jax.grad(f) for _ in range(3)]
        of_value = jax.grad(lambda x: jax.value_and_grad(ours)(x, y)[0])(x)
        return [of_value, *(f(x, y) for f in mixed)], [f(x, y) for f in (right[1], *right)]

    with jax.enable_x64(True):
        for x, y in ((0.7, 1.3), (1e-3, 2.0), (5.0, 1e-4)):
            # The iteration ends where its error is 1e-8.
            np.testing.assert_allclose(*orders(x, y), rtol=5e-8)


@pytest.mark.parametrize(("positions", "share"), [(400, 0.05), (24, 0.15)])
def test_second_derivatives_in_float32_are_as_exact_as_stated(positions, share):
    f, style, v = (100 * graded(seed, positions, 64, 1e-6) for seed in range(3))
    ours = jax.jit(directional(wasserstein_loss)[0])
    got = ours(*jax.tree.map(lambda x: jnp.asarray(x, np.float32), (f, moments_of(style), v)))
    with jax.enable_x64(True):
        exact = ours(*jax.tree.map(jnp.asarray, (f, moments_of(style), v)))
    error = np.asarray(got, np.float64) - np.asarray(exact)
    assert np.linalg.norm(error) < share * np.linalg.norm(exact)


def moments_of(features):
    return Gaussian(*moments(features))


@pytest.mark.parametrize("loss", LOSSES)
def test_second_derivatives_of_a_batch_are_those_of_each_image(loss):
    f, style = (jnp.asarray(draw(i, 3, 8, 7, 3), np.float32) for i in range(2))
    v, targets = jnp.cos(f), target_of(style)
    way = directional(loss)[1]
    mapped = jax.jit(jax.vmap(way))(f, targets, v)
    together = jax.jit(directional(lambda f, t: loss(f, t).sum())[1])(f, targets, v)
    alone = jax.jit(way)(f[1], jax.tree.map(lambda x: x[1], targets), v[1])
    for got in (mapped[1], together[1]):
        np.testing.assert_allclose(got, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_images_may_be_spread_over_a_mesh(loss):
    """One device is enough: the types of arrays tell how they vary over the mesh."""

    def way(f, target):
        return jax.value_and_grad(loss)(f, target), directional(loss)[1](f, target, jnp.cos(f))

    with jax.enable_x64(True):
        f, style = jnp.asarray(draw(0, 1, 5, 6, 3)), jnp.asarray(draw(1, 6, 5, 3))
        target, spec = target_of(style), jax.P("images")
        expected = jax.jit(way)(f[0], target)
        by_hand = jax.make_mesh((1,), ("images",), axis_types=(jax.sharding.AxisType.Auto,))
        each = jax.vmap(way, (0, None))
        mapped = jax.shard_map(each, mesh=by_hand, in_specs=(spec, jax.P()), out_specs=spec)
        found = [jax.jit(mapped)(f, target)]
        with jax.set_mesh(jax.make_mesh((1,), ("images",))):  # explicit axes
            found.append(jax.jit(each)(jax.device_put(f, spec), target))
    for got in found:
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x[0], y, rtol=1e-9, atol=1e-12), got, expected
        )


@pytest.mark.parametrize("whose", ["both", "the image"])
def test_a_batch_may_be_sharded_over_explicit_axes(whose):
    f, style = (jnp.asarray(draw(i, 2, 5, 6, 3), np.float32) for i in range(2))
    target = target_of(style)
    expected = wasserstein_loss(f, target)
    with jax.set_mesh(jax.make_mesh((1,), ("images",))):
        f = jax.device_put(f, jax.P("images"))
        if whose == "both":
            target = jax.device_put(target, jax.P("images"))
        value = jax.jit(wasserstein_loss)(f, target)
        gradient = jax.jit(jax.grad(lambda f: wasserstein_loss(f, target).sum()))(f)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert jax.typeof(gradient).sharding.spec[0] == "images"


def peer_loss(torch, features, style, iterations, eps=EPS):
    """crowsonkb/style-transfer-pytorch, `StyleLossW2`, written anew: on C x H x W tensors."""

    def gaussian_of(x):
        mean = x.mean((1, 2))
        second = torch.einsum("chw,dhw->cd", x, x) / (x.shape[1] * x.shape[2])
        return mean, second - torch.outer(mean, mean) + eps * torch.eye(len(x), dtype=x.dtype)

    def sqrtm(matrix):
        norm, identity = torch.linalg.norm(matrix), torch.eye(len(matrix), dtype=matrix.dtype)
        y, z = matrix / norm, identity
        for _ in range(iterations):
            t = (3 * identity - z @ y) / 2
            y, z = y @ t, t @ z
        return y * norm.sqrt()

    (mean, covariance), (mean_s, covariance_s) = gaussian_of(features), gaussian_of(style)
    half = sqrtm(covariance_s)
    cross = sqrtm(half @ covariance @ half)
    return ((mean - mean_s) ** 2).mean() + torch.diagonal(
        covariance + covariance_s - 2 * cross
    ).mean()


def in_torch(torch, features):
    return torch.tensor(np.moveaxis(features, -1, 0))


def test_the_peer_agrees_where_its_iteration_has_converged(torch):
    f, style = graded(0, 60, 6, 0.3) + 1, graded(1, 80, 6, 0.3) + 0.5
    ours = in_torch(torch, f).requires_grad_()
    theirs = peer_loss(torch, ours, in_torch(torch, style), iterations=12)
    theirs.backward()
    with jax.enable_x64(True):
        value, gradient = value_and_grads[wasserstein_loss](
            jnp.asarray(f), target_of(jnp.asarray(style))
        )
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-6)
    expected = np.moveaxis(ours.grad.numpy(), 0, -1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-9)


def test_the_peer_leaves_a_rest_where_ours_is_zero(torch):
    f = 10 * graded(0, 400, 32, 1e-6)
    x = in_torch(torch, f)
    rest = peer_loss(torch, x, x, iterations=12).item()
    assert rest > 0.005 * np.mean(f**2)
    assert peer_loss(torch, x, x, iterations=60).item() < 1e-6 * np.mean(f**2)
    f = jnp.asarray(f, np.float32)
    assert abs(value_and_grads[wasserstein_loss](f, target_of(f))[0]) < 5e-6 * jnp.mean(f**2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("positions", [400, 24])
def test_float32_is_as_exact_as_stated(positions, dtype):
    # Variances fall by a million, as in VGG's maps; with 24 positions 40 of the 64 are zero.
    f, style = (100 * graded(seed, positions, 64, 1e-6) for seed in range(2))
    f = np.asarray(jnp.asarray(f, dtype), np.float64)
    value, gradient = reference(f, style, EPS)
    target = target_of(jnp.asarray(style, np.float32))
    got, got_gradient = value_and_grads[wasserstein_loss](jnp.asarray(f, dtype), target)
    assert got.dtype == jnp.float32
    assert got_gradient.dtype == dtype
    assert abs(got - value / 64) < 2e-4 * np.mean(style**2)
    error = np.linalg.norm(np.asarray(got_gradient, np.float64) - gradient / 64)
    share = 0.04 if positions < 64 else 0.004
    assert error < (share + float(jnp.finfo(dtype).eps)) * np.linalg.norm(gradient / 64)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("positions", [900, 24])
def test_equal_maps_are_no_distance_apart_in_float32(loss, positions):
    f = jnp.asarray(100 * graded(0, positions, 64, 1e-6), np.float32)
    value, gradient = value_and_grads[loss](f, target_of(f))
    unit = jnp.mean(f**2) if loss is wasserstein_loss else 1
    twice = jnp.linalg.norm(value_and_grads[loss](2 * f, target_of(f))[1])
    assert abs(value) < 2e-4 * unit
    assert jnp.linalg.norm(gradient) < 1e-3 * twice


def degenerate():
    rng = np.random.default_rng(0)
    two = np.sign(rng.normal(size=(64, 64, 1))) * rng.normal(size=3)
    return {
        "zero": np.zeros((5, 4, 3)),
        "constant": np.full((33, 31, 3), 10.3),
        "two values": 30 * two,  # rounding takes an eigenvalue far below zero
        "one direction": rng.normal(size=(9, 9, 1)) * rng.normal(size=3),
        "one position": rng.normal(size=(1, 1, 3)),
        "dead channel": rng.normal(size=(9, 9, 3)) * np.array([1, 0, 1]),
        "far from zero": rng.normal(size=(9, 9, 3)) + 1e3,
        "large": 1e5 * rng.normal(size=(9, 9, 3)),
        "small": 1e-6 * rng.normal(size=(9, 9, 3)),
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_map_gives_a_nan(loss, dtype):
    evaluate = value_and_grads[loss]
    maps = {name: jnp.asarray(f, dtype) for name, f in degenerate().items()}
    targets = {name: target_of(f) for name, f in maps.items()}
    for name, f in maps.items():
        for other, target in targets.items():
            value, gradient = evaluate(f, target)
            assert jnp.isfinite(value), (name, other)
            assert jnp.isfinite(gradient).all(), (name, other)


@pytest.mark.parametrize("name", ["zero", "constant", "two values", "one position"])
def test_no_finite_result_sets_off_jax_debug_nans(name):
    f = jnp.asarray(degenerate()[name], np.float32)
    target = target_of(f)
    with jax.debug_nans(True):
        for loss in LOSSES:
            for run in (jax.jit(jax.value_and_grad(loss)), jax.value_and_grad(loss)):
                value, gradient = run(2 * f, target)
                assert jnp.isfinite(value)
                assert jnp.isfinite(gradient).all()


def test_a_map_with_a_nan_comes_to_an_end():
    f = jnp.full((2, 2, 3), np.nan, np.float32)
    assert jnp.isnan(wasserstein_loss(f, target_of(jnp.ones((2, 2, 3), np.float32))))


def test_a_constant_map_is_as_far_as_its_mean_and_the_variance():
    f, style = np.full((4, 5, 3), 2.0), draw(0, 6, 6, 3)
    got = wasserstein_loss(
        jnp.asarray(f, np.float32), target_of(jnp.asarray(style, np.float32)), eps=1e-9
    )
    np.testing.assert_allclose(got, np.mean((2 - style) ** 2), rtol=2e-4)


@settings(max_examples=15)
@given(st.sampled_from([1, 4]), st.integers(0, 99))
def test_it_is_a_distance(channels, seed):
    evaluate = value_and_grads[wasserstein_loss]
    with jax.enable_x64(True):
        f, g = (jnp.asarray(draw(seed + i, 4, 5, channels)) for i in (0, 100))
        (there, _), (back, _) = evaluate(f, target_of(g)), evaluate(g, target_of(f))
        np.testing.assert_allclose(there, back, rtol=1e-7, atol=1e-12)
        assert there > -1e-12
        value, gradient = evaluate(f, target_of(f))
        np.testing.assert_allclose(value, 0, atol=1e-8)
        np.testing.assert_allclose(gradient, 0, atol=1e-6)
        moved, _ = evaluate(f + 3, target_of(f))
        np.testing.assert_allclose(moved, 9, rtol=1e-7)


@settings(max_examples=15)
@given(st.sampled_from(LOSSES), st.permutations(range(12)), st.integers(0, 99))
def test_it_does_not_care_where_things_are(loss, order, seed):
    with jax.enable_x64(True):
        f = draw(seed, 3, 4, 5)
        target = target_of(jnp.asarray(draw(seed + 100, 4, 4, 5)))
        shuffled = f.reshape(12, 5)[np.array(order)].reshape(2, 6, 5)
        values = [value_and_grads[loss](jnp.asarray(x), target)[0] for x in (f, shuffled)]
        np.testing.assert_allclose(*values, rtol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_image_of_a_batch_has_its_own_loss(loss):
    f, style = draw(0, 3, 8, 7, 3), draw(1, 3, 6, 5, 3)
    f[2], style[2] = 1e4 * f[2], 1e4 * style[2]  # far larger than the others
    f, style = jnp.asarray(f, np.float32), jnp.asarray(style, np.float32)
    targets = target_of(style)
    values = jax.jit(loss)(f, targets)
    gradients = jax.jit(jax.grad(lambda f: loss(f, targets).sum()))(f)
    mapped = jax.jit(jax.vmap(loss))(f, targets)
    assert values.shape == mapped.shape == (3,)
    for i in range(3):
        value, gradient = value_and_grads[loss](f[i], target_of(style[i]))
        np.testing.assert_allclose([values[i], mapped[i]], value, rtol=1e-4)
        np.testing.assert_allclose(
            gradients[i], gradient, rtol=2e-2, atol=1e-5 * jnp.abs(f[i]).max()
        )


def test_an_image_that_takes_another_attempt_leaves_the_others_alone():
    # A singular covariance, and one that rounding has left with a negative eigenvalue.
    a = jnp.stack([jnp.diag(jnp.asarray(x, np.float32)) for x in ([1, 0, 0], [1, -5e-6, 0])])
    b = jnp.broadcast_to(jnp.eye(3), (2, 3, 3))
    values = _bures(a, b, 1e-9)
    alone = _bures(a[0], b[0], 1e-9)
    np.testing.assert_allclose(values[0], alone, rtol=1e-6)
    np.testing.assert_allclose(values, 2, atol=0.03)  # 4 - 2 tr diag(1, 0, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("power", [-9, 1, 12])
def test_the_relative_loss_does_not_see_a_factor_of_the_activations(power, dtype):
    f, style = (jnp.asarray(draw(i, 6, 7, 9), dtype) for i in range(2))
    factor = jnp.asarray(2.0**power, dtype)
    evaluate = value_and_grads[relative_wasserstein_loss]
    value, gradient = evaluate(f, target_of(style))
    scaled, scaled_gradient = evaluate(f * factor, target_of(style * factor))
    assert value > 0.01
    np.testing.assert_array_equal(scaled, value)
    np.testing.assert_array_equal(scaled_gradient * factor, gradient)


def test_the_relative_loss_of_nothing_is_one():
    style = jnp.asarray(draw(0, 9, 9, 4), np.float32)
    value = relative_wasserstein_loss(jnp.zeros((3, 3, 4), np.float32), target_of(style), eps=1e-8)
    np.testing.assert_allclose(value, 1, rtol=1e-3)


def test_moments_of_several_styles_may_be_averaged():
    f, g = (draw(i, 6, 7, 4) for i in range(2))
    both = target_of(jnp.asarray(np.concatenate([f, g]), np.float32))
    apart = [target_of(jnp.asarray(x, np.float32)) for x in (f, g)]
    second = [x.covariance + jnp.outer(x.mean, x.mean) for x in apart]
    blend = gaussian((apart[0].mean + apart[1].mean) / 2, (second[0] + second[1]) / 2)
    np.testing.assert_allclose(blend.mean, both.mean, rtol=1e-5)
    np.testing.assert_allclose(blend.covariance, both.covariance, rtol=1e-4, atol=1e-5)


def test_a_target_has_no_negative_variance():
    f = jnp.asarray(np.full((64, 64, 5), 10.3) * np.arange(1, 6), np.float32)
    target = target_of(f)
    second = gram_matrix(f) / 4096
    noise = np.linalg.eigvalsh(np.asarray(second - jnp.outer(target.mean, target.mean)))
    assert noise.min() < -1e-4
    assert np.linalg.eigvalsh(np.asarray(target.covariance, np.float64)).min() > -1e-6
