"""Every mode of differentiation, and every way to spread a batch, of a small network's loss."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from fast import xla_flags
from nst_jax import gram_matrix, total_variation

TAPS = ("conv1_1", "relu1_2", "relu2_1")  # conv2_1 is the first that Winograd's algorithm pays for
CASES = {
    "direct": {"conv": "direct", "pooling": "average", "padding": "zeros"},
    "winograd": {"conv": "winograd", "pooling": "max", "padding": "replicate"},
    "l2": {"conv": "direct", "pooling": "l2", "padding": "replicate"},
}


def loss(image, network):
    """Gram matrices and maps of some layers and all total variations, summed over a batch."""
    maps = network(image, TAPS)
    grams = sum(1e-6 * (gram_matrix(x) ** 2).sum() for x in maps.values())
    kinds = ("nine-point", "l2", "l1")
    smooth = sum(1e-3 * total_variation(image, kind=kind).sum() for kind in kinds)
    return 1e-3 * (grams + (maps["relu2_1"] ** 3).sum()) + smooth


def derivatives(image, v, w, network, loss=loss):
    """By every mode: the slope along v, and the product of the Hessian with v."""
    f = functools.partial(loss, network=network)
    gradient = jax.grad(f)
    _, along = jax.linearize(f, image)
    again = jax.checkpoint(f)
    both = jnp.stack([v, w])

    def step(x, _):
        return x, jax.jvp(gradient, (x,), (v,))

    _, (gradients, products) = jax.lax.scan(step, image, length=2)
    slopes = {
        "reverse": jnp.vdot(gradient(image), v),
        "jvp": jax.jvp(f, (image,), (v,))[1],
        "linearize": along(v),
        "jacfwd": jax.jacfwd(lambda s: f(image + s[0] * v + s[1] * w))(jnp.zeros(2, v.dtype))[0],
        "scan": jnp.vdot(gradients[1], v),
        "checkpoint": jnp.vdot(jax.grad(again)(image), v),
    }
    hessian = {
        "forward over reverse": jax.jvp(gradient, (image,), (v,))[1],
        "reverse over reverse": jax.grad(lambda x: jnp.vdot(gradient(x), v))(image),
        "reverse over forward": jax.grad(lambda x: jax.jvp(f, (x,), (v,))[1])(image),
        "vmap": jax.vmap(lambda t: jax.jvp(gradient, (image,), (t,))[1])(both)[0],
        "scan": products[1],
        "checkpoint": jax.jvp(jax.grad(again), (image,), (v,))[1],
    }
    return slopes, hessian


def kernel_derivatives(image, v, network, direction):
    """The gradient in the network's parameters, and of the slope along v."""
    slope = jax.grad(lambda net: jax.jvp(lambda x: loss(x, net), (image,), (v,))[1])
    dot = lambda tree: sum(map(jnp.vdot, jax.tree.leaves(tree), jax.tree.leaves(direction)))  # noqa: E731
    return dot(jax.grad(loss, 1)(image, network)), dot(slope(network))


@pytest.fixture(scope="module", params=["winograd", "l2"])
def problem(request, random_params):
    with jax.enable_x64(True):
        network = nst_jax.build_vgg19(
            random_params,
            deepest="relu2_1",
            dtype="float64",
            param_dtype="float64",
            **CASES[request.param],
        )
        rng = np.random.default_rng(0)
        image, v, w = (jnp.asarray(rng.normal(0.5, 0.3, (17, 14, 3))) for _ in range(3))
    return image, v, w, network


def difference(function, x, v, size=1e-6):
    """Central; the error is of order size² and of rounding, 1e-16 / size."""
    move = lambda s: jax.tree.map(lambda a, b: a + s * b, x, v)  # noqa: E731
    over = lambda a, b: (a - b) / (2 * size)  # noqa: E731
    return jax.tree.map(over, function(move(size)), function(move(-size)))


def test_every_mode_is_the_central_difference(problem):
    image, v, w, network = problem
    with jax.enable_x64(True):
        slopes, hessian = jax.jit(derivatives)(image, v, w, network)
        value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
        slope = difference(lambda x: value(x, network), image, v)
        product = difference(lambda x: gradient(x, network), image, v)
    for name, found in slopes.items():
        np.testing.assert_allclose(found, slope, rtol=1e-7, err_msg=name)
    # Near zero, the derivatives of L2 pooling's root enlarge rounding.
    for name, found in hessian.items():
        distance = np.linalg.norm(found - product) / np.linalg.norm(product)
        assert distance < 1e-6, (name, distance)


