"""Flags and the options that they become."""

import dataclasses

import pytest

from nst_jax import PRESETS, Config
from nst_jax.cli.options import JobOptions, parse_options
from nst_jax.config import format_setting

IMAGES = ["--content=a", "--style=b"]


def test_without_flags_the_options_have_their_defaults():
    options = parse_options(IMAGES)
    assert options == JobOptions(content=["a"], style=["b"])
    assert options.config() == Config()
    assert not options.biggest
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.quiet = True


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_written_as_flags_is_the_preset(name):
    """As --list-presets and --help print the settings."""
    flags = []
    for setting in dataclasses.fields(Config):
        value, flag = getattr(PRESETS[name], setting.name), setting.name.replace("_", "-")
        if setting.metadata["flag"]:
            switch = f"--{flag}" if value else f"--no-{flag}"
            flags.append(switch if setting.type is bool else f"--{flag}={format_setting(value)}")
    for key, value in parse_options([*IMAGES, *flags]).settings.items():
        # Six digits are printed.
        assert format_setting(value) == format_setting(getattr(PRESETS[name], key)), key
