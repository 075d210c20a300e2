"""A video as the content. `stylize` is faked: it gives the content back."""

import functools
import hashlib
import os
import signal
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import commands
from nst_jax import Config, load_image, save_image
from nst_jax.cli import batch, batch_painter, film
from nst_jax.cli import main as cli
from nst_jax.geometry import fit
from nst_jax.io.images import image_shape
from nst_jax.io.video import read_video
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import make_schedule

av = pytest.importorskip("av", reason="PyAV is not installed: pip install '.[film]'")

from clips import TIMES, UNIT, make_clip, make_sound, pixels, sound_of  # noqa: E402

run = functools.partial(commands.run, cli.main)
JOB = ["--content=c.mp4", "--style=s.png", "--sequence", "--size=original", "--min-size=0"]
JOB += ["--weights=untrained", "--steps=2", "--first-steps=2"]
ALONE = [*JOB, "--flow=none"]
TO_FILE = [*JOB, "--output=o.mp4"]


@pytest.fixture
def painter(tmp_path, monkeypatch, without_network):
    """A folder with a video and a style; the record of the calls, and a hook before each."""
    monkeypatch.chdir(tmp_path)
    make_clip("c.mp4")
    save_image("s.png", np.full((24, 32, 3), 0.5))
    painter = SimpleNamespace(starts=[], before=lambda: None, finite=lambda: True)

    def stylize(content, styles, *, config, start, **_):
        painter.starts.append(start)
        painter.before()
        one = np.ones(1, np.float32)
        losses = Losses(one, one, one, *[OrderedDict()] * 3)
        steps = make_schedule(content.shape[:2], [(24, 32)], config).steps
        yield Snapshot(steps, jnp.asarray(content), losses, painter.finite())

    monkeypatch.setattr(batch_painter, "stylize", stylize)
    return painter


def files():
    return sorted(set(os.listdir()) - {"c.mp4", "s.png"})


def shown(path):
    """Return the times, in seconds, and the colors of a video's frames."""
    with av.open(path) as clip:
        frames = list(clip.decode(video=0))
    times = [frame.pts * frame.time_base for frame in frames]
    return times, [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]


def stop_at(painter, frame):
    """Stop the run while a frame is painted, counted over all runs."""

    def stop():
        if len(painter.starts) == frame:
            signal.raise_signal(signal.SIGTERM)

    painter.before = stop


def test_a_film_goes_on_where_it_was_stopped(painter, capfd):
    stop_at(painter, 2)
    assert run(TO_FILE) == 128 + signal.SIGTERM
    assert files() == ["o.frames"]  # nothing half-written
    assert sorted(os.listdir("o.frames")) == ["000001.png", "000002.png"]
    assert "2 of 5 pictures are done; the same command goes on" in capfd.readouterr().err
    assert run(TO_FILE) == 0
    assert len(painter.starts) == len(TIMES)
    assert files() == ["o.mp4"]
    times, frames = shown("o.mp4")
    assert times == [time * UNIT for time in TIMES]
    assert sound_of("o.mp4") == sound_of("c.mp4") != []
    for number, frame in enumerate(frames):
        # Twice through the codec, with half the pixels for the chroma.
        assert np.abs(frame - pixels(number)).mean() < 8
        assert np.abs(frame - pixels(number)).mean() < np.abs(frame - pixels(number + 1)).mean()
    assert "wrote    o.mp4, 5 frames" in capfd.readouterr().out


def test_a_finished_film_is_not_lost(painter, capfd):
    assert run(TO_FILE) == 0
    before = Path("o.mp4").read_bytes()
    assert run(TO_FILE) == 2
    assert "--output o.mp4 is there already; give --overwrite" in capfd.readouterr().err
    assert Path("o.mp4").read_bytes() == before
    stop_at(painter, 6)  # the first frame of the next run
    assert run([*TO_FILE, "--overwrite"]) == 128 + signal.SIGTERM
    assert Path("o.mp4").read_bytes() == before
    assert run(TO_FILE) == 0  # the film is under way
    assert len(painter.starts) == 2 * len(TIMES)
    assert files() == ["o.mp4"]