def test_derivatives_in_the_kernels(problem):
    image, v, _, network = problem
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        draw = lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape))  # noqa: E731
        direction = jax.tree.map(draw, network)
        found, mixed = jax.jit(kernel_derivatives)(image, v, network, direction)
        value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
        # Larger moves of all kernels would take a map across a corner of the ReLU.
        slope = difference(lambda net: value(image, net), network, direction, 1e-7)
        mixed_slope = difference(
            lambda net: jnp.vdot(gradient(image, net), v), network, direction, 1e-7
        )
    np.testing.assert_allclose(found, slope, rtol=1e-7)
    np.testing.assert_allclose(mixed, mixed_slope, rtol=1e-7)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("case", CASES)
def test_a_flat_image_makes_no_nan_in_any_mode(case, random_params):
    network = nst_jax.build_vgg19(random_params, deepest="relu2_1", **CASES[case])
    image = jnp.full((8, 9, 3), 0.5)

    def both(image):
        return jax.jvp(jax.grad(lambda x: loss(x, network)), (image,), (image,))

    with jax.debug_nans(True):
        for run in (both, jax.jit(both)):
            assert all(np.isfinite(x).all() for x in run(image))


# Devices that XLA simulates need a process of their own.
PROGRAM = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import AxisType, PartitionSpec as P
sys.path.insert(0, sys.argv[1])
import nst_jax
from nst_jax.network.conv import conv3x3
from nst_jax.network.vgg import freeze
from test_transformations import CASES, loss

def compute(x, v, network):
    value, gradients = jax.value_and_grad(loss, (0, 1))(x, network)
    product = jax.jvp(jax.grad(functools.partial(loss, network=network)), (x,), (v,))[1]
    return value, *gradients, product

def distance(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    size = lambda x: float(np.linalg.norm(x))
    return max(size(np.asarray(a) - b) / (size(b) or 1.0) for a, b in pairs)

found, device = {}, np.asarray(jax.devices())
explicit = jax.make_mesh((4,), ("d",))
auto = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
kernel = rng.normal(size=(3, 3, 3, 4))
x, v = rng.normal(0.5, 0.3, (2, 4, 13, 10, 3))
for name, options in CASES.items():
    network = nst_jax.VGG19(rngs=nnx.Rngs(0), deepest="relu2_1", dtype="float64",
                            param_dtype="float64", **options)
    network = freeze(network)
    expected = jax.tree.map(np.asarray, jax.jit(compute)(x, v, network))
    for mesh, kind in ((explicit, "Explicit"), (auto, "Auto")):
        with jax.set_mesh(mesh):
            place = lambda x: jax.device_put(x, jax.NamedSharding(mesh, P("d")))
            result = jax.jit(compute)(place(x), place(v), network)
            assert not result[1].sharding.is_fully_replicated
            of_bias = jax.grad(lambda bias, x: (conv3x3(x, kernel, bias) ** 2).sum())
            np.testing.assert_allclose(jax.jit(of_bias)(jnp.ones(4), place(x)),
                                       of_bias(jnp.ones(4), x), rtol=1e-12)
        found[f"{name} {kind}"] = distance(result, expected)

    def mapped(x, v, network):
        value, *others = compute(x, v, network)
        return jax.lax.psum(value, "d"), *others

    result = jax.jit(jax.shard_map(mapped, mesh=auto, in_specs=(P("d"), P("d"), P()),
                                   out_specs=(P(), P("d"), P(), P("d"))))(x, v, network)
    found[f"{name} shard_map"] = distance(result, expected)
json.dump(found, sys.stdout)
"""


@pytest.mark.slow
def test_a_batch_over_devices_is_the_batch_on_one():
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices=4), "JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-c", PROGRAM, os.path.dirname(__file__)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    distances = json.loads(done.stdout)
    assert len(distances) == 9
    assert max(distances.values()) < 1e-12, distances  # float64 sums in another order
