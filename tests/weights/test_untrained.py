import jax
import numpy as np
import pytest

from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.network.vgg import build_vgg16, build_vgg19
from nst_jax.weights.untrained import _natural_noise, untrained_params

VGG19 = ARCHITECTURES["vgg19"]


@pytest.fixture(scope="module")
def params():
    return untrained_params(7, "vgg19")


def test_same_seed_same_network_other_seed_another(params):
    again, other = (untrained_params(seed, "vgg19") for seed in (7, 8))
    assert {name: array.shape for name, array in params.items()} == VGG19.parameter_shapes()
    for name, array in params.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])


def test_every_channel_is_standardized_on_the_calibration_image(params):
    image = _natural_noise(np.random.default_rng(7))
    maps = jax.jit(lambda network, x: network(x))(build_vgg19(params), image)
    for tap in VGG19.taps[::2]:  # before the ReLU
        # Rounding alone: the same numbers take another way through 16 layers.
        np.testing.assert_allclose(maps[tap].mean(axis=(0, 1)), 0, atol=2e-3, err_msg=tap)
        np.testing.assert_allclose(maps[tap].std(axis=(0, 1)), 1, atol=2e-3, err_msg=tap)


def test_activations_are_well_scaled_down_to_the_deepest_layer(params):
    # On an image that it was not calibrated on.
    y, x = np.mgrid[:96, :128] / 16
    image = np.stack([0.5 + 0.4 * np.sin(x * k + y) for k in (1, 2, 3)], axis=-1)
    maps = jax.jit(lambda network, x: network(x))(build_vgg19(params), image.astype(np.float32))
    for tap in VGG19.taps:
        size = float(np.sqrt(np.mean(np.square(maps[tap]))))
        assert 0.1 < size < 10, tap
    # Channels of a deep layer are no copies of each other.
    deep = np.asarray(maps["relu4_1"]).reshape(-1, 512)
    correlations = np.corrcoef(deep[:, deep.std(axis=0) > 0].T)
    assert np.median(np.abs(correlations)) < 0.5


def test_vgg16_too(params):
    params16 = untrained_params(7, "vgg16")
    shapes = {name: array.shape for name, array in params16.items()}
    assert shapes == ARCHITECTURES["vgg16"].parameter_shapes()
    np.testing.assert_array_equal(params16["conv3_3.kernel"], params["conv3_3.kernel"])
    image = _natural_noise(np.random.default_rng(7))
    maps = jax.jit(lambda network, x: network(x))(build_vgg16(params16), image)
    np.testing.assert_allclose(maps["conv5_3"].std(axis=(0, 1)), 1, atol=2e-3)