def test_frames_alone(painter):
    assert run([*ALONE, "--output=o"]) == run([*ALONE, "--output=o"]) == 0
    assert sorted(os.listdir("o")) == [f"{number:06}.png" for number in range(1, 6)]
    assert len(painter.starts) == len(TIMES)
    # Each frame starts from the file of the one before it.
    np.testing.assert_array_equal(painter.starts[3], load_image("o/000003.png"))


@pytest.mark.parametrize("size", ["--size=22", "--size=64"])
def test_frames_are_resized_as_image_files_are(painter, size):
    Path("in").mkdir()
    for number, frame in enumerate(read_video("c.mp4")):
        save_image(f"in/{number}.png", frame.pixels / np.float32(255))
    assert run([*JOB, size, "--output=o"]) == 0
    assert run(["--content=in", *JOB[1:], size, "--output=files"]) == 0
    for number in range(5):
        ours, theirs = load_image(f"o/{number + 1:06}.png"), load_image(f"files/{number}.png")
        np.testing.assert_array_equal(ours, theirs)


def test_a_film_of_files(painter, capfd):
    Path("in").mkdir()
    for number in range(3):
        save_image(f"in/{number}.png", pixels(number) / np.float32(255))
    job = ["--content=in", *TO_FILE[1:], "--fps=23.976"]
    stop_at(painter, 2)
    assert run(job) == 128 + signal.SIGTERM
    assert run(job) == 0
    assert len(painter.starts) == 3
    assert files() == ["in", "o.mp4"]
    times, frames = shown("o.mp4")
    np.testing.assert_allclose(np.float64(times), np.arange(3) / 23.976, atol=1e-6)
    for number, frame in enumerate(frames):
        assert np.abs(frame - pixels(number)).mean() < 8
    assert sound_of("o.mp4") == []
    save_image("in/3.png", np.full((24, 24, 3), 0.5))
    assert run([*job, "--overwrite"]) == 2
    assert "frames have 32x24 and 24x24 px; give frames of one size" in capfd.readouterr().err


def test_a_film_says_how_it_was_made(painter, capfd):
    assert run(TO_FILE) == 0
    capfd.readouterr()
    assert run(["--show=o.mp4"]) == 0
    shown, digest = capfd.readouterr().out, hashlib.sha256(Path("c.mp4").read_bytes())
    assert "# frames         5\n" in shown
    assert f"# content image  SHA-256 {digest.hexdigest()}\n" in shown
    assert "temporal-weight = 200.0\n" in shown
    assert run([*TO_FILE, "--overwrite", "--no-manifest"]) == 0
    assert run(["--show=o.mp4"]) == run(["--show=c.mp4"]) == 2
    assert capfd.readouterr().err.count(" has no manifest; only") == 2


def test_the_colors_of_a_style_alone(painter):
    save_image("s.png", np.full((24, 32, 3), (0.2, 0.4, 0.6)))
    job = ["--content=c.mp4", "--style=s.png", "--sequence", "--size=original"]
    assert run([*job, "--color=style-only", "--output=o.mp4"]) == 0
    assert painter.starts == []
    assert files() == ["o.mp4"]
    times, frames = shown("o.mp4")
    assert times == [time * UNIT for time in TIMES]
    for frame in frames:  # the style is of one color
        assert np.abs(frame.mean((0, 1)) - (51, 102, 153)).max() < 3


def test_files_are_no_larger_than_the_pictures(painter, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        "nst_jax.cli.main._paint_many",
        lambda job, _: shapes.extend(image_shape(x.content) for x in job.pictures) or 1,
    )
    for size in ("--size=22", "--size=64"):
        assert run([*JOB, size, "--output=o"]) == 1
    assert set(shapes[:5]) == {(16, 22)}
    assert set(shapes[5:]) == {(24, 32)}


def test_a_smaller_file_does_not_change_the_size_of_a_picture():
    """The largest picture of an area, of these proportions rounded, may be larger."""
    image = Image.new("RGB", (542, 69))
    assert fit(69, 542, "0.030723MP") == (62, 490)
    assert fit(62, 490, "0.030723MP") == (62, 493)
    assert film._small(image, Config(size="0.030723MP")).size == (542, 69)
    assert film._small(image, Config(size=271)).size == (271, 34)


