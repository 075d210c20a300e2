import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nst_jax import weights
from nst_jax.architecture import parameter_shapes
from nst_jax.download import DownloadError, sha256_of
from nst_jax.errors import InputError
from server import serving


@pytest.fixture(scope="module")
def state():
    """A VGG-19 state dict in torchvision's layout, numbers that can be told apart."""
    rng = np.random.default_rng(0)
    keys, result = weights.torchvision_keys(), {}
    for name, shape in parameter_shapes().items():
        conv, leaf = name.split(".")
        if leaf == "kernel":
            shape = (shape[3], shape[2], 3, 3)
        key = f"{keys[conv]}.{'weight' if leaf == 'kernel' else 'bias'}"
        result[key] = rng.normal(0, 0.05, shape).astype(np.float32)
    return result


@pytest.fixture(scope="module")
def state_file(state, tmp_path_factory):
    """The same in a file that needs no torch to be written."""
    path = tmp_path_factory.mktemp("state") / "vgg19.safetensors"
    safetensors.numpy.save_file(state, path)
    return path


@pytest.fixture(scope="module")
def converted(state_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "vgg19.safetensors"
    weights.save_weights(path, *weights.convert(state_file))
    return path


def test_keys_are_torchvisions():
    # Read off torchvision.models.vgg19().features.
    expected = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    assert list(weights.torchvision_keys().values()) == [f"features.{n}" for n in expected]


def test_every_convolution_is_used_and_every_parameter_filled(state):
    classifier = {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    params = weights.from_state_dict({**state, **classifier})
    assert {name: array.shape for name, array in params.items()} == parameter_shapes()
    np.testing.assert_array_equal(
        params["conv3_2.kernel"][0, 2, 5, 7], state["features.12.weight"][7, 5, 0, 2]
    )
    np.testing.assert_array_equal(params["conv5_4.bias"], state["features.34.bias"])
    assert all(array.dtype == np.float32 for array in params.values())


def test_back_to_a_state_dict(state):
    back = weights.to_state_dict(weights.from_state_dict(state))
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
        weights.from_state_dict(broken, source="some.pth")
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
    names = {position: name for name, position in weights.torchvision_keys().items()}
    named = {}
    for key, value in state.items():
        stem, leaf = key.rsplit(".", 1)
        named[f"{names[stem]}.{leaf}"] = value
    by_name = weights.from_state_dict(named, layout="caffe")
    by_position = weights.from_state_dict(state, layout="caffe")
    for name in by_name:
        np.testing.assert_array_equal(by_name[name], by_position[name])
    with pytest.raises(InputError, match="--layout caffe"):
        weights.from_state_dict(named)


def test_folded_caffe_input_is_the_original_one_away_from_the_border(state):
    params = weights.from_state_dict(state, layout="caffe")
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


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)],
)
def test_written_and_read_again_in_every_type(state, state_file, tmp_path, dtype, kind):
    params, metadata = weights.convert(state_file, dtype=dtype)
    weights.save_weights(tmp_path / "w.safetensors", params, metadata)
    loaded = weights.load_weights(tmp_path / "w.safetensors")
    assert loaded.trained
    assert "vgg19.safetensors" in loaded.origin
    for name, array in loaded.params.items():
        assert array.dtype == kind
        np.testing.assert_array_equal(array, params[name])
    np.testing.assert_array_equal(
        loaded.params["conv1_1.kernel"],
        state["features.0.weight"].transpose(2, 3, 1, 0).astype(kind),
    )
    network = weights.load_vgg19(str(tmp_path / "w.safetensors"))
    assert network.convs[0].kernel[...].dtype == jnp.float32


def test_arrays_may_lie_in_memory_in_any_order(state_file, tmp_path):
    params, metadata = weights.convert(state_file)
    turned = {name: np.asfortranarray(array) for name, array in params.items()}
    weights.save_weights(tmp_path / "w.safetensors", turned, metadata)
    loaded = weights.load_weights(tmp_path / "w.safetensors").params
    np.testing.assert_array_equal(loaded["conv2_1.kernel"], params["conv2_1.kernel"])


