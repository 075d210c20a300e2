"""A film: the frames of a video or of files as the contents, and a video of the results."""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.markup import escape

from nst_jax.cli.batch_plan import BatchJob, plan_job
from nst_jax.cli.console import print_header, size_text
from nst_jax.cli.flags import EXIT_FAILURE, EXIT_USAGE
from nst_jax.cli.manifest import film_note
from nst_jax.cli.names import check_apart, check_folder
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import make_console, warn
from nst_jax.config import Config
from nst_jax.errors import InputError, check_installed
from nst_jax.geometry import fit
from nst_jax.io.arrays import rounded
from nst_jax.io.files import check_writable
from nst_jax.io.images import load_image
from nst_jax.io.video import (
    FILM_SUFFIX,
    RATE,
    VIDEO_SUFFIXES,
    Clock,
    Frame,
    read_clock,
    read_video,
    sound_left_out,
    write_video,
)


class Film(NamedTuple):
    """A film to paint.

    Attributes:
      video: the path of the content; None: the contents are files of frames.
      output: the video to write, or a folder for the painted frames alone.
    """

    video: str | None
    output: Path

    @property
    def is_written(self) -> bool:
        """Whether the output is a video."""
        return self.output.suffix.lower() == FILM_SUFFIX and not self.output.is_dir()

    @property
    def frames(self) -> Path:
        """The folder of the painted frames."""
        return self.output.with_suffix(".frames") if self.is_written else self.output


def find_film(options: JobOptions) -> Film | None:
    """Return the film of a command; None if neither its content nor its output is a video.

    Raises:
      InputError: if another option does not go with the film, or the output cannot be written.
    """
    videos = [path for path in options.content if _is_video(path)]
    written = options.sequence and options.output and _is_video(options.output)
    if not (videos or written):
        if options.fps:
            raise InputError(
                f"--fps is {options.fps:g}, which is for --sequence with a video as --output"
            )
        return None
    video = videos[0] if videos else None
    if video:
        _check_video(video, options)
    if jax.process_count() > 1:
        raise InputError("a film is for one process, as each frame needs the one before it")
    film = Film(video, Path(options.output or f"stylized{FILM_SUFFIX}"))
    _check_output(film, options)
    flag = f"--content {video}" if video else f"--output {film.output}"
    check_installed(flag, "av", extra="film")
    return film


