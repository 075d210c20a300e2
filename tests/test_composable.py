"""The pure parts under JAX's transformations, with other optimizers and other networks."""

import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import nst_jax
from nst_jax import Minimizer, make_targets, style_transfer_loss

LAYERS = {"content_layers": ("relu2_1",), "style_layers": ("relu1_1", "relu2_1")}
TAPS = ("relu1_1", "relu2_1")
# Float32 sums in another order: compilers fuse a batch in other ways than one image.
CLOSE = {"rtol": 2e-4, "atol": 2e-6}


@pytest.fixture(scope="module")
def network(random_params):
    return nst_jax.build_vgg19(random_params, deepest="relu2_1")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(4)
    contents, styles = rng.uniform(size=(2, 3, 16, 12, 3)).astype(np.float32)
    return jnp.asarray(contents), jnp.asarray(styles)


def optimized(network, content, style, start, weight, steps=3):
    """Three steps of Adam: what is mapped below over each of its arguments."""
    features = functools.partial(network, taps=TAPS)
    targets = make_targets(features, content, style, **LAYERS)
    loss = functools.partial(
        style_transfer_loss, targets=targets, features=features, style_weight=weight
    )
    minimizer = Minimizer(loss, optax.adam(0.02), has_aux=True)
    state, record = minimizer.run(minimizer.init(start), steps)
    return state.variable, record.loss


@pytest.mark.parametrize("over", ["contents", "styles", "weights", "seeds"])
def test_vmap_is_a_loop(network, images, over):
    contents, styles = images
    starts = jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed), (16, 12, 3)))(
        jnp.arange(3)
    )
    weights = jnp.asarray([0.1, 1.0, 10.0])
    every = {"contents": contents, "styles": styles, "seeds": starts, "weights": weights}
    order = ("contents", "styles", "seeds", "weights")
    axes = [0 if name == over else None for name in order]
    arguments = [every[name] if name == over else every[name][0] for name in order]
    one = jax.jit(optimized)
    pictures, losses = jax.jit(jax.vmap(optimized, in_axes=(None, *axes)))(network, *arguments)
    assert pictures.shape == (3, 16, 12, 3)
    for i in range(3):
        alone = [each[i] if axis == 0 else each for axis, each in zip(axes, arguments, strict=True)]
        picture, loss = one(network, *alone)
        np.testing.assert_allclose(losses[i], loss, **CLOSE)
        # Adam's first steps are the gradient's sign: rounding shows where that is near zero.
        assert np.median(np.abs(pictures[i] - picture)) < 1e-5
    assert not np.allclose(pictures[0], pictures[1], atol=1e-3)


@pytest.fixture(scope="module")
def problem(network, images):
    contents, styles = images
    features = functools.partial(network, taps=TAPS)
    targets = make_targets(features, contents[0], styles[0], **LAYERS)
    return contents[0], targets, features


def test_scan_over_steps_is_a_run(problem):
    start, targets, features = problem
    loss = functools.partial(style_transfer_loss, targets=targets, features=features)
    minimizer = Minimizer(loss, optax.adam(0.02), has_aux=True)

    @jax.jit
    def scanned(start):
        return jax.lax.scan(lambda state, _: minimizer.step(state), minimizer.init(start), length=3)

    state, record = scanned(start)
    again, records = minimizer.run(minimizer.init(start), 3)
    np.testing.assert_allclose(state.variable, again.variable, **CLOSE)
    np.testing.assert_allclose(record.aux.total, records.aux.total, **CLOSE)
    assert int(state.step) == 3


@pytest.mark.parametrize("conv", ["direct", "winograd"])
def test_checkpoint_recomputes_the_same_gradient(random_params, images, conv):
    network = nst_jax.build_vgg19(random_params, deepest="relu2_1", conv=conv)
    contents, styles = images

    def loss(image, network, checkpoint):
        features = functools.partial(network, taps=TAPS)
        features = jax.checkpoint(features) if checkpoint else features
        targets = make_targets(features, contents[0], styles[0], **LAYERS)
        return style_transfer_loss(image, targets, features=features)[0]

    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    plain, again = (gradient(contents[1], network, checkpoint) for checkpoint in (False, True))
    np.testing.assert_allclose(plain, again, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(1e-1, momentum=0.9),
        optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.02, 9))
        ),
        optax.lion(5e-3),
        optax.lbfgs(memory_size=3),
        optax.MultiSteps(optax.adam(0.02), every_k_schedule=2).gradient_transformation(),
    ],
    ids=["sgd", "chain", "lion", "lbfgs", "multi-steps"],
)
def test_any_optimizer_of_optax(problem, optimizer):
    start, targets, features = problem
    loss = functools.partial(style_transfer_loss, targets=targets, features=features)
    minimizer = Minimizer(loss, optimizer, has_aux=True)
    _, record = minimizer.run(minimizer.init(start), 8)
    assert record.loss[7] < record.loss[0]


