from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nst_jax.errors import InputError
from nst_jax.network import vgg
from nst_jax.network.architecture import ARCHITECTURES

VGG19 = ARCHITECTURES["vgg19"]

pytestmark = pytest.mark.usefixtures("strict_dtypes")


# Compiled whole: op by op, the tests would take three times as long.
compute = jax.jit(lambda network, image, taps: network(image, taps), static_argnums=2)


@pytest.fixture(scope="module")
def network(random_params):
    return vgg.build_vgg19(random_params)


def numpy_features(params, image, *, pool, padding="constant", convs=VGG19.convs):
    """The network in float64 numpy, loop over taps of the kernel; independent of XLA."""
    x = (image.astype(np.float64) - vgg.MEAN) / vgg.STD
    found = {}
    for conv in convs:
        if conv.index == 1 and conv.block > 1:
            h, w, c = x.shape
            windows = x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)
            x = pool(windows.transpose(0, 2, 4, 1, 3).reshape(h // 2, w // 2, c, 4))
        mode = padding if conv.name == "conv1_1" else "constant"
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode=mode)
        h, w, _ = x.shape
        kernel = params[f"{conv.name}.kernel"].astype(np.float64)
        x = sum(padded[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
        found[conv.name] = x = x + params[f"{conv.name}.bias"]
        found[conv.relu] = x = np.maximum(x, 0)
    return found


POOLS = {
    "average": lambda windows: windows.mean(axis=-1),
    "max": lambda windows: windows.max(axis=-1),
    "l2": lambda windows: np.sqrt((windows**2).sum(axis=-1)),
}


@pytest.mark.parametrize("pooling", ["average", "max", "l2"])
def test_every_tap_matches_numpy(random_params, photographs, pooling):
    # Odd sizes at every level: 37x45, 18x22, 9x11, 4x5, 2x2.
    image, scale = photographs[0], 1.5
    expected = numpy_features(random_params, image, pool=lambda w: scale * POOLS[pooling](w))
    network = vgg.build_vgg19(random_params, pooling=pooling, pool_scale=scale)
    actual = compute(network, image, VGG19.taps)
    assert tuple(actual) == VGG19.taps
    for tap, theirs in expected.items():
        assert actual[tap].shape == theirs.shape
        error = np.linalg.norm(actual[tap] - theirs) / np.linalg.norm(theirs)
        assert error < 5e-6, tap  # float32 rounding through 16 layers


def test_replicate_padding_touches_only_the_first_convolution(random_params, photographs):
    image = photographs[0]
    pool, convs = POOLS["average"], VGG19.convs[:4]
    expected = numpy_features(random_params, image, pool=pool, padding="edge", convs=convs)
    network = vgg.build_vgg19(random_params, padding="replicate")
    actual = compute(network, image, ("conv1_1", "relu2_2"))
    for tap in actual:
        np.testing.assert_allclose(actual[tap], expected[tap], atol=2e-5)
    zeros = compute(vgg.build_vgg19(random_params), image, ("conv1_1",))["conv1_1"]
    assert np.abs(zeros - actual["conv1_1"])[1:-1, 1:-1].max() < 1e-6
    assert np.abs(zeros - actual["conv1_1"])[0].max() > 0.1


def test_taps_come_in_network_order_whatever_is_asked(network, photographs):
    taps = ("relu3_1", "conv1_2", "conv3_1", "relu1_1", "relu3_1")
    found = compute(network, photographs[0], taps)
    assert isinstance(found, OrderedDict)
    assert list(found) == ["relu1_1", "conv1_2", "conv3_1", "relu3_1"]
    np.testing.assert_array_equal(found["relu3_1"], np.maximum(found["conv3_1"], 0))


@pytest.mark.parametrize(("tap", "convolutions"), [("conv1_1", 1), ("relu2_2", 4), ("conv5_1", 13)])
def test_nothing_deeper_than_the_deepest_tap_is_computed(network, tap, convolutions):
    program = jax.make_jaxpr(lambda x: network(x, [tap]))(jnp.zeros((64, 64, 3)))
    assert str(program).count("conv_general_dilated[") == convolutions


def test_a_batch_is_its_images(network, photographs):
    image = jnp.asarray(photographs[0])
    batch = jnp.stack([image, image[::-1]])
    together = compute(network, batch, ("relu3_1",))["relu3_1"]
    assert together.shape == (2, 9, 11, 256)
    for i in range(2):
        alone = compute(network, batch[i], ("relu3_1",))["relu3_1"]
        np.testing.assert_allclose(together[i], alone, atol=1e-4)
    mapped = jax.vmap(compute, in_axes=(None, 0, None))(network, batch, ("relu3_1",))["relu3_1"]
    np.testing.assert_allclose(together, mapped, atol=1e-4)


def test_compute_type(random_params, photographs):
    image = jnp.asarray(photographs[0])
    exact = compute(vgg.build_vgg19(random_params), image, ("relu3_1",))["relu3_1"]
    narrow = vgg.build_vgg19(random_params, dtype=jnp.bfloat16)
    half = compute(narrow, image, ("relu3_1",))["relu3_1"]
    assert half.dtype == jnp.bfloat16
    error = jnp.linalg.norm(half.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 0.05  # 8 bits in each of 5 layers
    with jax.enable_x64(True):
        wide = vgg.build_vgg19(random_params, dtype=np.float64, param_dtype=np.float64)
        found = compute(wide, jnp.asarray(image, np.float64), ("conv1_1",))
        assert found["conv1_1"].dtype == np.float64


def test_network_is_a_plain_pytree(network):
    leaves = jax.tree.leaves(network)
    assert len(leaves) == 32
    assert sum(leaf.size for leaf in leaves) == 20_024_384  # VGG-19 without its classifier
    twice = jax.tree.map(lambda x: 2 * x, network)
    np.testing.assert_array_equal(
        twice.convs[3].kernel[...], 2 * np.asarray(network.convs[3].kernel[...])
    )


def test_a_network_may_end_early(network, random_params, photographs):
    needed = {name: random_params[name] for name in VGG19.parameter_shapes("relu2_1")}
    assert list(needed)[-1] == "conv2_1.bias"
    short = vgg.build_vgg19(needed, deepest="relu2_1")
    assert len(jax.tree.leaves(short)) == 2 * 3
    for tap, found in compute(short, photographs[0], ("conv1_2", "relu2_1")).items():
        np.testing.assert_array_equal(found, compute(network, photographs[0], (tap,))[tap])
    assert [name for name, _ in short.operations()][-1] == "relu2_1"
    with pytest.raises(InputError, match=r"ends at relu2_1, .* conv2_2; build it with deepest="):
        short(jnp.asarray(photographs[0]), ["conv2_2"])
    with pytest.raises(InputError, match=r"conv2_2\.kernel is missing"):
        vgg.build_vgg19(needed, deepest="conv2_2")
    with pytest.raises(InputError, match="unknown VGG-19 layer: 'relu9_1'"):
        vgg.build_vgg19(needed, deepest="relu9_1")


def test_recast_shares_its_parameters_and_leaves_the_original_alone(network):
    recast = vgg.recast(
        network,
        dtype="bfloat16",
        conv="winograd",
        pooling="max",
        pool_scale=2.0,
        padding="replicate",
    )
    assert (recast.dtype, recast.conv) == (jnp.bfloat16, "winograd")
    assert (network.dtype, network.conv) == (jnp.float32, "direct")
    assert (recast.pooling, recast.pool_scale, recast.padding) == ("max", 2.0, "replicate")
    assert (network.pooling, network.pool_scale, network.padding) == ("average", 1.0, "zeros")
    for ours, theirs in zip(jax.tree.leaves(recast), jax.tree.leaves(network), strict=True):
        assert ours is theirs


def test_gradient_of_l2_pooling_is_finite_where_squares_vanish(random_params):
    # Positive activations whose squares underflow: ReLU's own gradient does not mask these.
    params = {
        name: np.full_like(array, 1e-30 if name.endswith("bias") else 0)
        for name, array in random_params.items()
    }
    network = vgg.build_vgg19(params, pooling="l2")
    gradient = jax.jit(jax.grad(lambda x: network(x, ["relu2_1"])["relu2_1"].sum()))
    assert np.isfinite(gradient(jnp.full((8, 8, 3), 0.5))).all()


def test_normalize_and_back(photographs):
    image = jnp.asarray(photographs[0])
    z = vgg.normalize(image)
    expected = (photographs[0] - np.array(vgg.MEAN)) / np.array(vgg.STD)
    np.testing.assert_allclose(z, expected, atol=2e-6)
    np.testing.assert_allclose(vgg.denormalize(z), image, atol=1e-6)


def test_what_cannot_be_computed_is_refused(network, random_params, unchecked):
    with pytest.raises(InputError, match=r"at least 16 px"):
        network(jnp.zeros((64, 15, 3)), ["relu1_1", "relu5_1"])
    with pytest.raises(InputError, match=r"unknown VGG-19 layer: 'relu6_1', 'relu9'"):
        network(jnp.zeros((64, 64, 3)), ["relu6_1", "relu1_1", "relu9"])
    with pytest.raises(InputError, match="unknown VGG-19 layer: none"):
        network(jnp.zeros((64, 64, 3)), [])
    for bad in (jnp.zeros((64, 64)), jnp.zeros((64, 64, 4)), jnp.zeros((64, 64, 3), np.uint8)):
        with pytest.raises(InputError, match=r"the image is .*allowed are floats"):
            network(bad, ["relu1_1"])
    with pytest.raises(InputError, match=r"pooling is 'mean'; allowed are average, max, l2"):
        vgg.build_vgg19(random_params, pooling="mean")
    with pytest.raises(InputError, match=r"conv is 'auto'; allowed are direct, winograd"):
        vgg.build_vgg19(random_params, conv="auto")


def test_parameters_that_do_not_fit_are_all_listed(random_params):
    params = dict(random_params)
    del params["conv1_1.bias"]
    params["conv9_9.kernel"] = np.zeros(3)
    params["conv2_1.kernel"] = params["conv2_1.kernel"].transpose(3, 2, 0, 1)
    with pytest.raises(InputError) as error:
        vgg.build_vgg19(params)
    for fault in ("conv1_1.bias is missing", "conv9_9.kernel is not", "(128, 64, 3, 3), not (3, 3"):
        assert fault in str(error.value)


def test_a_normalized_image_needs_no_way_to_srgb_and_back(random_params):
    network = vgg.build_vgg19(random_params)
    image = jnp.asarray(np.random.default_rng(0).random((2, 9, 11, 3)), jnp.float32)
    direct = network.from_normalized(vgg.normalize(image), ("conv2_1",))
    np.testing.assert_array_equal(direct["conv2_1"], network(image, ("conv2_1",))["conv2_1"])
    with pytest.raises(InputError, match="at least 2 px"):
        network.from_normalized(image[:, :1], ("conv2_1",))


def test_operations_are_the_network(random_params):
    network = vgg.build_vgg19(random_params, padding="replicate", pool_scale=2.0)
    image = jnp.asarray(np.random.default_rng(0).random((17, 19, 3)), jnp.float32)
    maps, x = network(image), vgg.normalize(image)[None]
    names = []
    for name, operation in network.operations():
        x = operation(x)
        names.append(name)
        if name in maps:
            np.testing.assert_array_equal(maps[name], x[0])
    assert [name for name in names if name in VGG19.taps] == list(VGG19.taps)
    assert [name for name in names if name not in VGG19.taps] == [
        "pool1",
        "pool2",
        "pool3",
        "pool4",
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("conv", ["direct", "winograd"])
def test_freezing_changes_the_forms_and_not_the_maps(random_params, photographs, conv, dtype):
    network = vgg.build_vgg19(random_params, dtype=dtype, conv=conv)
    frozen = vgg.freeze(network, taps=("relu3_1", "conv2_2"))
    forms = [
        (layer.turned is not None, layer.transformed is not None, str(layer.kernel[...].dtype))
        for layer in frozen.convs
    ]
    turned, transformed = (True, False, dtype), (False, True, dtype)
    fast = transformed if conv == "winograd" else turned
    untouched = (False, False, "float32")
    # Five convolutions are needed; the first two have too few channels for Winograd's algorithm.
    assert forms == [turned, turned, fast, fast, fast, *[untouched] * 11]
    assert all(layer.turned is None and layer.transformed is None for layer in network.convs)
    before, after = (compute(n, photographs[0], ("relu3_1",))["relu3_1"] for n in (network, frozen))
    # XLA may leave out a rounding to bfloat16 that it sees being undone.
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    difference = np.linalg.norm(np.float32(before) - np.float32(after))
    assert difference <= tolerance * np.linalg.norm(np.float32(before))


def test_winograd_is_the_network(random_params, photographs):
    def loss(image, network):
        return sum((x**2).sum() for x in network(image, ("relu2_2", "conv4_1")).values())

    direct, fast = (
        jax.jit(jax.value_and_grad(loss))(
            jnp.asarray(photographs[0]), vgg.build_vgg19(random_params, conv=conv)
        )
        for conv in ("direct", "winograd")
    )
    for ours, theirs in zip(fast, direct, strict=True):
        # float32 rounding of both, through nine layers and back.
        assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


def test_remat_computes_the_same_and_keeps_less(random_params):
    """The maps between two poolings are not among what the forward pass leaves to the gradient."""
    image = np.random.default_rng(0).uniform(size=(48, 32, 3)).astype(np.float32)
    taps = ("relu1_1", "relu2_2", "relu3_1")

    def evaluate(remat):
        network = vgg.build_vgg19(random_params, remat=remat, pooling="max", deepest="relu3_1")

        def loss(image):
            return sum(jnp.sum(x**2) for x in network(image, taps=taps).values())

        # XLA may put the same maps together again, so the saved ones are looked at before it.
        saved = jax.eval_shape(lambda image: jax.vjp(loss, image)[1], image)
        kept = [x.shape for x in jax.tree.leaves(saved)]
        return *jax.jit(jax.value_and_grad(loss))(image), kept

    value, gradient, kept = evaluate("none")
    same, same_gradient, fewer = evaluate("blocks")
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(same_gradient, gradient, rtol=1e-4, atol=1e-6 * abs(gradient).max())
    full = (1, 24, 16, 128)  # both maps of the second block
    assert full in kept
    assert (1, 24, 16, 64) in fewer  # what the second block begins with
    assert sum(map(np.prod, fewer)) < sum(map(np.prod, kept))


def test_vgg16_is_vgg16(random_vgg16, photographs):
    table = ARCHITECTURES["vgg16"]
    expected = numpy_features(random_vgg16, photographs[0], pool=POOLS["max"], convs=table.convs)
    network = vgg.build_vgg16(random_vgg16, pooling="max")
    assert isinstance(network, vgg.VGG16)
    assert len(jax.tree.leaves(network)) == 26
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == 14_714_688
    actual = compute(network, photographs[0], None)
    assert tuple(actual) == table.taps
    for tap, theirs in expected.items():
        error = np.linalg.norm(actual[tap] - theirs) / np.linalg.norm(theirs)
        assert error < 5e-6, tap  # float32 rounding through 13 layers
    frozen = vgg.freeze(vgg.recast(network, conv="winograd"))
    assert isinstance(frozen, vgg.VGG16)
    assert sum(layer.transformed is not None for layer in frozen.convs) == 11
    back = vgg.build_vgg16(vgg.parameters(network))
    assert jax.tree.map(jnp.shape, back.convs) == jax.tree.map(jnp.shape, network.convs)


def test_each_network_says_what_it_lacks(random_params, random_vgg16):
    with pytest.raises(InputError, match="unknown VGG-16 layer: 'relu3_4'"):
        vgg.build_vgg16(random_vgg16)(jnp.zeros((64, 64, 3)), ["relu3_4"])
    with pytest.raises(InputError, match=r"not VGG-16's parameters:\n  conv3_4.kernel is not one"):
        vgg.build_vgg16(random_params)
    with pytest.raises(InputError, match=r"not VGG-19's parameters:\n  conv3_4.kernel is missing"):
        vgg.build_vgg19(random_vgg16)
    with pytest.raises(InputError, match="ends at relu4_3, which is before conv5_1; build it with"):
        vgg.VGG16(rngs=None, deepest="relu4_3")(jnp.zeros((64, 64, 3)), ["conv5_1"])


class Model(nnx.Module):
    """A user's model: a trained convolution, and VGG's map of what it makes."""

    def __init__(self, network):
        self.own, self.vgg = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0)), network

    def __call__(self, image):
        return self.vgg(nnx.sigmoid(self.own(image)), ("relu2_1",))["relu2_1"]


@nnx.jit(static_argnames="wrt")
def train(model, optimizer, image, *, wrt):
    gradient = nnx.grad(lambda model: (model(image) ** 2).mean(), argnums=nnx.DiffState(0, wrt))
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        optimizer.update(model, gradient(model))


def trained(network, image, wrt):
    """Return which arrays of the own convolution and of the network are as before the training."""
    model = Model(network)
    before = jax.tree.map(np.array, (model.own, network))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=wrt)
    for _ in range(5):
        train(model, optimizer, image, wrt=wrt)
    same = jax.tree.map(np.array_equal, (model.own, model.vgg), before)
    return [jax.tree.leaves(part) for part in same]


def test_a_network_in_a_trained_model_stays_as_it_is(random_params, photographs):
    network = vgg.build_vgg19(random_params, deepest="relu2_1", conv="winograd")
    image = jnp.asarray(photographs[0])[None]
    frozen = vgg.freeze(network)  # two kernels are turned, one is transformed
    assert len(jax.tree.leaves(frozen)) > 2 * 3 + 2
    for each in (network, frozen):
        own, others = trained(each, image, nnx.Param)
        assert not any(own)
        assert all(others)
        assert nnx.grad(lambda model: (model.own.bias[...] ** 2).sum())(Model(each)).keys() == {
            "own"
        }
    own, others = trained(network, image, (nnx.Param, vgg.FrozenParam))
    assert not any(own + others)


def test_features_are_an_argument_like_any_other(random_params, photographs):
    network = vgg.build_vgg19(random_params, deepest="relu2_1")
    features, traces = network.features(["relu2_1", "conv1_1", "relu2_1"]), []
    assert features.taps == ("conv1_1", "relu2_1")
    assert all(map(np.shares_memory, jax.tree.leaves(features), jax.tree.leaves(network)))

    @jax.jit
    def maps(features, image):
        traces.append(features.taps)
        return features(image)

    found = maps(features, photographs[0])
    assert list(found) == ["conv1_1", "relu2_1"]
    for tap, expected in compute(network, photographs[0], features.taps).items():
        np.testing.assert_array_equal(found[tap], expected)
    doubled = jax.tree.map(lambda x: 2 * x, features)
    assert isinstance(doubled, vgg.Features)
    assert not np.allclose(maps(doubled, photographs[0])["conv1_1"], found["conv1_1"])
    assert len(maps(network.features(["relu1_1"]), photographs[0])) == 1
    assert traces == [("conv1_1", "relu2_1"), ("relu1_1",)]  # numbers compile nothing, taps do
    mapped = jax.vmap(features.__call__)(jnp.stack([photographs[0]] * 2))
    np.testing.assert_allclose(mapped["relu2_1"][1], found["relu2_1"], atol=1e-4)


@pytest.mark.parametrize("make", [vgg.VGG19.features, vgg.Features])
def test_the_taps_of_features_are_checked_when_they_are_made(random_params, make):
    network = vgg.build_vgg19(random_params, deepest="relu2_1")
    with pytest.raises(InputError, match="unknown VGG-19 layer: 'relu9_1'"):
        make(network, ["relu9_1"])
    with pytest.raises(InputError, match="ends at relu2_1, which is before relu3_1"):
        make(network, ["relu3_1"])
    with pytest.raises(InputError, match="unknown VGG-19 layer: none"):
        make(network, [])


def test_freezing_checks_its_taps(random_params):
    network = vgg.build_vgg19(random_params, deepest="relu2_1")
    with pytest.raises(InputError, match="ends at relu2_1, which is before relu3_1"):
        vgg.freeze(network, taps=["relu3_1"])
