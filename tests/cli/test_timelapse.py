"""The film of a picture as it forms."""

import functools
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

import commands
from nst_jax import load_image
from nst_jax.cli import main as cli
from nst_jax.cli.timelapse import Frames, every, save_timelapse

run = functools.partial(commands.run, cli.main)


@pytest.mark.parametrize(("suffix", "off"), [("gif", 0.03), ("webp", 0.06), ("apng", 0.001)])
def test_a_film_ends_with_the_picture(two_scales, suffix, off):
    """GIF has 256 colors; WebP, at this quality, half the pixels of its colors."""
    assert run([*two_scales, f"--timelapse=f.{suffix}"]) == 0
    with Image.open(f"f.{suffix}") as film:
        frames = [np.asarray(frame.convert("RGB")) / 255 for frame in ImageSequence.Iterator(film)]
    assert 5 <= len(frames) <= 75  # equal ones are shown as one
    assert {frame.shape for frame in frames} == {(20, 24, 3)}
    last = np.abs(frames[-1] - load_image("stylized.png")).mean()
    assert last < off
    assert not np.array_equal(frames[0], frames[-1])


def test_an_mp4_plays(two_scales):
    av = pytest.importorskip("av")
    assert run([*two_scales, "--timelapse=f.mp4"]) == 0
    with av.open("f.mp4") as film:
        frames = [frame.to_ndarray(format="rgb24") / 255 for frame in film.decode(video=0)]
    assert frames[0].shape == (20, 24, 3)
    assert len(frames) == 75 + 25  # the last stays for a second
    assert np.abs(frames[-1] - load_image("stylized.png")).mean() < 0.06  # half the colors' pixels


def test_steps_of_the_film_are_even_in_what_one_sees():
    """Gray levels that change fast at first, as pictures do: the film slows the beginning down."""
    frames = Frames((4, 6))
    levels = 1 - 0.9 ** np.arange(150)
    for level in levels:
        frames.add(np.full((2, 3, 3), level))
    film = frames.film()
    shown = np.array([frame[0, 0, 0] for frame in film]) / 255
    assert film[0].shape == (4, 6, 3)
    assert len(film) == 75
    assert shown[-1] == pytest.approx(levels[-1], abs=1 / 255)
    # Of 150 frames the first 22 make nine tenths of the change, and the film fades between them.
    # Near black a level is a large step, and a fade is even in sRGB, not in what one sees.
    lightness = np.cbrt(((shown + 0.055) / 1.055) ** 2.4)[::6]  # of gray in Oklab
    np.testing.assert_allclose(np.diff(lightness)[3:], 6 / 74, rtol=0.1)


def test_memory_is_bounded():
    frames = Frames((1000, 2000))
    assert frames._shape == (256, 512)
    small = Frames((1, 1))
    for level in np.linspace(0, 1, 5000):
        small.add(np.full((1, 1, 3), level))
    assert len(small._frames) <= 300
    assert len(small.film()) == 75


def test_a_still_picture_has_one_frame(tmp_path):
    frames = Frames((2, 2))
    for _ in range(9):
        frames.add(np.zeros((2, 2, 3)))
    assert len(frames.film()) == 1
    assert save_timelapse(tmp_path / "f.gif", frames.film()) == ""
    assert (every(1), every(178), every(3000)) == (6, 6, 40)


def test_mistakes_are_one_line(two_scales, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for path, said in (
        ("f.txt", "--timelapse is 'f.txt'; its name must end in .gif, .webp, .apng, .mp4"),
        ("f.mp4", "--timelapse=f.mp4 needs av, which is missing: pip install '.[film]'"),
        ("no/f.gif", "cannot write the timelapse 'no/f.gif': create the folder"),
    ):
        assert run([*two_scales, f"--timelapse={path}"]) == 2
        error = capfd.readouterr().err
        assert error.startswith(f"nst-jax: error: {said}")
        assert error.count("\n") == 1
    assert run([*two_scales, "--output=o.webp", "--timelapse=o.webp"]) == 2
    assert "is the file of another image" in capfd.readouterr().err
    assert run([*two_scales, "--sheet=o.webp", "--timelapse=o.webp"]) == 2
    assert "is the file of another image" in capfd.readouterr().err
    assert run([*two_scales, "--content", "s.png", "--timelapse=f.gif"]) == 2
    assert "--timelapse is for one picture; for several, leave it out" in capfd.readouterr().err


def test_a_film_that_cannot_be_written_is_a_fault(tmp_path):
    fault = save_timelapse(tmp_path / "no" / "f.gif", [np.zeros((2, 2, 3), np.uint8)])
    assert "cannot write the timelapse" in fault
