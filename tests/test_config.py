import dataclasses
import math

import pytest

from nst_jax.config import PRESETS, Config, preset
from nst_jax.errors import InputError


def test_pytorch_preset_is_the_program_that_is_reimplemented():
    assert preset("pytorch") == Config(
        size=400,
        steps=2000,
        learning_rate=0.003,
        beta1=0.5,
        beta2=0.999,
        content_weight=1.0,
        style_weight=100.0,
        content_layers=("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
        style_layers=("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
        pooling="average",
        pool_scale=1.0,
        padding="zeros",
        seed=0,
    )


def test_settings_are_frozen_and_hashable():
    assert len({Config(), Config(), Config(steps=3)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().steps = 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", 0, "size is 0; it must be at least 1"),
        ("steps", -1, "steps is -1; it must be at least 1"),
        ("steps", 1.5, "steps is 1.5; it must be a whole number"),
        ("learning_rate", 0.0, "learning-rate is 0.0; it must be above 0"),
        ("learning_rate", math.nan, "learning-rate is nan; it must be above 0"),
        ("style_weight", math.inf, "style-weight is inf; it must be at least 0"),
        ("content_weight", -1.0, "content-weight is -1.0; it must be at least 0"),
        ("beta2", 1.0, "beta2 is 1.0; it must be at least 0 and below 1"),
        ("pooling", "mean", "pooling is 'mean'; allowed are average, max, l2"),
        ("seed", -1, "seed is -1; it must be at least 0 and below 4294967296"),
    ],
)
def test_values_out_of_range(unchecked, name, value, message):
    with pytest.raises(InputError) as error:
        Config(**{name: value})
    assert str(error.value) == message


def test_unknown_preset():
    with pytest.raises(InputError, match="preset is 'paper'; allowed are pytorch"):
        preset("paper")


def test_every_setting_says_what_it_is():
    for setting in dataclasses.fields(Config):
        assert setting.metadata["help"]
    assert "pytorch" in PRESETS
