"""Flags and the options that they become."""

import dataclasses
import os
import re
import sys

import numpy as np
import pytest

import commands
from nst_jax import PRESETS, Config, save_image
from nst_jax.cli import main as cli
from nst_jax.cli.flags import exit_code
from nst_jax.cli.options import JobOptions, parse_options
from nst_jax.config import format_setting
from nst_jax.geometry import SIZES

IMAGES = ["--content=a", "--style=b"]


def test_without_flags_the_options_have_their_defaults():
    options = parse_options(IMAGES)
    assert options == JobOptions(content=["a"], style=["b"])
    assert options.asked() == Config()
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


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--size=1.5", f"--size is '1.5'; it must be {SIZES}"),
        ("--megapixels=0", "--megapixels is '0'; it must be a number above 0, as 12 or 0.5"),
        ("--learning-rate=0", "--learning-rate is 0.0; it must be above 0"),
        ("--pooling=mean", "--pooling is 'mean'; allowed are average, max, l2"),
        ("--style-blend=one", "--style-blend is 'one'; it must be numbers, as 2,1"),
        (
            "--style-layers=relu1_1:much",
            "--style-layers is 'relu1_1:much'; it must be layers with weights, as relu1_1:256,"
            "relu2_1:64",
        ),
        ("--save-every=0", "argument --save-every: '0' is not a whole number of at least 1"),
    ],
)
def test_a_mistake_names_its_flag_once(flag, said, capsys):
    with pytest.raises(SystemExit):
        parse_options([*IMAGES, flag])
    assert capsys.readouterr().err == f"nst-jax: error: {said} (--help=all lists the flags)\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--network=vgg16", "--style-layers=relu3_4"],
            "--style-layers: unknown VGG-16 layer: 'relu3_4'; allowed",
        ),
        (
            ["--style-size=9", "--style-fit=stretch"],
            "--style-size is for the style fit longest or shortest, but the style fit is stretch;",
        ),
        (["--preset=paper"], "--preset is 'paper'; allowed are default,"),
    ],
)
def test_a_mistake_in_the_settings_together_names_their_flag(flags, said, capsys):
    assert exit_code("nst-jax", lambda: parse_options([*IMAGES, *flags]).asked()) == 2
    assert capsys.readouterr().err.startswith(f"nst-jax: error: {said}")


@pytest.mark.parametrize(
    ("flag", "size"),
    [
        ("--size=64", 64),
        ("--size=1920X1080", "1920x1080"),
        ("--size=original", "original"),
        ("--size=12.50mp", "12.5MP"),
        ("--megapixels=12.50", "12.5MP"),
        ("--megapixels=.5", "0.5MP"),
    ],
)
def test_a_size_as_people_say_it(flag, size, capsys):
    assert parse_options([*IMAGES, flag]).asked() == Config(size=size)
    with pytest.raises(SystemExit):
        parse_options([*IMAGES, flag, "--size=9", "--megapixels=2"])
    assert re.search(r"--(size|megapixels): not allowed with argument --", capsys.readouterr().err)


def test_a_setting_is_read_from_its_text_as_from_python(unchecked):
    text = {"style_layers": "relu1_1:64,relu2_1", "style_blend": "2,1", "content_layers": "none"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in text.items()]
    assert parse_options([*IMAGES, *flags]).asked() == Config(**text)


def helped(capsys, *flags):
    with pytest.raises(SystemExit) as exit:
        parse_options(flags)
    assert exit.value.code == 0
    return capsys.readouterr().out


def test_help_has_what_everyone_needs_and_all_has_everything(capsys):
    short, everything = helped(capsys, "--help"), helped(capsys, "--help=all")
    assert helped(capsys, "-h") == short
    shown = re.findall(r"^  (--[\w-]+)", short, re.M)
    assert len(shown) == 10
    assert {"--content", "--style", "--size", "--preset"} < set(shown)
    assert len(short.splitlines()) < 50
    every = set(re.findall(r"--[\w-]+", everything))
    for field in (*dataclasses.fields(Config), *dataclasses.fields(JobOptions)):
        if field.metadata.get("flag"):
            assert f"--{field.name.replace('_', '-')}" in every
    assert re.findall(r"^settings: (.*):$", everything, re.M) == [
        *("size and scales", "optimization", "losses", "colors", "first picture"),
        "network and numbers",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_shell_completes_flags(capsys, shell):
    script = helped(capsys, f"--completion={shell}")
    for word in ("style-weight", "gatys-code", "winograd", "tcsh"):  # flags and their values
        assert word in script


def test_without_shtab_completion_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as exit:
        parse_options(["--completion=bash"])
    assert exit.value.code == 2
    assert "pip install '.[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--quality=0"], "argument --quality: '0' is not a whole number from 1 to 100"),
        (["--quality=101"], "'101' is not a whole number from 1 to 100"),
        (["--quality=80"], "--quality is 80, but a file .png loses nothing; leave it out, or"),
        (["--quality=80", "--output=a.tif"], "but a file .tif loses nothing"),
        (["--background=whitish"], "argument --background: 'whitish' is no color; allowed are"),
        (["--profile=input", "--bits=16"], "--profile=input is for 8 bits per color; leave it or"),
        (["--format=gif"], "argument --format: invalid choice: 'gif'"),
        (["--format=jpg", "--output=a.png"], "--format is jpg, but --output is a.png; leave one"),
        (["--format=webp", "--bits=16"], "a file .webp has 8 bits per color, not 16"),
        (["--format=jpg", "--bits=16", "--pairs=zip"], "a file .jpg has 8 bits per color, not 16"),
        (["--quality=80", "--pairs=zip"], "--quality is 80, but a file .png loses nothing"),
    ],
)
def test_a_form_that_a_file_cannot_have_is_one_line(tmp_path, monkeypatch, capfd, flags, said):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        save_image(f"{name}.png", np.zeros((64, 64, 3), np.float32))
    assert commands.run(cli.main, ["--content=a.png", "--style=b.png", *flags]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == ["a.png", "b.png"]
