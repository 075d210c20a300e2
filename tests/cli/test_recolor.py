"""--color=style-only: the colors of the styles, without steps and without a network."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

import commands
from nst_jax import load_image, match_colors, save_image
from nst_jax.cli import batch, single
from nst_jax.cli import main as cli
from nst_jax.cli.manifest import read_manifest
from nst_jax.io.arrays import rounded

run = functools.partial(commands.run, cli.main)
JOB = ["--content=c.png", "--style=s.png", "--color=style-only", "--size=24"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, photographs):
    """A folder of images, where no network can be had."""
    monkeypatch.chdir(tmp_path)
    for module in (single, batch):
        monkeypatch.setattr(module, "run_weights", None)
        monkeypatch.setattr(module, "network_of", None)
    content, style = photographs
    warm = style * np.asarray([0.9, 0.6, 0.3], np.float32)
    for name, image in {"c": content, "d": content.transpose(1, 0, 2), "s": warm}.items():
        save_image(f"{name}.png", image)
    save_image("flat.png", np.full((9, 8, 3), 0.4, np.float32))
    save_image("gray.png", np.repeat(content[..., :1], 3, -1))


def levels(path):
    return rounded(load_image(path)).astype(int)


def one_line(capfd):
    error = capfd.readouterr().err
    assert error.startswith("nst-jax: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("how", ["symmetric", "pca"])
def test_the_picture_is_the_content_with_the_colors_of_the_style(how, capfd):
    assert run([*JOB, f"--color-match={how}"]) == 0
    assert "wrote    stylized.png, 24x20 px, 1 of 1\n" in capfd.readouterr().out
    content, style = load_image("c.png", size=24), load_image("s.png")
    wanted = rounded(np.asarray(match_colors(content, style, how=how)))
    np.testing.assert_array_equal(levels("stylized.png"), wanted)
    assert np.abs(levels("stylized.png") - rounded(content)).mean() > 5


@pytest.mark.parametrize("content", ["c", "flat", "gray"])
@pytest.mark.parametrize("style", ["flat", "gray"])
def test_images_without_colors_give_their_mean(content, style):
    assert run([f"--content={content}.png", f"--style={style}.png", *JOB[2:]]) == 0
    found, wanted = (load_image(path).mean((0, 1)) for path in ("stylized.png", f"{style}.png"))
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_a_small_picture_needs_no_layer_and_a_size_is_that_of_the_content():
    assert run([*JOB, "--size=3"]) == 0
    assert max(levels("stylized.png").shape) == 3
    assert run([*JOB[:3], "--size=original"]) == 0
    assert levels("stylized.png").shape == levels("c.png").shape


def test_many_pictures_of_a_blend(capfd):
    flags = ["--content", "c.png", "d.png", "--style", "s.png", "flat.png", "--style-blend=2,1"]
    flags += ["--color=style-only", "--size=24", "--output=out", "--sheet=sheet.png", "--json"]
    assert run([*flags, "--dry-run"]) == 0
    assert "size     out/d.png: 20x24 px\n" in capfd.readouterr().out
    assert not Path("out").exists()
    assert run(flags) == 0
    styles = [load_image(f"{name}.png") for name in ("s", "flat")]
    for name in "cd":
        wanted = match_colors(load_image(f"{name}.png", size=24), styles, shares=(2.0, 1.0))
        np.testing.assert_array_equal(levels(f"out/{name}.png"), rounded(np.asarray(wanted)))
    assert sorted(os.listdir("out")) == ["c.png", "c.png.json", "d.png", "d.png.json"]
    assert Path("sheet.png").exists()
    assert run(flags) == 0
    assert "0 of 2 to paint, in out; skipping 2 finished before" in capfd.readouterr().out
    # One picture of the job by itself, from its manifest.
    Path("c.png").rename("other.png")
    assert run(["--replay=out/c.png", "--inputs", "."]) == 0
    assert "replay   the same bytes as out/c.png\n" in capfd.readouterr().out
    assert json.loads(Path("out/c.png.json").read_text()) == read_manifest(Path("out/c.png"))


def test_the_manifest_names_no_network(capfd):
    assert run([*JOB, "--output=o.jpg"]) == 0
    manifest = read_manifest(Path("o.jpg"))
    assert (manifest["step"], manifest["losses"], manifest["chosen"]) == (0, {}, {"size": 24})
    assert run(["--show=o.jpg"]) == 0
    shown = capfd.readouterr().out
    assert 'color = "style-only"\n' in shown
    assert "network" not in shown
    assert run(["--replay=o.jpg"]) == 0
    assert Path("o_replay.jpg").read_bytes() == Path("o.jpg").read_bytes()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        *(
            (flag, f"{flag.split('=')[0]} is for pictures that are painted in steps, but --color=")
            for flag in (
                *("--checkpoint=f", "--log=f.csv", "--timelapse=f.gif", "--report=f.html"),
                *("--preview", "--save-every=2", "--start-image=s.png", "--flow=none", "--batch=2"),
            )
        ),
        ("--size=max", "--size=max is for pictures that are painted in steps; with --color=style-"),
        ("--steps=3", "--steps has no effect with the color style-only, which makes no steps"),
        ("--style-scale=2", "--style-scale has no effect with the color style-only"),
        ("--style-blend=1,2", "--style-blend has 2 shares, but the number of styles is 1"),
        ("--output=c.png", "--output c.png is the input image c.png; name another file"),
        ("--style=none.png", "cannot load 'none.png': "),
    ],
)
def test_what_needs_steps_is_refused(flag, said, capfd):
    before = sorted(os.listdir())
    assert run([*(x for x in JOB if not flag.startswith(x.split("=")[0] + "=")), flag]) == 2
    assert said in one_line(capfd)
    assert sorted(os.listdir()) == before


def test_a_file_that_is_damaged_stops_no_other(capfd):
    Path("d.png").write_bytes(Path("c.png").read_bytes()[:300])
    flags = ["--content", "c.png", "d.png", *JOB[1:], "--output=out"]
    assert run(flags) == 1
    assert "'d.png'" in one_line(capfd)
    assert os.listdir("out") == ["c.png"]
