"""A network whose maps have the scale of another one, and the measurement behind it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nst_jax import InputError, freeze, layers, load_image, match_activations, preset, stylize
from nst_jax.network.activations import NORMALIZED_ON_PICTURES, OVER_PHOTOGRAPHS, scale_layer
from nst_jax.network.vgg import MEAN, VGG16, VGG19, build_vgg, parameters, recast
from nst_jax.weights import packaged, sources
from nst_jax.weights.activations import HEIGHT, PICTURES, mean_activations, with_means

SCALES = ("normalized", "caffe")


@pytest.fixture(scope="module")
def network(random_params):
    """One that knows its means, up to relu3_1."""
    return with_means(build_vgg(VGG19, random_params, deepest="relu3_1"), None, "caffe")


def means_of(scale):
    """What the mean activations shall be, on the same pictures."""
    names = ["relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1"]
    return np.array(
        [OVER_PHOTOGRAPHS[scale][name] * NORMALIZED_ON_PICTURES[name] for name in names]
    )


def test_the_mean_is_over_the_five_shipped_pictures(network):
    """Against one picture at a time, with another pooling than the network's own."""
    pictures = load_image(PICTURES).reshape(5, HEIGHT, 192, 3)
    pooled = recast(network, pooling="max")
    maps = [pooled(picture, ["relu1_1", "relu3_1"]) for picture in pictures]
    for name, mean in (("relu1_1", network.means[0]), ("relu3_1", network.means[-1])):
        expected = np.mean([np.asarray(each[name], np.float64).mean() for each in maps])
        np.testing.assert_allclose(mean, expected, rtol=1e-5)  # of sums in float32
    changed = recast(network, pooling="l2", pool_scale=3.0, conv="winograd", dtype=jnp.bfloat16)
    np.testing.assert_array_equal(mean_activations(changed), network.means[...])
    assert network.means.shape == (5,)


@pytest.mark.parametrize("conv", ["direct", "winograd"])
@pytest.mark.parametrize("scale", SCALES)
def test_each_map_has_the_factor_of_its_means(network, photographs, scale, conv):
    """Also the other forms of the kernels, which `freeze` adds."""
    frozen = freeze(recast(network, conv=conv))
    frozen.means = network.means
    matched, taps = match_activations(frozen, scale), network.architecture.taps[:10]
    ours, theirs = matched(photographs[0], taps), frozen(photographs[0], taps)
    factors = np.repeat(means_of(scale) / np.asarray(network.means[...]), 2)
    for tap, factor in zip(taps, factors, strict=True):
        # Winograd's products of 36 terms round to about 1e-5 of the largest.
        largest = 2e-5 * factor * float(jnp.abs(theirs[tap]).max())
        np.testing.assert_allclose(ours[tap], factor * theirs[tap], rtol=1e-5, atol=largest)
    again = mean_activations(match_activations(network, scale))
    np.testing.assert_allclose(again, means_of(scale), rtol=1e-5)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(1e-2, 1e2), min_size=5, max_size=5))
def test_the_scale_of_the_weights_makes_no_difference(network, factors):
    """A network whose layers are multiplied by any numbers gets the same parameters."""
    scaled, before = recast(network), 1.0
    for layer, factor in zip(scaled.convs, factors, strict=True):
        scale_layer(layer, kernel=factor / before, bias=factor)
        before = factor
    scaled.means = type(network.means)(network.means[...] * jnp.asarray(factors))
    ours, theirs = (parameters(match_activations(each, "caffe")) for each in (scaled, network))
    for name, array in theirs.items():
        # Three roundings more in float32.
        np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=1e-30)


def test_a_network_that_has_the_scale_keeps_it(network):
    matched = match_activations(network, "caffe")
    np.testing.assert_array_equal(matched.means[...], means_of("caffe").astype(np.float32))
    ours, theirs = parameters(match_activations(matched, "caffe")), parameters(matched)
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-6)
    assert match_activations(network, "own") is network


def test_a_network_that_does_not_know_its_means_is_refused(network, photographs):
    frozen = freeze(network)
    assert frozen.means is None
    with pytest.raises(InputError, match=r"activations is caffe, but .* load_vgg19\(config=config"):
        next(stylize(*photographs, network=frozen, config=preset("neural-style")))


