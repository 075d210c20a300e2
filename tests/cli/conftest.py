"""Shared fixtures of the command line's tests."""

import pytest

from nst_jax import save_image
from nst_jax.cli import batch
from nst_jax.network.vgg import VGG19
from nst_jax.weights import sources
from nst_jax.weights.converted_file import Weights


@pytest.fixture
def two_scales(tmp_path, monkeypatch, photographs, untrained):
    """Flags of a fast and quiet job in a folder of its own: 3 steps at 17x14 px, 4 at 24x20 px."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "untrained_params", lambda *_: untrained)
    for name, image in zip(("c.png", "s.png"), photographs, strict=True):
        save_image(name, image)
    flags = ["--content=c.png", "--style=s.png", "--size=24", "--min-size=17"]
    flags += ["--first-steps=3", "--steps=4", "--style-layers=relu1_1,relu2_1"]
    return [*flags, "--content-layers=relu2_1", "--weights=untrained", "--quiet"]


@pytest.fixture
def without_network(monkeypatch):
    """Many pictures find weights and a network at once; for tests that fake `stylize`."""
    weights = Weights({}, "vgg19", trained=True, origin="nowhere")
    monkeypatch.setattr(batch, "run_weights", lambda _, config: (weights, config))
    monkeypatch.setattr(batch, "network_of", lambda *_: object.__new__(VGG19))
