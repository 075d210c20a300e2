"""Tiny videos, made by PyAV."""

from fractions import Fraction

import av
import numpy as np

SHAPE = 24, 32
UNIT = Fraction(1, 600)
TIMES = 0, 24, 50, 100, 130  # in units: the frames are not equally long


def pixels(number, shape=SHAPE):
    """Return a frame: ramps of red and green, whose upper left is dark, and a moving blue bar."""
    height, width = shape
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 250, width)
    frame[..., 1] = np.linspace(0, 200, height)[:, None]
    frame[:, 4 * number : 4 * number + 4, 2] = 180
    return frame


def make_clip(
    path, *, sound="aac", rate=48000, container=None, codec="libx264", aspect=1, title=""
):
    """Write five frames, and a sine as the sound unless `sound` is empty."""
    with av.open(str(path), "w", format=container) as clip:
        clip.metadata["title"] = title
        stream = clip.add_stream(codec, rate=20, options={"crf": "8"})
        stream.height, stream.width = SHAPE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if codec == "libx264":
            stream.codec_context.time_base = UNIT
        track = clip.add_stream(sound, rate=rate) if sound else None
        if track:
            track.bit_rate = 64_000
        for number, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(pixels(number), format="rgb24")
            if codec == "libx264":
                frame.pts, frame.time_base = time, UNIT
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())
        if track:
            wave = 0.3 * np.sin(np.arange(rate // 4, dtype=np.float32) / 20)[None]
            one = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            one.sample_rate, one.pts = rate, 0
            clip.mux(track.encode(one))
            clip.mux(track.encode())


def make_sound(path):
    """Write a file with sound alone."""
    with av.open(str(path), "w") as clip:
        track = clip.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        clip.mux(track.encode(frame))
        clip.mux(track.encode())


def sound_of(path):
    """Return the packets of the sound: times in seconds, and bytes."""
    with av.open(str(path)) as clip:
        packets = list(clip.demux(clip.streams.audio)) if clip.streams.audio else []
        return [(x.pts * x.time_base, bytes(x)) for x in packets if x.size]
