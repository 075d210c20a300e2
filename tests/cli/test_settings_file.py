"""Settings in a TOML file."""

import dataclasses
import functools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import commands
from nst_jax import PRESETS, Config, layers
from nst_jax.cli import main as cli
from nst_jax.cli.options import parse_options
from nst_jax.cli.settings_file import save_settings, settings_flag
from nst_jax.config import plain_settings

IMAGES = ["--content=a", "--style=b"]
run = functools.partial(commands.run, cli.main)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_in_a_file_is_the_preset_to_the_last_digit(name):
    save_settings("f.toml", name, plain_settings(PRESETS[name]))
    found = settings_flag("f.toml")
    assert found.preset == name
    options = parse_options([*IMAGES, "--config=f.toml"])
    assert (options.asked(), options.preset) == (PRESETS[name], name)


@given(st.floats(1.0001, 1e9), st.lists(st.floats(0.001, 1e9), max_size=3).map(tuple))
def test_numbers_keep_all_their_digits(factor, shares):
    config = Config(scale_factor=factor, style_blend=shares, tv_weight=factor)
    save_settings("f.toml", "default", plain_settings(config))
    assert dataclasses.replace(Config(), **settings_flag("f.toml").settings) == config


def test_flags_win_over_the_file_and_the_file_over_the_preset():
    Path("f.toml").write_text(
        'preset = "crowson"\nstyle-weight = 7\nstyle_layers = "relu1_1:2,relu2_1"\nsteps = 9\n'
        "[content-layers]\nrelu4_2 = 0.5\n"
    )
    config = parse_options([*IMAGES, "--config=f.toml", "--steps=3"]).asked()
    assert config == dataclasses.replace(
        PRESETS["crowson"],
        style_weight=7.0,
        style_layers=layers(relu1_1=2.0, relu2_1=1.0),
        content_layers=layers(relu4_2=0.5),
        steps=3,
    )
    other = parse_options([*IMAGES, "--config=f.toml", "--preset=pytorch"])
    assert other.preset == "pytorch"
    assert (other.asked().style_weight, other.asked().beta1) == (7, 0.5)
    Path("f.toml").write_text('size = "max"\n')
    assert parse_options([*IMAGES, "--config=f.toml"]).asked().size == "max"
    assert parse_options([*IMAGES, "--config=f.toml", "--megapixels=9"]).asked().size == "9MP"


def test_settings_of_a_file_that_have_no_effect_are_no_mistake():
    """A file has all settings; of a flag one may expect an effect."""
    save_settings("f.toml", "gatys-code", plain_settings(PRESETS["gatys-code"]))
    assert parse_options([*IMAGES, "--config=f.toml"]).asked() == PRESETS["gatys-code"]


def test_saving_alone_and_beside_a_job(capfd):
    assert run(["--save-config=f.toml", "--preset=pytorch", "--size=99"]) == 0
    assert tomllib.loads(Path("f.toml").read_text())["size"] == 99
    assert capfd.readouterr() == ("", "")
    for size in ("max", "original", "1920x1080", "0.5MP"):
        assert run(["--save-config=f.toml", f"--size={size}"]) == 0
        assert settings_flag("f.toml").settings["size"] == size
    assert run(["--save-config=no/f.toml"]) == 2
    assert "create the folder" in capfd.readouterr().err
    assert run(["--save-config=f.toml", "--content=a"]) == 2
    assert "required: --style" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stile-weight = 3", "stile-weight is no setting; did you mean style-weight?"),
        ("zzz = 3", "zzz is no setting; --save-config writes all there are"),
        ("megapixels = 3", 'megapixels is no setting; did you mean size = "12MP"?'),
        ("presets = 'crowson'", "presets is no setting; did you mean preset?"),
        ("preset = ['crowson']", "preset is ['crowson']; allowed are default, graphic, pytorch"),
        ("steps = " + "[" * 30_000, "it is not TOML: "),
        ("preset = 'craw'", "preset is 'craw'; allowed are default, graphic, pytorch"),
        ("style-weight = 'much'", "style-weight is 'much'; it must be a number"),
        ("steps = 0", "steps is 0; it must be at least 1"),
        ("steps = true", "steps is True; it must be a whole number"),
        ("style-layers = {relu9_9 = 1}", "style-layers: unknown VGG-19 layer: 'relu9_9'"),
        ("steps = ", "it is not TOML: Invalid value (at end of document)"),
        (b"\xff", "it is not TOML: 'utf-8' codec"),
        (None, "No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(text, said, capfd):
    if text is not None:
        Path("f.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run([*IMAGES, "--config=f.toml"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("nst-jax: error: ")
    assert said in error
    assert error.count("\n") == 1
