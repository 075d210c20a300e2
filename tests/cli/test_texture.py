"""A picture without a content image."""

import functools
from pathlib import Path

import numpy as np
import pytest

import commands
from nst_jax import load_image
from nst_jax.cli import main as cli
from nst_jax.cli.manifest import read_manifest

run = functools.partial(commands.run, cli.main)


@pytest.fixture
def job(two_scales):
    """Flags of a fast job without a content image."""
    dropped = ("--content", "--size")  # and the content layers
    return [flag for flag in two_scales if not flag.startswith(dropped)]


def test_a_texture_has_its_size_and_the_colors_of_the_style(job, capfd):
    assert run([*job, "--size=30x20", "--first-steps=30"]) == 0
    found, style = load_image("stylized.png"), load_image("s.png")
    assert found.shape == (20, 30, 3)
    np.testing.assert_allclose(found.mean((0, 1)), style.mean((0, 1)), atol=0.1)
    manifest = read_manifest(Path("stylized.png"))
    assert manifest["made from"]["content image"] == []
    assert (manifest["losses"]["content"], manifest["losses"]["content_terms"]) == (0, {})
    assert run(["--replay=stylized.png"]) == 0
    assert "the same bytes as stylized.png" in capfd.readouterr().out
    assert not list(Path().glob("*/texture.png"))


def test_a_number_is_the_side_of_a_square_and_ends_can_meet(job):
    assert run([*job, "--size=24", "--start=noise", "--wrap=both"]) == 0
    assert load_image("stylized.png").shape == (32, 32, 3)  # the nearest multiples of 16
    assert read_manifest(Path("stylized.png"))["made from"]["start"] == "noise"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "give --content, or --size=WxH for a texture without a content image"),
        ("--size=original", "--size=original needs a content image; give WxH"),
        ("--size=24 --content-weight=2", "--content-weight needs a content image"),
        ("--size=24 --content-layers=relu1_1", "--content-layers needs a content image"),
        ("--size=24 --start=content", "--start needs a content image"),
        ("--size=24 --start-blend=0.5", "--start-blend needs a content image"),
        ("--size=24 --color=keep", "--color needs a content image; give --content, or leave it"),
        ("--size=24 --protect=s.png", "--protect needs a content image"),
        ("--size=24 --pairs=product", "--pairs needs a content image"),
        ("--size=9x9 --style-layers=relu5_1", "too small for the layer relu5_1"),
    ],
)
def test_what_needs_a_content_image(job, capfd, flags, words):
    assert run([*job, *flags.split()]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1 or "usage" in error
    assert not Path("stylized.png").exists()
