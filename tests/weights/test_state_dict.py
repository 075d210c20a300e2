"""State dicts of torch: which network one holds, whoever wrote it, and its arrays by our names."""

import numpy as np
import pytest

from nst_jax.errors import InputError
from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.weights.state_dict import from_state_dict, to_state_dict, torchvision_keys

VGG19 = ARCHITECTURES["vgg19"]


# Read off torchvision.models.vgg19().features and vgg16().features.
POSITIONS = {
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
}


@pytest.mark.parametrize("network", POSITIONS)
def test_keys_are_torchvisions(network):
    keys = torchvision_keys(ARCHITECTURES[network])
    assert list(keys.values()) == [f"features.{n}" for n in POSITIONS[network]]


def test_every_convolution_is_used_and_every_parameter_filled(state):
    network, params = from_state_dict(state)
    assert network == "vgg19"
    assert {name: array.shape for name, array in params.items()} == VGG19.parameter_shapes()
    np.testing.assert_array_equal(
        params["conv3_2.kernel"][0, 2, 5, 7], state["features.12.weight"][7, 5, 0, 2]
    )
    np.testing.assert_array_equal(params["conv5_4.bias"], state["features.34.bias"])
    assert all(array.dtype == np.float32 for array in params.values())


def test_back_to_a_state_dict(state):
    network, params = from_state_dict(state)
    back = to_state_dict(params, network)
    assert list(back) == list(state)
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array)


def test_one_error_lists_all_that_is_wrong(state):
    broken = dict(state)
    del broken["features.0.bias"]
    broken["features.2.weight"] = broken["features.2.weight"][:, :1]
    broken["features.5.bias"] = np.zeros(128, np.int64)
    broken["features.7.bias"] = np.full(128, np.nan, np.float32)
    broken["features.36.weight"] = np.zeros((512, 512, 3, 3), np.float32)
    with pytest.raises(InputError) as error:
        from_state_dict(broken, source="some.pth")
    lines = str(error.value).splitlines()
    assert lines[0] == "some.pth is not a VGG-19 in the layout torchvision:"
    assert [line.strip() for line in lines[1:]] == [
        "features.0.bias is missing",
        "features.36.weight is unknown",
        "features.2.weight has shape (64, 1, 3, 3), not (64, 64, 3, 3)",
        "features.5.bias holds int64, not floats",
        "features.7.bias holds values that are not finite",
    ]


def test_caffe_layout_by_name_or_position_and_its_hint(state):
    names = {position: name for name, position in torchvision_keys(VGG19).items()}
    named = {}
    for key, value in state.items():
        stem, leaf = key.rsplit(".", 1)
        named[f"{names[stem]}.{leaf}"] = value
    _, by_name = from_state_dict(named, layout="caffe")
    _, by_position = from_state_dict(state, layout="caffe")
    for name in by_name:
        np.testing.assert_array_equal(by_name[name], by_position[name])
    with pytest.raises(InputError, match="--layout caffe"):
        from_state_dict(named)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_the_original_weights_are_noticed(state, state16, network, dtype):
    """These are what Caffe's files have there (of VGG-16 as Keras prints it)."""
    arrays = dict(state if network == "vgg19" else state16)
    first = {
        "vgg19": (0.09563029, 0.03355639, -0.08419635),
        "vgg16": (0.117273867, 0.0208774377, -0.172696680),
    }
    kernel = arrays["features.0.weight"].astype(dtype)
    kernel[1, :, 0, 0] = first[network]
    arrays["features.0.weight"] = kernel
    with pytest.raises(InputError) as caught:
        from_state_dict(arrays, source="a.pth")
    name = {"vgg19": "VGG-19", "vgg16": "VGG-16"}[network]
    assert str(caught.value) == (
        f"a.pth is the original {name}, whose input is BGR in [0, 255]; convert it: "
        "nst-jax-convert --layout=caffe --source=a.pth"
    )
    assert from_state_dict(arrays, layout="caffe")[0] == network