def test_a_layer_without_activation_is_named(random_params):
    dead = dict(random_params)
    dead["conv2_1.bias"] = np.full_like(dead["conv2_1.bias"], -1e6)
    network = with_means(build_vgg(VGG19, dead, deepest="relu2_2"), None, "normalized")
    with pytest.raises(InputError, match=r"mean activation of relu2_1 is 0\.0, which no factor"):
        match_activations(network, "normalized")


def test_a_converted_file_keeps_the_means(state16, tmp_path):
    source, kept = tmp_path / "s.safetensors", tmp_path / "w.safetensors"
    safetensors.numpy.save_file(state16, source)
    found, metadata = sources.convert(source)
    sources.save_converted(kept, found, metadata)
    loaded = sources.load_weights(kept, deepest="relu2_1")
    assert loaded.means == mean_activations(build_vgg(VGG16, found.params)).tolist()
    assert len(loaded.means) == 13
    assert sources.load_vgg16(str(kept)).means[...].tolist() == loaded.means
    # Files of earlier versions have none.
    sources.save_weights(kept, found.params, metadata)
    assert sources.load_weights(kept).means is None


def test_a_network_is_measured_where_the_config_asks_for_it(state16, tmp_path):
    path = tmp_path / "s.safetensors"
    safetensors.numpy.save_file(state16, path)
    assert sources.load_vgg16(str(path)).means is None
    loaded = sources.load_vgg16(str(path), config=preset("neural-style"))
    np.testing.assert_array_equal(loaded.means[...], mean_activations(loaded))


def test_the_package_has_its_means(package):
    found = packaged.packaged_weights()
    measured = mean_activations(build_vgg(VGG16, found.params))
    np.testing.assert_allclose(found.means, measured, rtol=5e-5)  # four digits are written down


def test_a_run_takes_the_network_in_either_scale(network, photographs):
    """`stylize` brings the maps to the config's scale, and leaves them if they have it."""
    config = dataclasses.replace(
        preset("neural-style"),
        steps=2,
        content_layers=layers("relu2_1"),
        style_layers=layers("relu1_1", "relu3_1"),
    )

    def losses(network, config):
        (snapshot,) = stylize(*photographs, network=network, config=config, snapshot_every=None)
        return snapshot.losses

    there = losses(network, config)
    matched = match_activations(network, "caffe")
    np.testing.assert_allclose(losses(matched, config).total, there.total, rtol=1e-5)
    # The content term grows by the square of the factor, a Gram term by its fourth power.
    own = losses(network, dataclasses.replace(config, activations="own"))
    factors = means_of("caffe") / np.asarray(network.means[...])
    np.testing.assert_allclose(there.content[0], own.content[0] * factors[2] ** 2, rtol=1e-4)
    for name, factor in (("relu1_1", factors[0]), ("relu3_1", factors[4])):
        grown = own.style_terms[name][0] * factor**4
        np.testing.assert_allclose(there.style_terms[name][0], grown, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(shared, tmp_path_factory):
    """The trained weights beside some checkouts: the network that the tables are of."""
    found, metadata = sources.convert(shared / "weights" / "vgg19_features.pth")
    path = tmp_path_factory.mktemp("trained") / "w.safetensors"
    sources.save_converted(path, found, metadata)
    return sources.load_weights(path)


def test_the_table_is_that_of_the_normalized_network(trained):
    # Five digits are written down.
    np.testing.assert_allclose(list(NORMALIZED_ON_PICTURES.values()), trained.means, rtol=5e-5)


def test_neural_style_begins_at_the_content_loss_of_its_log(trained, shared):
    """jcjohnson/neural-style's INSTALL.md prints 2091178.6 for the same photograph at 512 px.

    That program reduces the picture by bilinear interpolation of the nearest pixels, and begins at
    the mean color. The means at relu4_2 are known to within 1 %, so the term to within 2 %.
    """
    network = build_vgg(VGG19, trained.params, deepest="relu4_2", pooling="max")
    network = with_means(network, trained.means, "caffe")
    matched = match_activations(network, "caffe")
    photograph = load_image(shared / "images" / "tubingen.jpg")
    picture = jax.image.resize(photograph, (384, 512, 3), "linear", antialias=False)
    gray = jnp.broadcast_to(jnp.asarray(MEAN), picture.shape)
    maps = [matched(image, ["relu4_2"])["relu4_2"] for image in (picture, gray)]
    weight = preset("neural-style").content_weight
    np.testing.assert_allclose(weight * jnp.mean((maps[0] - maps[1]) ** 2), 2091178.6, rtol=0.02)
