"""The contact sheet of a command."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest

import commands
from nst_jax import load_image, save_image
from nst_jax.cli import main as cli
from nst_jax.cli import sheet
from nst_jax.io.sheet import contact_sheet
from nst_jax.weights import sources

run = functools.partial(commands.run, cli.main)
FAST = ["--size=24", "--min-size=0", "--steps=2", "--style-layers=relu1_1"]
FAST += ["--content-layers=relu1_1", "--weights=untrained", "--quiet"]


@pytest.fixture(autouse=True)
def _images(tmp_path, monkeypatch, photographs, untrained):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "untrained_params", lambda *_: untrained)
    content, style = photographs
    for name, image in {"c": content, "d": content[::-1], "s": style, "t": style[::-1]}.items():
        save_image(f"{name}.png", image)


def cells(path, rows, columns):
    """Cut a sheet without its titles into cells."""
    whole = load_image(path)
    height, width = (whole.shape[0] + 6) // rows, (whole.shape[1] + 6) // columns
    return [
        whole[i * height + 14 : (i + 1) * height - 6, j * width : (j + 1) * width - 6]
        for i in range(rows)
        for j in range(columns)
    ]


def reduced(path):
    """Load a picture as it is on the sheet: no larger than the results."""
    return load_image(path, size=24, enlarge=False)


def is_in(image, cell):
    height, width = image.shape[:2]
    return np.abs(cell[:height, :width] - image).max() < 0.51 / 255


def test_one_picture_has_a_row():
    flags = ["--content=c.png", "--style", "s.png", "t.png", "--sheet=sheet.png"]
    assert run([*flags, *FAST]) == 0
    found = cells("sheet.png", 1, 4)
    for path, cell in zip(("c.png", "s.png", "t.png", "stylized.png"), found, strict=True):
        assert is_in(reduced(path), cell), path


def test_a_product_is_a_grid_and_finished_pictures_are_on_it():
    flags = ["--content", "c.png", "d.png", "--style", "s.png", "t.png", "--pairs=product"]
    assert run([*flags, *FAST]) == 0
    for _ in range(2):  # the second time there is nothing to paint
        assert run([*flags, *FAST, "--sheet=sheet.png"]) == 0
        found = cells("sheet.png", 3, 3)
        names = [None, "s", "t", "c", "stylized/c_s", "stylized/c_t"]
        names += ["d", "stylized/d_s", "stylized/d_t"]
        assert (np.asarray(found[0]) == 1).all()
        for name, cell in zip(names[1:], found[1:], strict=True):
            assert is_in(reduced(f"{name}.png"), cell), name
        os.remove("sheet.png")
        os.remove("stylized/d_t.png")


def test_large_pictures_are_reduced_and_small_ones_stay():
    large, small = np.zeros((4, 9, 3), np.float32), np.full((2, 3, 3), 0.5, np.float32)
    whole = contact_sheet([[(large, ""), None], [(small, "")]])
    assert whole.shape == (2 * (4 + 14 + 6) - 6, 2 * (9 + 6) - 6, 3)
    assert (whole[14:18, :9] == 0).all()
    assert (whole[:20, 9:] == 1).all()
    np.testing.assert_allclose(whole[38:40, :3], 0.5, atol=0.51 / 255)
    save_image("wide.png", np.zeros((10, 2000, 3), np.float32))
    flags = ["--content=wide.png", "--style=s.png", "--sheet=sheet.png", "--size=600"]
    assert run([*flags, *FAST[1:]]) == 0
    assert load_image("sheet.png").shape[1] == 3 * 512 + 2 * 6


@pytest.mark.parametrize("flags", [["--content=c.png"], ["--content", "c.png", "d.png"]])
def test_mistakes_are_found_first(capfd, flags):
    for path, said in (
        ("s.png", "--sheet s.png is the file of another image"),
        ("stylized/c.png" if len(flags) > 1 else "stylized.png", "is the file of another image"),
        ("sheet.txt", "its name must end in one of"),
    ):
        if "/" in path:
            Path("stylized").mkdir()
        assert run([*flags, "--style=s.png", f"--sheet={path}", *FAST]) == 2
        error = capfd.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not list(Path().glob("styl*.png"))


def test_a_sheet_that_cannot_be_written_costs_no_picture(capfd, monkeypatch):
    monkeypatch.setattr(sheet, "save_or_rescue", lambda *_: "the disk is full")
    assert run(["--content=c.png", "--style=s.png", "--sheet=sheet.png", *FAST]) == 1
    assert "the disk is full" in capfd.readouterr().err
    assert load_image("stylized.png").shape == (20, 24, 3)
