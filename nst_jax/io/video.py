"""Read and write videos, one frame at a time, by PyAV (the extra `film`)."""

import contextlib
import heapq
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from nst_jax.errors import InputError
from nst_jax.io.files import atomic_write

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv"),
)
FILM_SUFFIX = ".mp4"  # of the videos that are written
RATE = Fraction(25)  # frames a second, where a file does not say
_BT709, _STUDIO = 1, 1  # FFmpeg's numbers of the standard BT.709, and of the range 16 to 235


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
      pixels: sRGB, 8 bits per color.
      time: when it is shown, in seconds.
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    time: Fraction


class Clock(NamedTuple):
    """The clock of a video: frames a second, on average, and the unit of its times in seconds."""

    rate: Fraction
    unit: Fraction


def read_clock(path: str) -> Clock:
    """Return the clock of a video.

    Raises:
      InputError: if the file cannot be read, or has no video.
    """
    with _opened(path) as container:
        return _clock(container.streams.video[0])


def read_video(path: str) -> Iterator[Frame]:
    """Yield the frames of a video as a player shows them: upright, and with square pixels.

    All have the size of the first. What comes first in the file, picture or sound, is at 0 s.

    Raises:
      InputError: if the file cannot be read, is damaged, or has no video.
    """
    with _opened(path) as container:
        stream, delay = container.streams.video[0], _delay(container)
        stream.thread_type = "AUTO"
        step, before, size = 1 / _clock(stream).rate, None, None
        for frame in container.decode(stream):
            aspect = stream.sample_aspect_ratio or 1
            size = size or (max(1, round(frame.width * aspect)), frame.height)
            pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
            time = None if frame.pts is None else frame.pts * frame.time_base - delay
            if before is not None and (time is None or time <= before):  # a file may be wrong
                time = before + step
            before = time or Fraction(0)
            yield Frame(np.rot90(pixels, frame.rotation // 90), before)
        if size is None:
            raise InputError(f"cannot read the video {path!r}: it has no frame; give another file")


def write_video(
    path: Path, frames: Iterable[Frame], *, clock: Clock, sound: str | None = None, note: str = ""
) -> None:
    """Write a video: H.264 in MP4, with 4:2:0 chroma, which H.264 decoders expect everywhere.

    Of a side with an odd number of px the last px is left out: 4:2:0 takes even sides. The file is
    replaced in one step.

    Args:
      path: the file, which ends in .mp4.
      frames: at least one, all of one size.
      clock: its unit divides the times of the frames.
      sound: a video whose sound is copied, as far as MP4 holds it (see `sound_left_out`).
      note: text for `video_note` to read.
    """
    import av

    with atomic_write(path) as temporary, contextlib.ExitStack() as stack:
        video = stack.enter_context(av.open(str(temporary), "w"))
        video.metadata["comment"] = note
        stream = video.add_stream("libx264", rate=clock.rate, options={"crf": "18"})
        tracks = [_encoded(stream, frames, clock)]
        if sound:
            source = stack.enter_context(_open(sound))
            tracks.append(_copied(source, video))
        for _, packet in heapq.merge(*tracks, key=lambda track: track[0]):
            video.mux(packet)


def video_note(path: str) -> str:
    """Return the note that `write_video` has put into a file; "" if there is none.

    Raises:
      InputError: if the file cannot be read, or has no video.
    """
    with _opened(path) as container:
        return str(container.metadata.get("comment", ""))


def sound_left_out(path: str) -> list[str]:
    """Return the names of the codecs of a video's sound that MP4 cannot hold.

    Raises:
      InputError: if the file cannot be read, or has no video.
    """
    with _opened(path) as container:
        lost = [x.codec_context for x in container.streams.audio if not _fits(x)]
    return [context.name if context else "unknown" for context in lost]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    import av

    try:
        with _open(path) as container:
            if not container.streams.video:
                raise InputError(f"{path!r} has no video stream; give a video, or image files")
            yield container
    except av.error.FFmpegError as error:
        raise InputError(
            f"cannot read the video {path!r}: {error.strerror}; give another file"
        ) from None


def _open(path: str) -> Any:
    import av

    return av.open(path, metadata_errors="replace")  # titles may be in any encoding


def _clock(stream: Any) -> Clock:
    return Clock(stream.average_rate or stream.guessed_rate or RATE, stream.time_base)


def _delay(container: Any) -> Fraction:
    """Return the time at which a file begins, in seconds: that of broadcasts is any."""
    import av

    return max(Fraction(0), Fraction(container.start_time or 0, av.time_base))


def _encoded(stream: Any, frames: Iterable[Frame], clock: Clock) -> Iterator[tuple[Fraction, Any]]:
    """Yield the packets of the frames, each after the time at which it is decoded."""
    import av

    stream.pix_fmt, stream.codec_context.time_base = "yuv420p", clock.unit
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _STUDIO
    height = width = 0

    def packets() -> Iterator[Any]:
        nonlocal height, width
        for pixels, time in frames:
            if not height:
                height, width = (side - side % 2 for side in pixels.shape[:2])
                stream.height, stream.width = height, width
            rgb = np.ascontiguousarray(pixels[:height, :width])
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range=_STUDIO
            )
            frame.pts, frame.time_base = round(time / clock.unit), clock.unit
            yield from stream.encode(frame)
        yield from stream.encode()

    return ((packet.dts * packet.time_base, packet) for packet in packets())


def _copied(source: Any, video: Any) -> Iterator[tuple[Fraction, Any]]:
    """Yield the packets of the sound, each after the time at which it is decoded."""
    streams = [stream for stream in source.streams.audio if _fits(stream)]
    copies = {stream.index: video.add_stream_from_template(stream) for stream in streams}
    delay = _delay(source)

    def packets(streams: Sequence[Any]) -> Iterator[tuple[Fraction, Any]]:
        last: dict[int, int] = {}
        for packet in source.demux(streams):
            index = packet.stream.index
            if packet.dts is None or packet.pts is None or packet.dts <= last.get(index, -math.inf):
                continue  # the end, or a damaged packet
            last[index] = packet.dts
            shift = round(delay / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copies[index]
            yield packet.dts * packet.time_base, packet

    return packets(streams) if streams else iter(())


def _fits(stream: Any) -> bool:
    """Return whether MP4 holds a stream of sound as it is."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (ValueError, AttributeError, av.error.FFmpegError):  # AttributeError: an unknown codec
        return False
    return True
