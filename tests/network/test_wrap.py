"""A picture whose ends meet has the maps of a plane that it tiles."""

import jax
import numpy as np
import pytest

from nst_jax.errors import InputError
from nst_jax.network.vgg import build_vgg19, recast

TAPS = ("conv1_1", "relu1_2", "relu2_1", "relu3_4", "relu4_1")  # the last one sees 30 px around


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params, pooling="max", padding="replicate", deepest=TAPS[-1])


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("wrap", ["x", "both"])
def test_maps_are_those_in_the_middle_of_a_tiling(network, wrap, padding):
    picture = np.random.default_rng(0).random((32, 48, 3), np.float32)
    rows = 3 if wrap == "both" else 1
    compute = jax.jit(lambda network, image: network(image, TAPS))
    found = compute(recast(network, wrap=wrap, padding=padding), picture)
    plane = compute(recast(network, padding=padding), np.tile(picture, (rows, 3, 1)))
    for name, own in found.items():
        height, width, _ = own.shape
        middle = plane[name][(rows // 2) * height :, width:][:height, :width]
        error = np.linalg.norm(own - middle) / np.linalg.norm(middle)
        assert error < 1e-6, name  # float32: another size may add in another order


@pytest.mark.parametrize(("wrap", "axes"), [("x", (1,)), ("both", (0, 1))])
def test_ends_that_are_repeated_leave_no_border(network, wrap, axes):
    halves = np.full((32, 48, 3), (0.2, 0.5, 0.7), np.float32)
    halves[:, 24:] = 1  # the left end sees nothing of it
    network = recast(network, wrap=wrap, ends="repeat")
    for name, whole in jax.jit(lambda network: network(halves, TAPS[:3]))(network).items():
        found = whole[:, : whole.shape[1] // 4]
        spread = np.ptp(found, axis=axes)
        assert spread.max() < 1e-5 * np.abs(found).max(), name
    assert (np.ptp(found, axis=0).max() > 0.1) == (wrap == "x")  # zeros above and below


def test_an_unknown_wrap_is_refused(random_params, unchecked):
    with pytest.raises(InputError, match="wrap is 'y'; allowed are"):
        build_vgg19(random_params, wrap="y")
