import dataclasses

import pytest

from nst_jax.config import Config, layers
from nst_jax.errors import InputError
from nst_jax.presets import PRESETS, preset


def test_pytorch_is_the_program_that_is_reimplemented():
    relus = layers("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    expected = {
        "size": 400,
        "min_size": 0,
        "steps": 2000,
        "optimizer": "adam",
        "learning_rate": 0.003,
        "beta1": 0.5,
        "beta2": 0.999,
        "space": "normalized",
        "clamp": False,
        "picture": "last",
        "content_loss": "mean",
        "content_weight": 1.0,
        "content_layers": relus,
        "style_loss": "pytorch",
        "style_weight": 100.0,
        "style_layers": relus,
        "style_fit": "stretch",
        "style_scale": 1.0,
        "tv_weight": 0.0,
        "range_weight": 0.0,
        "start": "content",
        "start_blend": 1.0,
        "pooling": "average",
        "pool_scale": 1.0,
        "padding": "zeros",
        "precision": "auto",
        "conv": "auto",
    }
    found = dataclasses.asdict(preset("pytorch"))
    assert {name: found[name] for name in expected} == expected


def test_default_is_the_settings_defaults():
    assert preset("default") == Config()


def test_graphic_is_the_default_with_another_loss():
    default, graphic = (dataclasses.asdict(preset(name)) for name in ("default", "graphic"))
    changed = {name: value for name, value in graphic.items() if value != default[name]}
    weights = {"style_weight": 4.0, "content_weight": 6.0}
    assert changed == {"style_loss": "relative-wasserstein", **weights}


def test_unknown_preset():
    names = "default, graphic, pytorch, gatys-paper, gatys-code, neural-style, pytorch-tutorial, "
    with pytest.raises(InputError, match=f"preset is 'paper'; allowed are {names}crowson"):
        preset("paper")


def test_peers_layers_are_weighted_as_theirs():
    weights = lambda name: [layer.weight for layer in PRESETS[name].style_layers]  # noqa: E731
    assert sum(weights("crowson")) == pytest.approx(1)
    assert weights("crowson")[0] == 256 * weights("crowson")[-1]
    assert weights("gatys-code")[:2] == [1000 / 64**2, 1000 / 128**2]
    assert sum(weights("gatys-paper")) == pytest.approx(1)
