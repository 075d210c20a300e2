"""Videos in and out, against PyAV's own reading."""

import struct
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed: pip install '.[film]'")

from clips import TIMES, UNIT, make_clip, make_sound, pixels, sound_of  # noqa: E402
from nst_jax import InputError  # noqa: E402
from nst_jax.io.video import (  # noqa: E402
    Clock,
    Frame,
    read_clock,
    read_video,
    sound_left_out,
    write_video,
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def turned(path, to, matrix):
    """Copy an MP4 file, with another matrix in the header of its picture track."""
    data = Path(path).read_bytes()
    place = data.index(b"tkhd") + 4 + 40  # behind version, times, ids, duration, layer, volume
    ones = [round(x * 2**16) for x in matrix]
    a, b, c, d = ones
    new = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    assert data[place : place + 36] == struct.pack(">9i", 2**16, 0, 0, 0, 2**16, 0, 0, 0, 2**30)
    Path(to).write_bytes(data[:place] + new + data[place + 36 :])


def test_frames_are_what_was_encoded():
    make_clip("c.mp4")
    frames = list(read_video("c.mp4"))
    assert [frame.time for frame in frames] == [time * UNIT for time in TIMES]
    for number, frame in enumerate(frames):
        # A blue bar of 4 px loses at its edges, as the chroma has half the pixels.
        assert np.abs(frame.pixels - pixels(number).astype(float)).mean() < 6


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_telephones_that_were_turned(matrix, turns):
    """(0, 1, -1, 0) maps x to y and y to -x: a quarter clockwise."""
    make_clip("c.mp4", sound="")
    turned("c.mp4", "t.mp4", matrix)
    plain, frames = next(read_video("c.mp4")), list(read_video("t.mp4"))
    np.testing.assert_array_equal(frames[0].pixels, np.rot90(plain.pixels, turns))
    assert len(frames) == len(TIMES)


def test_pixels_become_square():
    make_clip("c.mp4", sound="", aspect=2)
    assert next(read_video("c.mp4")).pixels.shape == (24, 64, 3)


def test_a_stream_without_times():
    """Raw H.264 has neither times nor a number of frames."""
    make_clip("c.mpg", sound="", container="h264")
    with av.open("c.mpg") as clip:
        assert clip.streams.video[0].frames == 0
    times = [frame.time for frame in read_video("c.mpg")]
    assert len(times) == len(TIMES)
    assert all(np.diff(times) > 0)


def test_a_file_that_begins_late():
    """MPEG-TS counts from another time than 0; picture and sound move together."""
    make_clip("c.ts", sound="mp2")
    with av.open("c.ts") as clip:
        begin = Fraction(clip.start_time, av.time_base)
        first = next(clip.decode(video=0)).pts * clip.streams.video[0].time_base
    assert begin > 0
    frames = list(read_video("c.ts"))
    assert frames[0].time == first - begin
    write_video(Path("o.mp4"), frames, clock=read_clock("c.ts"), sound="c.ts")
    before, now = sound_of("c.ts"), sound_of("o.mp4")
    assert [data for _, data in now] == [data for _, data in before]
    off = [float(was - begin - time) for (was, _), (time, _) in zip(before, now, strict=True)]
    np.testing.assert_allclose(off, 0, atol=1 / 10000)  # MP4 counts samples


@pytest.mark.parametrize("shape", [(24, 32), (25, 33), (2, 2)])
def test_what_is_written(shape):
    """Colors and times come back; of an odd side the last px is left out."""
    color = np.array([200, 30, 90], np.uint8)
    times = [Fraction(n, 30) for n in (0, 1, 3)]
    frames = (Frame(np.broadcast_to(color, (*shape, 3)), time) for time in times)
    write_video(Path("o.mp4"), frames, clock=Clock(Fraction(30), Fraction(1, 30)))
    with av.open("o.mp4") as clip:
        stream = clip.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        context = stream.codec_context
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert tags == (1, 1, 1, 1)  # BT.709 at 16 to 235
        found = list(clip.decode(stream))
    assert [frame.pts * frame.time_base for frame in found] == times
    shown = found[0].to_ndarray(format="rgb24")
    assert shown.shape == (shape[0] // 2 * 2, shape[1] // 2 * 2, 3)
    np.testing.assert_allclose(shown.reshape(-1, 3).mean(0), color, atol=3)


def test_one_frame_at_a_time():
    """A frame is read when the one before is no longer needed, and written before the next."""
    make_clip("c.mp4")
    frames, alive = read_video("c.mp4"), []
    for frame in frames:
        assert all(before() is None for before in alive)
        alive.append(weakref.ref(frame.pixels.base))
        del frame
    assert len(alive) == len(TIMES)


def test_the_sound_is_copied():
    make_clip("c.mp4")
    write_video(Path("o.mp4"), read_video("c.mp4"), clock=read_clock("c.mp4"), sound="c.mp4")
    assert sound_of("o.mp4") == sound_of("c.mp4") != []


def test_sound_that_does_not_fit_is_left_out():
    make_clip("c.avi", sound="wmav2", rate=44100, codec="mpeg4")
    assert sound_left_out("c.avi") == ["wmav2"]
    write_video(Path("o.mp4"), read_video("c.avi"), clock=read_clock("c.avi"), sound="c.avi")
    assert sound_of("o.mp4") == []
    assert len(list(read_video("o.mp4"))) == len(TIMES)


def test_times_that_go_back():
    """Two videos in one file: its times are over already."""
    make_clip("c.ts", sound="mp2")
    Path("c.ts").write_bytes(2 * Path("c.ts").read_bytes())
    frames = list(read_video("c.ts"))
    times = [frame.time for frame in frames]
    assert len(times) > len(TIMES)
    assert all(np.diff(times) > 0)
    write_video(Path("o.mp4"), frames, clock=read_clock("c.ts"), sound="c.ts")
    assert len(list(read_video("o.mp4"))) == len(times)
    assert all(np.diff([time for time, _ in sound_of("o.mp4")]) > 0)


def test_titles_in_another_encoding():
    make_clip("c.mp4", title="Caff!")
    data = Path("c.mp4").read_bytes()
    assert b"Caff!" in data
    Path("c.mp4").write_bytes(data.replace(b"Caff!", "Caffè".encode("latin-1")))
    write_video(Path("o.mp4"), read_video("c.mp4"), clock=read_clock("c.mp4"), sound="c.mp4")
    assert len(list(read_video("o.mp4"))) == len(TIMES)


def test_mistakes():
    make_clip("c.mp4")
    Path("cut.mp4").write_bytes(Path("c.mp4").read_bytes()[:900])
    make_sound("sound.mp4")
    for path, said in (
        ("absent.mp4", "cannot read the video 'absent.mp4': No such file or directory"),
        ("cut.mp4", "cannot read the video 'cut.mp4': Invalid data found"),
        ("sound.mp4", "'sound.mp4' has no video stream"),
    ):
        for read in (read_clock, sound_left_out, lambda path: list(read_video(path))):
            with pytest.raises(InputError, match=said):
                read(path)


def test_a_writer_that_fails_leaves_no_file():
    def frames():
        yield Frame(pixels(0), Fraction(0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(Path("o.mp4"), frames(), clock=Clock(Fraction(20), UNIT))
    assert list(Path().iterdir()) == []
