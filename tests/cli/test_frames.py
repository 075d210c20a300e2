"""Frames that follow the motion of the film. `stylize` is faked: it gives the content, darker."""

import functools
import os
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import commands
from nst_jax import load_image, save_image
from nst_jax.cli import batch_painter
from nst_jax.cli import main as cli
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import make_schedule

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install '.[film]'")

run = functools.partial(commands.run, cli.main)
JOB = ["--content=in", "--style=s.png", "--sequence", "--size=original", "--min-size=0"]
JOB += ["--weights=untrained", "--steps=2", "--output=o"]
SHAPE, MOTION = (40, 48), 3  # px to the left from frame to frame


@pytest.fixture
def film(tmp_path, monkeypatch, without_network):
    """A folder with three frames of a picture that moves; the record of the calls."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(size=(40, 60, 3))
    texture = ndimage.gaussian_filter(noise, (1.5, 1.5, 0))
    texture = (texture - texture.min()) / np.ptp(texture)
    Path("in").mkdir()
    for number in range(3):
        save_image(f"in/{number}.png", texture[:, MOTION * number :][:, : SHAPE[1]])
    save_image("s.png", np.full((24, 32, 3), 0.5))
    calls = []

    def stylize(content, styles, *, config, start, previous, previous_mask, **_):
        calls.append(SimpleNamespace(start=start, previous=previous, mask=previous_mask))
        one = np.ones(1, np.float32)
        losses = Losses(one, one, one, *[OrderedDict()] * 3)
        steps = make_schedule(content.shape[:2], [(24, 32)], config).steps
        yield Snapshot(steps, jnp.asarray(content) * 0.8, losses, finite=True)

    monkeypatch.setattr(batch_painter, "stylize", stylize)
    return calls


def write_flows(folder, shape, ratio=1.0):
    """Write the motion between the frames, as other programs do."""
    Path(folder).mkdir()
    for one, two in ((1, 2), (2, 3)):
        for way, ends, sign in (("forward", (one, two), -1), ("backward", (two, one), 1)):
            flow = np.zeros((*shape, 2), np.float32)
            flow[..., 0] = sign * ratio * MOTION
            name = f"{folder}/{way}_{ends[0]}_{ends[1]}.flo"
            assert cv2.writeOpticalFlow(name, flow)


def test_a_frame_gets_the_result_before_where_it_has_moved_to(film):
    assert run(JOB) == 0
    assert [call.start for call in film] == [None] * 3
    assert film[0].previous is None
    for number in (1, 2):
        previous, mask = film[number].previous, film[number].mask
        assert previous.shape == (*SHAPE, 3)
        assert mask.shape == SHAPE
        inner = slice(6, -6), slice(6, -6)
        result = 0.8 * load_image(f"in/{number}.png")
        assert np.abs(previous - result)[inner].mean() < 0.02
        assert np.abs(load_image(f"o/{number - 1}.png") - result)[inner].mean() > 0.06
        assert mask[inner].mean() > 0.9
        assert not mask[:, -1].any()  # it comes from outside


@pytest.mark.parametrize("ratio", [1, 2])
def test_motion_from_files_of_any_size(film, ratio):
    write_flows("flow", (ratio * SHAPE[0], ratio * SHAPE[1]), ratio)
    assert run([*JOB, "--flow=flow"]) == 0
    for number in (1, 2):
        result = load_image(f"o/{number - 1}.png")
        np.testing.assert_allclose(
            film[number].previous[:, :-MOTION], result[:, MOTION:], atol=1e-5
        )
        assert film[number].mask[:, :-MOTION].all()
        assert not film[number].mask[:, -MOTION:].any()


def test_without_motion_a_frame_starts_from_the_result_before(film):
    assert run([*JOB, "--flow=none"]) == 0
    assert [call.previous for call in film] == [None] * 3
    np.testing.assert_array_equal(film[2].start, load_image("o/1.png"))


def test_a_film_goes_on_only_with_the_same_motion(film, capfd):
    assert run(JOB) == run(JOB) == 0
    assert len(film) == 3
    assert run([*JOB, "--flow=none"]) == 2
    assert "made from sequence flow auto, not flow none; give --overwrite" in capfd.readouterr().err


def test_a_file_that_is_missing_is_named(film, capfd):
    write_flows("flow", SHAPE)
    Path("flow/forward_2_3.flo").unlink()
    assert run([*JOB, "--flow=flow"]) == 1
    assert sorted(os.listdir("o")) == ["0.png", "1.png"]
    said = "nst-jax: error: cannot read the flow 'flow/forward_2_3.flo': No such file or directory"
    assert capfd.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--flow=absent"], "--flow is 'absent'; allowed are auto, none, or a folder"),
        (["--flow=none", "--temporal-weight=3"], "--temporal-weight is for a known motion"),
        (["--temporal-weight=-1"], "--temporal-weight is -1.0; it must be at least 0"),
        (["--fps=0"], "'0' is not a number from 0.01 to 1000"),
        (["--fps=12"], "--fps is 12, which is for --sequence with a video as --output"),
    ],
)
def test_mistakes_are_one_line(film, capfd, flags, said):
    assert run([*JOB, *flags]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("o").exists()


def test_what_is_for_films_is_for_films(film, capfd):
    alone = ["--content=in/0.png", *(flag for flag in JOB[1:] if flag != "--sequence")]
    assert run([*alone, "--flow=none"]) == run([*alone, "--temporal-weight=3"]) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert "--flow is none, which is for --sequence; add it" in first
    assert "--temporal-weight is for --sequence; add it" in second


def test_what_is_missing_is_named(film, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert run(JOB) == 2
    said = "--sequence needs cv2, which is missing: pip install '.[film]', or give --flow=none"
    assert capfd.readouterr().err == f"nst-jax: error: {said}\n"
    assert run([*JOB, "--flow=none"]) == 0