class Pyramid(nnx.Module):
    """Somebody's own features."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)

    def __call__(self, image):
        batch = image if image.ndim == 4 else image[None]
        first = nnx.relu(self.conv(batch))
        second = nnx.avg_pool(first, (2, 2), (2, 2))
        maps = {"fine": first, "coarse": second}
        return maps if image.ndim == 4 else {name: x[0] for name, x in maps.items()}


@pytest.mark.parametrize(
    "features",
    [Pyramid(nnx.Rngs(0)), lambda image: OrderedDict(fine=image, coarse=image[..., ::2, ::2, :])],
    ids=["module", "function"],
)
def test_any_features(images, features):
    contents, styles = images
    targets = make_targets(
        features, contents[0], styles[0], content_layers=["coarse"], style_layers=["fine", "coarse"]
    )
    loss = functools.partial(style_transfer_loss, targets=targets, features=features)
    minimizer = Minimizer(loss, optax.adam(0.05), has_aux=True)
    state, record = minimizer.run(minimizer.init(contents[1]), 5)
    assert record.loss[4] < record.loss[0]
    assert state.variable.shape == (16, 12, 3)


def test_a_term_of_the_maps_costs_no_convolution(network, problem):
    content, targets, _ = problem

    def convolutions(**options):
        def loss(image, network):
            features = network.features(TAPS)
            return style_transfer_loss(image, targets, features=features, **options)[0]

        return jax.jit(jax.grad(loss)).lower(content, network).as_text().count("convolution")

    own = {"contrast": (5.0, lambda image, maps: jnp.var(maps["relu2_1"]) - jnp.var(image))}
    assert convolutions(terms=own) == convolutions() > 4


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_types(random_params, images, dtype):
    contents, styles = (np.asarray(each[0]) for each in images)
    with jax.enable_x64(dtype == "float64"):
        wide = jnp.float64 if dtype == "float64" else jnp.float32
        network = nst_jax.build_vgg19(random_params, deepest="relu2_1", dtype=dtype)
        picture, losses = jax.jit(optimized)(
            network, *(jnp.asarray(x, wide) for x in (contents, styles, contents, 1.0))
        )
        assert picture.dtype == losses.dtype == wide
        assert np.isfinite(losses).all()


def test_split_and_merged_it_is_the_same_network(network, images):
    graphdef, state = nnx.split(network)

    @jax.jit
    def compute(state, image):
        return nnx.merge(graphdef, state)(image, ["relu2_1"])["relu2_1"]

    expected = network(images[0], ["relu2_1"])["relu2_1"]
    np.testing.assert_allclose(compute(state, images[0]), expected, **CLOSE)
    np.testing.assert_allclose(
        nnx.jit(lambda network, x: network(x, ["relu2_1"])["relu2_1"])(network, images[0]),
        expected,
        **CLOSE,
    )


def test_parameters_are_a_plain_dict(network, random_params, images):
    params = nst_jax.parameters(network)
    assert sorted(params) == sorted(
        f"conv{b}_{i}.{x}" for b, i in ((1, 1), (1, 2), (2, 1)) for x in ("bias", "kernel")
    )
    np.testing.assert_array_equal(params["conv1_2.kernel"], random_params["conv1_2.kernel"])

    @jax.jit
    @jax.grad
    def gradient(params):
        built = nst_jax.build_vgg19(params, deepest="relu2_1")
        return built(images[0], ["relu2_1"])["relu2_1"].sum()

    found = gradient(params)
    assert found.keys() == params.keys()
    assert all(np.abs(each).max() > 0 for each in found.values())


@pytest.mark.parametrize("conv", ["direct", "winograd"])
def test_gradient_through_a_run_with_respect_to_layer_weights(random_params, images, conv):
    """Reverse over reverse, against central differences in float64."""
    contents, styles = (np.asarray(each[0], np.float64)[:10, :8] for each in images)
    with jax.enable_x64(True):
        network = nst_jax.build_vgg19(
            random_params, deepest="relu2_1", dtype="float64", param_dtype="float64", conv=conv
        )
        features = functools.partial(network, taps=TAPS)
        content, style = jnp.asarray(contents), jnp.asarray(styles)
        targets = make_targets(features, content, style, **LAYERS)

        def loss(image, weights):
            named = dict(zip(LAYERS["style_layers"], weights, strict=True))
            return style_transfer_loss(image, targets, features=features, style_layer_weights=named)

        minimizer = Minimizer(loss, optax.sgd(0.02), has_aux=True)

        def outcome(weights):
            body = lambda state, _: minimizer.step(state, weights)  # noqa: E731
            state, _ = jax.lax.scan(body, minimizer.init(content), length=2)
            return jnp.mean((state.variable - style) ** 2)

        weights = jnp.asarray([1.0, 0.5])
        gradient = jax.jit(jax.grad(outcome))(weights)
        value = jax.jit(outcome)
        for i in range(2):
            nudge = 1e-4 * np.eye(2)[i]
            expected = (value(weights + nudge) - value(weights - nudge)) / 2e-4
            # The difference's own error is of second order in 1e-4, and rounding 1e-16/1e-4.
            np.testing.assert_allclose(gradient[i], expected, rtol=1e-5, atol=1e-11)