def _is_video(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES and not os.path.isdir(path)


def _check_video(video: str, options: JobOptions) -> None:
    """Raise InputError if an option does not go with a video as the content."""
    if len(options.content) > 1:
        raise InputError(f"the video {video} is painted alone; leave the other contents out")
    if not options.sequence:
        raise InputError(f"--content {video} is a video; add --sequence to paint its frames")
    if options.fps:
        raise InputError(f"--fps is {options.fps:g}, but the video {video} has times; leave it out")


def _check_output(film: Film, options: JobOptions) -> None:
    """Raise InputError if the output cannot be written, or is a finished film."""
    output = film.output
    if output.suffix and not film.is_written and not output.is_dir():
        raise InputError(
            f"--output is {str(output)!r}; its name must end in {FILM_SUFFIX}, or be that of a "
            "folder, without a dot"
        )
    if film.is_written:
        check_apart("--output", output, [film.video] if film.video else [])
        check_writable(output, what="the video")
        if options.pairs:
            raise InputError("--pairs makes a film for each style; leave it out, or name a folder")
    check_folder(film.frames, [])
    begun = any(film.frames.glob(f"*{options.suffix}"))
    if film.is_written and output.exists() and not begun and not options.overwrite:
        raise InputError(
            f"--output {output} is there already; give --overwrite to paint anew, or another name"
        )


def paint_film(
    film: Film,
    options: JobOptions,
    asked: Config,
    *,
    paint: Callable[[BatchJob, JobOptions], int],
) -> int:
    """Paint the frames of a film, and write them as a video; return the exit code.

    The painted frames stay in their folder until all are there.

    Args:
      film: from `find_film`.
      options: the options of the command.
      asked: the settings.
      paint: paints the pictures of a job; returns the exit code.

    Raises:
      InputError: if the video cannot be read, its first frame cannot be painted, or the frames of a
        film have several sizes.
    """
    console = make_console(quiet=options.quiet)
    options = replace(options, output=str(film.frames))
    rate = Fraction(options.fps or RATE).limit_denominator(1001)
    clock, times = Clock(rate, 1 / rate), None
    with contextlib.ExitStack() as stack:
        if film.video:
            clock, lost = read_clock(film.video), film.is_written and sound_left_out(film.video)
            if lost:
                warn(f"{film.output} is without the sound {', '.join(lost)}, which MP4 cannot hold")
            folder = stack.enter_context(_folder_in(film.frames))
            options = replace(options, content=[str(folder)])
            with console.status(f"reading {escape(film.video)}"):
                times = _read(film.video, folder, options, asked)
            text = f"{film.video}, {len(times)} frames, {float(clock.rate):.5g} in a second"
            print_header(console, [("video", text)])
        job = plan_job(options, asked, warn=warn)
        if film.is_written:
            _check_sizes(job)
        code = paint(job, options)
        if code or options.dry_run or not film.is_written:
            if film.is_written and code in (EXIT_FAILURE, EXIT_USAGE):
                why = f"for these reasons; the frames are in {film.frames}"
                warn(f"{film.output} is not written, {why}")
            return code
        contents = [film.video] if film.video else [picture.content for picture in job.pictures]
        code = _write(film, job, contents, clock, times)
    if not code:
        console.print(escape(f"wrote    {film.output}, {len(job.pictures)} frames"))
    return code


def _write(
    film: Film,
    job: BatchJob,
    contents: Sequence[str],
    clock: Clock,
    times: Sequence[Fraction] | None,
) -> int:
    """Write the painted frames as a video, and remove their files; return the exit code."""
    pictures = [picture.output for picture in job.pictures]
    shown = times or [number / clock.rate for number in range(len(pictures))]
    frames = map(Frame, map(_pixels, pictures), shown)
    note = film_note(pictures, contents)
    try:
        write_video(film.output, frames, clock=clock, sound=film.video, note=note)
    except Exception as error:  # codecs raise any
        warn(f"error: cannot write {film.output}: {error}; its frames are in {film.frames}")
        return EXIT_FAILURE
    _remove(pictures, film.frames)
    return 0


def _check_sizes(job: BatchJob) -> None:
    """Raise InputError if the frames of a film have several sizes."""
    shapes = list(dict.fromkeys(each.shape for each in job.todo))
    if len(shapes) > 1:
        raise InputError(
            f"the frames have {size_text(shapes[0])} and {size_text(shapes[1])} px; give frames of "
            "one size, or name a folder as --output"
        )


@contextlib.contextmanager
def _folder_in(frames: Path) -> Iterator[Path]:
    """Yield an empty folder in that of the painted frames, for those of the video."""
    folder = frames / ".video"
    shutil.rmtree(folder, ignore_errors=True)  # a killed run has left it
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        _remove([], frames)


def _remove(files: Iterable[Path], folder: Path) -> None:
    """Remove files, and their folder if it has no others."""
    for file in files:
        file.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _read(video: str, folder: Path, options: JobOptions, asked: Config) -> list[Fraction]:
    """Write the frames of a video as files; return their times.

    Raises:
      InputError: if the video cannot be read, or its first frame cannot be painted.
    """
    times = []
    for frame in read_video(video):
        times.append(frame.time)
        image = _small(Image.fromarray(frame.pixels), asked)
        image.save(folder / f"{len(times):06}.png", compress_level=1)
        if len(times) == 1 and (faults := plan_job(options, asked, warn=lambda _: None).faults):
            raise InputError(faults[0])
    return times


def _small(image: Image.Image, asked: Config) -> Image.Image:
    """Return a frame as `load_image` resizes it, if that is smaller, since the files are many."""
    size = functools.partial(fit, size=asked.size, side=asked.side)
    shape = size(image.height, image.width)
    if shape < (image.height, image.width) and size(*shape) == shape:
        return image.resize(shape[::-1], Image.Resampling.LANCZOS)
    return image


def _pixels(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    return rounded(load_image(path))
