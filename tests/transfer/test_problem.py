"""Runs over scales with a network, a loss and an optimizer of one's own."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import (
    InputError,
    Minimizer,
    Problem,
    make_targets,
    resample,
    run_scales,
    scales,
    style_transfer_loss,
)

SHAPES = scales(24, 32, min_size=16, factor=2**0.5)
STEPS = [(shape, 4) for shape in SHAPES]


def features(image):
    """Somebody's network: colors and edges."""
    return {"color": image, "edges": image[..., 1:, 1:, :] - image[..., :-1, :-1, :]}


def loss(image, targets):
    return style_transfer_loss(image, targets, features=features)


MINIMIZER = Minimizer(
    loss,
    optax.adam(optax.cosine_decay_schedule(0.05, 12)),
    has_aux=True,
    project=lambda x: jnp.clip(x, 0, 1),
)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(5)
    return [jnp.asarray(rng.random((24, 32, 3)), jnp.float32) for _ in range(2)]


@pytest.fixture
def problem(images):
    def at(shape):
        content, style = (resample(image, shape, method="linear") for image in images)
        layers = {"content_layers": ["edges"], "style_layers": ["color"]}
        return Problem(MINIMIZER, (make_targets(features, content, style, **layers),))

    return at


def test_a_network_of_your_own_over_scales(images, problem):
    gray = jnp.full((24, 32, 3), 0.5)
    snapshots = list(run_scales(gray, problem, scales=STEPS, snapshot_every=2))
    assert [s.step for s in snapshots] == [2, 4, 6, 8, 10, 12]
    assert [(s.scale, s.scale_step) for s in snapshots][-2:] == [(3, 2), (3, 4)]
    assert (
        [s.image.shape[:2] for s in snapshots[::2]]
        == list(SHAPES)
        == [(12, 16), (17, 23), (24, 32)]
    )
    last = snapshots[-1].losses
    np.testing.assert_array_equal(last.loss, last.aux.total)
    untouched, _ = loss(gray, *problem(SHAPES[-1]).args)
    assert last.loss[-1] < 0.9 * untouched


def test_it_is_the_loop_that_one_would_write(images, problem):
    *_, last = run_scales(images[0], problem, scales=STEPS[1:2], snapshot_every=None)
    shape, steps = STEPS[1]
    minimizer, args = problem(shape)
    start = jnp.clip(resample(images[0], shape, method="cubic"), 0, 1)
    state, _ = minimizer.run(minimizer.init(start), steps, *args)
    np.testing.assert_allclose(last.image, state.variable, atol=1e-6)


def test_what_is_not_finite_ends_the_run(images):
    minimizer = Minimizer(lambda x: jnp.sum(jnp.log(x - 0.5) * 0 + x), optax.sgd(0.2))
    start = jnp.full((8, 8, 3), 0.9)
    snapshots = list(
        run_scales(start, lambda _: Problem(minimizer), scales=[((8, 8), 9)], snapshot_every=1)
    )
    assert [s.finite for s in snapshots] == [True, True, False]
    np.testing.assert_allclose(snapshots[-1].image, 0.5, atol=1e-6)


def test_bad_arguments_are_refused(images, problem):
    with pytest.raises(InputError, match="snapshot_every is 0; it must be at least 1"):
        run_scales(images[0], problem, scales=STEPS, snapshot_every=0)
    with pytest.raises(InputError, match="there are no scales; give at least one"):
        run_scales(images[0], problem, scales=[])
    with pytest.raises(InputError, match="the start image has values from 0 to 255"):
        run_scales(jnp.zeros((8, 8, 3)).at[0].set(255.0), problem, scales=STEPS)