def test_a_film_with_a_missing_frame_is_not_written(painter, capfd):
    painter.finite = lambda: len(painter.starts) != 3
    assert run(TO_FILE) == 1
    assert (
        "o.mp4 is not written, for these reasons; the frames are in o.frames"
        in capfd.readouterr().err
    )
    assert len(os.listdir("o.frames")) == 4
    painter.finite = lambda: True
    assert run([*TO_FILE, "--sheet=sheet.png"]) == 0
    assert files() == ["o.mp4", "sheet.png"]


def test_a_plan_writes_nothing(painter, monkeypatch):
    monkeypatch.setattr(batch, "print_estimate", lambda *_: None)  # it compiles for seconds
    assert run([*TO_FILE, "--dry-run"]) == 0
    assert files() == []
    assert painter.starts == []


def test_sound_that_mp4_cannot_hold(painter, capfd):
    make_clip("c.avi", sound="wmav2", rate=44100, codec="mpeg4")
    assert run([*TO_FILE, "--content", "c.avi"]) == 2  # two videos
    assert run(["--content=c.avi", *TO_FILE[1:]]) == 0
    (line,) = capfd.readouterr().err.splitlines()[1:]
    assert line == "nst-jax: o.mp4 is without the sound wmav2, which MP4 cannot hold"
    assert sound_of("o.mp4") == []


def test_a_video_that_cannot_be_written_keeps_its_frames(painter, capfd, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nst_jax.cli.film.write_video", full_disk)
        assert run(TO_FILE) == 1
    assert "cannot write o.mp4: [Errno 28] No space left" in capfd.readouterr().err
    assert files() == ["o.frames"]
    assert run(TO_FILE) == 0
    assert len(painter.starts) == len(TIMES)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--content=c.mp4", "--style=s.png"], "c.mp4 is a video; add --sequence"),
        ([*TO_FILE, "--content", "c.mp4"], "the video c.mp4 is painted alone"),
        ([*TO_FILE, "--content", "s.png"], "the video c.mp4 is painted alone"),
        (["--content=cut.mp4", *JOB[1:]], "cannot read the video 'cut.mp4': Invalid data"),
        (["--content=sound.mp4", *JOB[1:]], "'sound.mp4' has no video stream"),
        (["--content=absent.mp4", *JOB[1:]], "cannot read the video 'absent.mp4': No such file"),
        ([*JOB, "--output=o.avi"], "--output is 'o.avi'; its name must end in .mp4"),
        ([*JOB, "--output=o.png"], "--output is 'o.png'; its name must end in .mp4"),
        ([*JOB, "--output=no/o.mp4"], "cannot write the video 'no/o.mp4': create the folder"),
        ([*JOB, "--output=c.mp4"], "is the file of another image"),
        ([*TO_FILE, "--pairs=product"], "--pairs makes a film for each style"),
        ([*TO_FILE, "--preview"], "--preview is for one picture"),
        ([*TO_FILE, "--style", "absent.png"], "cannot load 'absent.png'"),
        ([*TO_FILE, "--size=8", "--style-layers=relu5_1"], "is too small for the layer relu5_1"),
        (["--content=s.png", *JOB[1:], "--output=o.avi"], "its name must end in .mp4"),
        (["--content=s.png", *TO_FILE[1:], "--pairs=zip"], "--pairs makes a film for each style"),
        ([*TO_FILE, "--fps=12"], "--fps is 12, but the video c.mp4 has times; leave it out"),
    ],
)
def test_mistakes_are_one_line(painter, capfd, flags, said):
    Path("cut.mp4").write_bytes(Path("c.mp4").read_bytes()[:900])
    make_sound("sound.mp4")
    assert run(flags) == 2
    error = capfd.readouterr().err
    assert error.startswith("nst-jax: error: ")
    assert said in error
    assert error.count("\n") == 1
    assert files() == ["cut.mp4", "sound.mp4"]
    assert painter.starts == []


def test_what_is_missing_is_named(painter, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(TO_FILE) == 2
    said = "nst-jax: error: --content c.mp4 needs av, which is missing: pip install '.[film]'\n"
    assert capfd.readouterr().err == said
