"""A film of the picture as it forms, with even steps of perceived change."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from nst_jax.cli.names import check_apart, check_suffix
from nst_jax.color import to_oklab
from nst_jax.errors import check_installed
from nst_jax.geometry import Shape, fit
from nst_jax.io import video
from nst_jax.io.arrays import rounded
from nst_jax.io.files import atomic_write, check_writable
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot

# By the suffix: Pillow's format, and how it is written. Films in MP4 are written by PyAV.
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".gif": ("GIF", {}),
    ".webp": ("WEBP", {"quality": 90}),
    ".apng": ("PNG", {}),
}
_MP4 = ".mp4"
_SUFFIXES = (*_FORMATS, _MP4)
_FRAMES, _RATE, _HELD = 75, 25, 25  # frames of the film; frames a second; repeats of the last
_KEPT = 300  # most frames in memory
_APART = 6  # steps between two frames, at least; shorter calls to the device take more time
_MOST = 512  # px; the longest side
Frame = UInt8[np.ndarray, "height width 3"]


def check_timelapse(path: Path, others: Collection[str | Path]) -> None:
    """Raise InputError if `path` cannot be written, is another image, or a package is missing."""
    check_suffix("--timelapse", path, _SUFFIXES)
    check_writable(path, what="the timelapse")
    check_apart("--timelapse", path, others)
    if path.suffix.lower() == _MP4:
        check_installed(f"--timelapse={path}", "av", extra="film")


def every(steps: int) -> int:
    """Return how many steps apart the frames of a run are taken; the film fades between them."""
    return max(_APART, round(steps / _FRAMES))


class Frames:
    """The frames of a run, each of the size of the film.

    Args:
      shape: (height, width) of the picture at the last scale.
    """

    def __init__(self, shape: Shape):
        self._shape = fit(*shape, min(_MOST, max(shape)), side="longest")
        self._frames: list[Frame] = []

    def watch(self, snapshots: Iterable[Snapshot[Losses]]) -> Iterator[Snapshot[Losses]]:
        """Yield the snapshots; keep a frame of each."""
        for snapshot in snapshots:
            if snapshot.finite:
                self.add(np.asarray(snapshot.image))
            yield snapshot

    def add(self, picture: Float[np.ndarray, "_ _ 3"]) -> None:
        """Keep a frame; if there are too many, keep every second one."""
        height, width = self._shape
        image = Image.fromarray(rounded(picture))
        self._frames.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
        if len(self._frames) > _KEPT:
            self._frames = self._frames[::2]

    def film(self) -> list[Frame]:
        """Return the frames of the film; from each to the next the change is about the same.

        Between the frames of the run the film fades.
        """
        seen = (np.asarray(to_oklab(frame / np.float32(255))) for frame in self._frames)
        changes = [float(np.abs(b - a).mean()) for a, b in itertools.pairwise(seen)]
        so_far = np.concatenate([[0], np.cumsum(changes)])
        if not so_far[-1]:
            return self._frames[-1:]
        places = np.interp(np.linspace(0, so_far[-1], _FRAMES), so_far, np.arange(len(so_far)))
        return [self._between(float(place)) for place in places]

    def _between(self, place: float) -> Frame:
        """Return the frame at a place, which may lie between two frames of the run."""
        first = int(place)
        last = min(first + 1, len(self._frames) - 1)
        a, b = self._frames[first].astype(np.float32), self._frames[last]
        blend: Frame = np.rint(a + (place - first) * (b - a)).astype(np.uint8)
        return blend


def save_timelapse(path: Path, film: Sequence[Frame]) -> str:
    """Write a film, whose last frame stays for a second; return the fault, or an empty text."""
    write: Callable[[Path, Sequence[Frame]], None]
    write = _write_mp4 if path.suffix.lower() == _MP4 else _write_images
    try:
        with atomic_write(path) as temporary:
            write(temporary, film)
    except Exception as error:  # codecs raise any
        return f"cannot write the timelapse {path}: {error}"
    return ""


def _write_images(path: Path, film: Sequence[Frame]) -> None:
    codec, options = _FORMATS[path.suffix.lower()]
    images = [Image.fromarray(frame) for frame in film]
    if codec == "GIF":  # 256 colors, a hundred times as fast as Pillow's own choice of them
        images = [image.quantize(256, method=Image.Quantize.FASTOCTREE) for image in images]
    first, *others = images
    times = [1000 // _RATE] * len(others) + [1000 * _HELD // _RATE]
    first.save(
        path,
        format=codec,
        save_all=True,
        append_images=others,
        duration=times,
        loop=0,
        **options,
    )


def _write_mp4(path: Path, film: Sequence[Frame]) -> None:
    shown = [*film, *[film[-1]] * _HELD]
    frames = (video.Frame(pixels, Fraction(i, _RATE)) for i, pixels in enumerate(shown))
    video.write_video(path, frames, clock=video.Clock(Fraction(_RATE), Fraction(1, _RATE)))