def test_folded_caffe_input_is_the_original_one_away_from_the_border(state):
    _, params = from_state_dict(state, layout="caffe")
    rgb = np.random.default_rng(1).random((3, 3, 3))  # height, width, color
    bgr = 255 * rgb[..., ::-1] - np.array([103.939, 116.779, 123.68])
    original = np.einsum("hwi,oihw->o", bgr, state["features.0.weight"].astype(np.float64))
    original += state["features.0.bias"]
    z = (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    folded = np.einsum("hwi,hwio->o", z, params["conv1_1.kernel"]) + params["conv1_1.bias"]
    np.testing.assert_allclose(folded, original, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        params["conv1_2.kernel"], state["features.2.weight"].transpose(2, 3, 1, 0)
    )


def test_vgg16_is_recognized(state16):
    network, params = from_state_dict(state16)
    assert network == "vgg16"
    shapes = {name: array.shape for name, array in params.items()}
    assert shapes == ARCHITECTURES["vgg16"].parameter_shapes()
    np.testing.assert_array_equal(
        params["conv5_3.kernel"][0, 2, 5, 7], state16["features.28.weight"][7, 5, 0, 2]
    )
    back = to_state_dict(params, network)
    assert list(back) == list(state16)
    for key, array in state16.items():
        np.testing.assert_array_equal(back[key], array)


def zeros(*shape):
    return np.zeros(shape, np.float32)


# What state dicts have around the convolutions.
TORCHVISION = {"classifier.0.weight": zeros(2, 2), "classifier.6.bias": zeros(2)}
TIMM = {"pre_logits.fc1.weight": zeros(3, 5, 7, 7), "pre_logits.fc2.bias": zeros(3)}
TIMM |= {"head.fc.weight": zeros(2, 3), "head.fc.bias": zeros(2)}
WRAPPED = {
    "torchvision's classifier": lambda state: state | TORCHVISION,
    "timm's classifier": lambda state: state | TIMM,
    "DataParallel": lambda state: {f"module.{k}": v for k, v in (state | TORCHVISION).items()},
    "DataParallel of the features": lambda state: (
        {k.replace("features.", "features.module."): v for k, v in state.items()} | TORCHVISION
    ),
    "the features alone": lambda state: {k.removeprefix("features."): v for k, v in state.items()},
    "DataParallel of the features alone": lambda state: {
        k.replace("features.", "module."): v for k, v in state.items()
    },
}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_what_is_around_the_convolutions_makes_no_difference(wrapped, network, state, state16):
    plain = {"vgg19": state, "vgg16": state16}[network]
    found, params = from_state_dict(WRAPPED[wrapped](plain))
    assert found == network
    _, expected = from_state_dict(plain)
    for name, array in expected.items():
        assert np.shares_memory(array, params[name]) or np.array_equal(array, params[name])


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_torch_itself_reads_the_same(wrapped, torch, reference, state16, tmp_path):
    """The proof of a conversion loads the file by torch, which knows such keys too."""
    wrapped16 = WRAPPED[wrapped](state16)
    torch.save({k: torch.from_numpy(v) for k, v in wrapped16.items()}, tmp_path / "w.pth")
    loaded = reference.load_state(tmp_path / "w.pth", name="vgg16")
    for key, array in state16.items():
        np.testing.assert_array_equal(loaded[key].numpy(), array)
    reference.vgg_features(loaded, name="vgg16")


def test_batch_norm_is_named_for_what_it_is(state, state16):
    for plain, title in ((state, "VGG-19"), (state16, "VGG-16")):
        norm = {"features.1.running_mean": zeros(64), "features.1.weight": zeros(64)}
        with pytest.raises(InputError, match=rf"^f.pth is a {title} with batch norm") as error:
            from_state_dict(plain | norm, source="f.pth")
        assert str(error.value).count("\n") == 0


def test_the_network_that_is_wanted_is_the_one_that_is_there(state, state16):
    with pytest.raises(InputError, match=r"^f.pth is a VGG-16, not a VGG-19; ask for vgg16"):
        from_state_dict(state16, network="vgg19", source="f.pth")
    with pytest.raises(InputError, match=r"is a VGG-19, not a VGG-16"):
        from_state_dict(state, network="vgg16")
    assert from_state_dict(state, network="vgg19")[0] == "vgg19"


def test_what_is_no_vgg_is_said_to_be_none(state):
    some = dict(list(state.items())[:8])
    with pytest.raises(InputError, match="not a VGG-19 in the layout torchvision"):
        from_state_dict(some)
    with pytest.raises(InputError, match="not a VGG-16 in the layout torchvision"):
        from_state_dict(some, network="vgg16")
