from types import SimpleNamespace

import jax
import pytest

from nst_jax.config import Config
from nst_jax.devices import backend
from nst_jax.errors import InputError


def device(platform, kind, **attributes):
    return SimpleNamespace(platform=platform, device_kind=kind, **attributes)


@pytest.mark.parametrize(
    ("found", "precision", "name"),
    [
        (device("cpu", "cpu"), "float32", "cpu"),
        (device("gpu", "Tesla T4", compute_capability="7.5"), "float32", "gpu (Tesla T4)"),
        (device("gpu", "NVIDIA A100", compute_capability="8.0"), "bfloat16", "gpu (NVIDIA A100)"),
        (device("gpu", "NVIDIA B200", compute_capability="10.0"), "bfloat16", "gpu (NVIDIA B200)"),
        (device("gpu", "MI300X", compute_capability="gfx942"), "bfloat16", "gpu (MI300X)"),
        (device("gpu", "unknown"), "bfloat16", "gpu (unknown)"),
        (device("tpu", "TPU v5e"), "bfloat16", "tpu (TPU v5e)"),
    ],
)
def test_what_a_device_says_of_itself(monkeypatch, found, precision, name):
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: [found])
    assert backend.resolve(Config()).precision == precision
    assert backend.device_name() == name


def test_the_device_that_jax_was_told_to_use(monkeypatch):
    asked = []
    chosen = jax.local_devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda backend: asked.append(backend) or ["first"])
    with jax.default_device("cpu"):
        assert backend.default_device() == "first"
    assert asked == ["cpu"]
    with jax.default_device(chosen):
        assert backend.default_device() is chosen


def test_no_device(monkeypatch):
    def devices(backend=None):
        raise RuntimeError("Unable to initialize backend 'cuda'\nand more")

    monkeypatch.setattr(jax, "local_devices", devices)
    with pytest.raises(InputError, match=r"^JAX finds no device: Unable .* 'cuda'$"):
        backend.resolve(Config())


def test_no_device_of_the_platforms_that_are_asked_for(monkeypatch):
    """JAX itself fails with an assertion without words."""

    def devices(backend=None):
        raise AssertionError

    monkeypatch.setattr(jax, "local_devices", devices)
    with pytest.raises(InputError, match="JAX finds no device: there is none of JAX_PLATFORMS="):
        backend.default_device()