def test_metadata_says_where_it_comes_from(converted, state_file):
    with safetensors.safe_open(converted, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["source"] == "vgg19.safetensors"
    assert metadata["source_sha256"] == sha256_of(state_file)
    assert metadata["layout"] == "torchvision"
    assert set(json.loads(metadata["versions"])) == {"jax", "flax", "safetensors"}


def test_values_that_do_not_fit_are_refused(state, tmp_path):
    safetensors.numpy.save_file(
        {**state, "features.0.bias": np.full(64, 1e6, np.float32)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(InputError, match=r"beyond float16's range in conv1_1.bias"):
        weights.convert(tmp_path / "w.safetensors", dtype="float16")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_change_of_a_converted_file_is_noticed(converted, tmp_path, data):
    content = bytearray(converted.read_bytes())
    header = int.from_bytes(content[:8], "little")
    place = data.draw(st.one_of(st.integers(8, 8 + header), st.integers(0, len(content) - 1)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "altered.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"altered\.safetensors"):
        weights.load_weights(path)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_named_as_such(converted, tmp_path, fraction):
    content = converted.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match=r"short\.safetensors is truncated or altered"):
        weights.load_weights(path)


def test_no_more_is_read_and_checked_than_a_tap_takes(converted, tmp_path):
    whole, path = weights.load_weights(converted), tmp_path / "w.safetensors"
    content, last = converted.read_bytes(), whole.params["conv5_1.kernel"].tobytes()
    unused = content.replace(whole.params["conv5_2.kernel"].tobytes()[:40], bytes(40))
    assert unused != content
    path.write_bytes(unused)
    found = weights.find_weights(str(path), deepest="relu5_1")
    assert list(found.params) == list(parameter_shapes("relu5_1"))
    assert len(found.params) == 2 * 13
    for name, array in found.params.items():
        np.testing.assert_array_equal(array, whole.params[name])
    with pytest.raises(InputError, match="is altered"):
        weights.find_weights(str(path))
    path.write_bytes(content.replace(last[:40], bytes(40)))
    with pytest.raises(InputError, match="is altered"):
        weights.find_weights(str(path), deepest="conv5_1")
    # Truncation shows whatever is read.
    path.write_bytes(content[:-4])
    with pytest.raises(InputError, match="is truncated"):
        weights.find_weights(str(path), deepest="relu1_1")


def test_a_file_of_another_version_says_so(state_file, tmp_path):
    params, metadata = weights.convert(state_file)
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, params, {**metadata, "format": "nst_jax.vgg19.1"})
    with pytest.raises(InputError, match="another version of this program; delete it and convert"):
        weights.find_weights(str(path))


def test_types_that_are_no_floats(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"features.0.weight": np.zeros(3, np.uint8)}, path)
    with pytest.raises(InputError, match="numbers of type 'U8'"):
        weights.convert(path)


def test_other_safetensors_files_are_no_converted_weights(state_file):
    with pytest.raises(InputError, match="holds no converted VGG-19; convert it first"):
        weights.load_weights(state_file)


class TestFind:
    """`find_weights`: what each value of --weights means."""

    def test_pretrained_fails_without_network(self):
        with pytest.raises(DownloadError, match=r"cannot download http://127.0.0.1:9/vgg19"):
            weights.find_weights("pretrained")
        with pytest.raises(DownloadError):
            weights.load_vgg19()  # the library is strict by default

    def test_auto_goes_on_untrained_and_says_why(self, monkeypatch):
        monkeypatch.setattr(weights, "untrained_params", lambda seed: {"seed": np.array(seed)})
        found = weights.find_weights("auto", seed=5)
        assert not found.trained
        assert found.params == {"seed": 5}
        assert "cannot download" in found.reason
        assert found.origin == "untrained, seed 5"

    def test_untrained_with_and_without_seed(self, monkeypatch):
        monkeypatch.setattr(weights, "untrained_params", lambda seed: {"seed": np.array(seed)})
        assert weights.find_weights("untrained", seed=3).params == {"seed": 3}
        assert weights.find_weights("untrained:9", seed=3).params == {"seed": 9}
        for bad in ("untrained:", "untrained:x", "untrained:-1"):
            with pytest.raises(InputError, match="whole number"):
                weights.find_weights(bad)

    def test_the_cache_is_used(self, offline, converted):
        offline.mkdir(parents=True)
        shutil.copy(converted, offline / "vgg19.safetensors")
        for spec in ("auto", "pretrained"):
            assert weights.find_weights(spec).trained

    def test_a_damaged_cache_is_named_not_replaced(self, offline, converted):
        offline.mkdir(parents=True)
        (offline / "vgg19.safetensors").write_bytes(converted.read_bytes()[:-1])
        for spec in ("auto", "pretrained"):
            with pytest.raises(InputError, match=r"is truncated or altered.*convert again"):
                weights.find_weights(spec)

    def test_download_convert_cache(self, offline, state_file, monkeypatch):
        name = f"vgg19-{sha256_of(state_file)[:8]}.safetensors"
        with serving(state_file.read_bytes()) as server:
            monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"{server.url}/{name}")
            found = weights.find_weights("auto")
        assert found.trained
        assert name in found.origin
        assert (offline / "vgg19.safetensors").exists()
        assert not (offline / "downloads" / name).exists()
        assert weights.find_weights("pretrained").origin == found.origin  # no server any more

    def test_torchvisions_own_download_is_used(self, state_file, monkeypatch, tmp_path):
        name = f"vgg19-{sha256_of(state_file)[:8]}.safetensors"
        checkpoints = tmp_path / "hub" / "checkpoints"
        checkpoints.mkdir(parents=True)
        shutil.copy(state_file, checkpoints / name)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"http://127.0.0.1:9/{name}")
        assert weights.find_weights("pretrained").trained
        assert (checkpoints / name).exists()

    def test_a_file_converted_or_not(self, converted, state_file):
        first = weights.find_weights(str(converted)).params
        second = weights.find_weights(str(state_file)).params
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])

    def test_no_such_file(self):
        with pytest.raises(InputError, match=r"allowed are auto, pretrained, untrained\[:SEED\]"):
            weights.find_weights("pretraind")
