"""--content-mask, --style-mask, --style-strength and --protect."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import commands
from nst_jax import load_image, save_image
from nst_jax.cli import main as cli
from nst_jax.cli import single
from nst_jax.cli.manifest import read_manifest
from nst_jax.io.arrays import rounded

run = functools.partial(commands.run, cli.main)


def save(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.fixture
def job(two_scales):
    """Flags of a fast job in a folder with masks of 48x40 px, one for each side."""
    left = np.zeros((40, 48))
    left[:, :24] = 255
    save("left.png", left)
    save("right.png", 255 - left)
    for name, colors in {"map": ("red", "green"), "swapped": ("green", "red")}.items():
        image = np.zeros((40, 48, 3))
        for half, color in zip((slice(24), slice(24, 48)), colors, strict=True):
            image[:, half, ("red", "green").index(color)] = 255
        save(f"{name}.png", image)
    save("tall.png", left.T)
    save_image("s.png", load_image("s.png", shape=(40, 48)))
    save_image("t.png", load_image("s.png")[::-1, :, ::-1])
    return two_scales


@pytest.fixture
def seen(monkeypatch):
    """The masks that `stylize` was given."""
    calls, own = [], single.stylize

    def stylize(*args, **options):
        calls.append({name: x for name, x in options.items() if "mask" in name})
        return own(*args, **options)

    monkeypatch.setattr(single, "stylize", stylize)
    return calls


def two(job):
    return [*job, "--style", "t.png"]


def test_one_map_is_the_same_as_a_gray_mask_for_each_style(job, seen):
    for number, masks in enumerate((["left.png", "right.png"], ["left.png"], ["map.png"])):
        assert run([*two(job), "--content-mask", *masks, f"--output={number}.png"]) == 0
    for call in seen:
        mask = call["content_mask"]
        assert mask.shape == (20, 24, 2)
        np.testing.assert_allclose(mask[:, :11, 0], 1, atol=1e-6)
        np.testing.assert_allclose(mask[:, 13:, 1], 1, atol=1e-6)
        np.testing.assert_allclose(mask.sum(-1), 1, atol=1e-6)
    pictures = [load_image(f"{number}.png") for number in range(3)]
    np.testing.assert_allclose(pictures[1], pictures[0], atol=2 / 255)
    np.testing.assert_allclose(pictures[2], pictures[0], atol=2 / 255)


def test_regions_of_one_style_image_go_to_regions_of_the_same_color(job, seen):
    assert run([*job, "--content-mask=map.png", "--style-mask=swapped.png"]) == 0
    (call,) = seen
    (own,) = call["style_mask"]
    half = own.shape[1] // 2
    assert own.shape[-1] == 2
    assert own[:, : half - 1, 1].all()
    assert not own[:, : half - 1, 0].any()


def test_what_is_protected_is_the_photograph(job):
    assert run([*job, "--protect=left.png"]) == 0
    content, found = load_image("c.png", size=24), load_image("stylized.png")
    np.testing.assert_array_equal(rounded(found)[:, :11], rounded(content)[:, :11])
    assert np.abs(found - content)[:, 13:].mean() > 0.01


def test_masks_are_in_the_manifest_and_are_found_again(job, capfd):
    flags = ["--content-mask=map.png", "--style-strength=left.png", "--protect=right.png"]
    assert run([*two(job), *flags, "--json"]) == 0
    made_from = json.loads(Path("stylized.png.json").read_text())["made from"]
    for role in ("content mask", "style strength", "protect"):
        assert len(made_from[f"{role} image"]) == 1
    assert "style mask image" not in made_from
    assert run(["--show=stylized.png"]) == 0
    assert "# protect image  SHA-256 " in capfd.readouterr().out
    assert run(["--replay=stylized.png"]) == 0
    assert "the same bytes" in capfd.readouterr().out
    Path("right.png").unlink()
    assert run(["--replay=stylized.png"]) == 2
    assert "the protect image of stylized.png (SHA-256 " in capfd.readouterr().err


def test_without_masks_the_manifest_names_none(job):
    assert run(job) == 0
    assert not [name for name in read_manifest(Path("stylized.png"))["made from"] if "mask" in name]


def test_a_checkpoint_is_that_of_its_masks(job, capfd):
    kept = [*two(job), "--checkpoint=kept"]
    assert run([*kept, "--content-mask=map.png"]) == 0
    assert run([*kept, "--content-mask=swapped.png"]) == 2
    assert "another content mask image" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--content-mask tall.png", "tall.png has 40x48 px, but its image c.png has"),
        ("--content-mask left.png right.png map.png", "has 3 files, one of them with colors"),
        ("--content-mask left.png right.png left.png", "3 gray masks, but the number of styles"),
        ("--content-mask map.png --style t.png t.png", "the regions red, green, but the number"),
        ("--style-mask left.png left.png left.png", "has 3 files, but the number of styles is 2"),
        ("--style-mask map.png left.png", "the colors red, green; they need a --content-mask"),
        ("--content-mask none.png", "cannot load 'none.png'"),
        ("--protect left.png --output left.png", "--output left.png is the input image left.png"),
        ("--protect left.png --pairs=product", "--protect is for one picture; for several"),
    ],
)
def test_masks_that_do_not_fit(job, capfd, flags, words):
    assert run([*two(job), *flags.split()]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not Path("stylized.png").exists()


def test_a_color_that_no_style_mask_has(job, capfd):
    save("red.png", [[[255, 0, 0]] * 48] * 40)
    flags = ["--content-mask=map.png", "--style-mask=red.png"]
    assert run([*job, *flags]) == 2
    assert "has the color green, which no --style-mask has" in capfd.readouterr().err
