import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax.errors import InputError
from nst_jax.network.architecture import ARCHITECTURES, STRIDE


@pytest.mark.parametrize(
    ("name", "channels", "last"),
    [
        ("vgg19", [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8, "relu5_4"),
        ("vgg16", [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6, "relu5_3"),
    ],
)
def test_architectures_are_configurations_e_and_d(name, channels, last):
    # Simonyan and Zisserman, arXiv 1409.1556, table 1, columns E and D.
    table = ARCHITECTURES[name]
    assert [conv.outputs for conv in table.convs] == channels
    assert table.convs[0].inputs == 3
    assert all(a.outputs == b.inputs for a, b in itertools.pairwise(table.convs))
    assert len(table.taps) == 2 * len(channels)
    assert table.taps[:4] == ("conv1_1", "relu1_1", "conv1_2", "relu1_2")
    assert table.taps[-1] == last
    assert table.stride(last) == STRIDE == 16
    assert [conv.name for conv in table.convs if conv.pooled] == [f"conv{n}_1" for n in range(2, 6)]


def test_torchvisions_layers_are_the_same(reference):
    """Position by position, with the poolings between blocks."""
    models = reference.import_torchvision().models.vgg
    for name, letter in (("vgg19", "E"), ("vgg16", "D")):
        plan = [
            step
            for conv in ARCHITECTURES[name].convs
            for step in (["M", conv.outputs] if conv.pooled else [conv.outputs])
        ]
        assert [*plan, "M"] == models.cfgs[letter]


@pytest.mark.parametrize("name", ARCHITECTURES)
@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_the_named_smallest_size_is_the_smallest(name, data, height, width):
    table = ARCHITECTURES[name]
    tap = data.draw(st.sampled_from(table.taps))
    sides = [height, width]
    for _ in range(int(tap[4]) - 1):
        sides = [side // 2 for side in sides]
    assert table.positions(tap, height, width) == sides[0] * sides[1]
    if min(sides) >= 1:
        table.check_size(height, width, [tap])
    else:
        least = table.minimum_size([tap])
        with pytest.raises(InputError, match=rf"{width}x{height} px.*{tap}.*at least {least} px"):
            table.check_size(height, width, [tap])


def test_what_a_tap_takes():
    vgg19, vgg16 = ARCHITECTURES["vgg19"], ARCHITECTURES["vgg16"]
    assert len(vgg19.convs_to("relu5_1")) == 13
    assert len(vgg16.convs_to("relu5_1")) == 11
    assert (vgg19.outputs("relu3_1"), vgg16.outputs("conv4_3")) == (256, 512)
    # Up to conv3_3 they have the same layers.
    assert vgg19.parameter_shapes("conv3_3") == vgg16.parameter_shapes("conv3_3")


@pytest.mark.parametrize(
    ("name", "tap", "said"),
    [
        ("vgg16", "relu3_4", r"unknown VGG-16 layer: 'relu3_4'; .*conv5_3 .*3_1-3_3, 4_1-4_3, 5_1"),
        ("vgg19", "relu3_5", r"unknown VGG-19 layer: 'relu3_5'; .*conv5_4 .*3_1-3_4, 4_1-4_4, 5_1"),
    ],
)
def test_a_layer_that_a_network_does_not_have(name, tap, said):
    with pytest.raises(InputError, match=said):
        ARCHITECTURES[name].check_taps(["relu1_1", tap])
