"""Paint many pictures: those of one shape in batches, or frames one after the other."""

import argparse
import functools
import operator
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape

from nst_jax.beginning import first_picture
from nst_jax.config import Config
from nst_jax.errors import InputError
from nst_jax.flags import EXIT_FAILURE, EXIT_USAGE, arithmetic_line
from nst_jax.forecast import settle
from nst_jax.images import image_shape, load_image, save_image
from nst_jax.pictures import (
    Batch,
    Picture,
    batch_size,
    batches,
    check_folder,
    expand,
    load_style,
    name_pictures,
    no_batch,
    pair,
)
from nst_jax.planning import check_inputs, count_steps, plan, style_shape
from nst_jax.pyramid import Shape, fit, resample
from nst_jax.running import Snapshot
from nst_jax.session import (
    SECONDS,
    complain,
    devices_text,
    follow,
    is_out_of_memory,
    load_weights,
    network_of,
    print_forecast,
    print_header,
    save_or_rescue,
    scales_text,
    size_text,
    stop_signals,
    warn_if_untrained,
)
from nst_jax.sharding import find_devices
from nst_jax.transfer import stylize
from nst_jax.vgg import VGG19

# A content image, its styles and its start, as they are loaded.
_Inputs = tuple[np.ndarray, list[np.ndarray], np.ndarray | None]
_SIZES = 5  # at most so many are listed


class Measured(NamedTuple):
    """A picture to paint, and the (height, width) in px of its images as they will be loaded."""

    picture: Picture
    shape: Shape
    styles: tuple[Shape, ...]


class Job(NamedTuple):
    """What is to be done.

    Attributes:
      pictures: all, in order.
      todo: those that are to be painted.
      saved: the files of those that are finished; what is painted is added.
      faults: a line on each file that cannot be used; its pictures are not among those to paint.
      folder: where the pictures go.
    """

    pictures: list[Picture]
    todo: list[Measured]
    saved: set[Path]
    faults: list[str]
    folder: Path


def plan_job(flags: argparse.Namespace, config: Config) -> Job:
    """Find out everything that a user can get wrong before the work starts.

    Raises:
      InputError: if something is wrong, other than with single files.
    """
    contents, styles = expand(flags.content, role="content"), expand(flags.style, role="style")
    if config.style_blend and flags.pairs:
        raise InputError(
            "style-blend is for a blend of all styles, but with --pairs every picture has one "
            "style; leave one of the two out"
        )
    if config.style_blend and len(config.style_blend) != len(styles):
        raise InputError(
            f"style-blend has {len(config.style_blend)} shares, but the number of styles is "
            f"{len(styles)}; give one for each"
        )
    which = "--sequence" if flags.sequence else no_batch(config)
    if flags.batch and flags.batch > 1 and which:
        raise InputError(
            f"--batch is {flags.batch}, but {which} takes one picture at a time; leave it out"
        )
    folder = Path(flags.output or "stylized")
    pictures = name_pictures(pair(contents, styles, flags.pairs), folder)
    start = [flags.start_image] if flags.start_image else []
    check_folder(folder, [*contents, *styles, *start])
    for path in start:
        image_shape(path)
    outputs = [] if flags.overwrite else [picture.output for picture in pictures]
    job = Job(pictures, [], {path for path in outputs if path.exists()}, [], folder)
    shape_of = functools.cache(image_shape)
    for picture in pictures:
        if picture.output not in job.saved:
            try:
                job.todo.append(_measured(picture, config, shape_of))
            except InputError as error:
                job.faults.append(str(error))
    return job


def _measured(picture: Picture, config: Config, shape_of: Callable[[str], Shape]) -> Measured:
    one_style, looks = replace(config, style_blend=()), []
    with _blamed(picture.content):
        shape = fit(*shape_of(picture.content), config.size, side=config.side)
        check_inputs(_blank(shape), [], one_style)
    for path in picture.styles:
        with _blamed(path):
            looks.append(style_shape(shape_of(path), shape, config))
            check_inputs(_blank(shape), [_blank(looks[-1])], one_style)
    return Measured(picture, shape, tuple(looks))


def _blank(shape: Shape) -> Float[np.ndarray, "height width 3"]:
    return np.broadcast_to(np.float32(0), (*shape, 3))  # takes no memory


@contextmanager
def _blamed(path: str) -> Iterator[None]:
    """See to it that an InputError names the file."""
    try:
        yield
    except InputError as error:
        if path in str(error):
            raise
        raise InputError(f"{path}: {error}") from None


def paint_many(job: Job, flags: argparse.Namespace, config: Config) -> int:
    """Paint and save the pictures; return the exit code."""
    console = Console(quiet=flags.quiet, highlight=False, soft_wrap=True)
    faults = dict.fromkeys(job.faults, EXIT_USAGE)  # once for a file that is in several pictures
    if not job.todo:
        print_header(console, [("pictures", _count_text(job))])
        return _end(faults, len(job.saved))

    devices = find_devices(flags.devices)
    largest = max(job.todo, key=lambda each: each.shape[0] * each.shape[1])
    config = settle(
        lambda size: fit(*largest.shape, size, side=config.side),
        largest.styles,
        config=config,
        batch=flags.batch if (flags.batch or 1) > 1 else 0,
        devices=1,
    )

    def most(key: tuple[Shape, tuple[Shape, ...]]) -> int:
        return flags.batch or batch_size(*key, config=config, devices=len(devices))

    parts = [Batch((number,), 1) for number in range(len(job.todo))]
    if not flags.sequence:
        parts = batches([(each.shape, each.styles) for each in job.todo], most)
    weights = None if flags.dry_run else load_weights(flags, config)
    rows = [
        ("device", devices_text(devices)),
        ("pictures", _count_text(job)),
        *(("size", text) for text in _size_texts(job, parts, config)),
        *([("weights", weights.origin)] if weights else []),
        ("recipe", f"preset {flags.preset}, {config.optimizer}"),
    ]
    if flags.sequence:
        rows.append(("frames", f"from the result before, {config.steps} steps at the last scale"))
    print_header(console, rows)
    console.print(arithmetic_line(config))
    if not weights:
        console.print("one picture of the largest size takes")
        print_forecast(console, largest.shape, largest.styles, config)
        return _end(faults, 1)
    warn_if_untrained(weights)
    job.folder.mkdir(exist_ok=True)
    with stop_signals() as received:
        network = network_of(weights, config)
        painter = _Painter(job, network, config, flags, console, received, faults)
        for part in parts:
            painter.paint([job.todo[number] for number in part.members], part.size)
            if received:
                break
    warn_if_untrained(weights)
    done, total = len(job.saved), len(job.pictures)
    console.print(escape(f"done     {done} of {total} pictures are in {job.folder}"))
    code = _end(faults, done)
    if received:
        how = " without --overwrite" if flags.overwrite else ""
        complain(
            f"stopped by {signal.Signals(received[0]).name}: {done} of {total} pictures are done; "
            f"the same command{how} goes on with the others"
        )
        return 128 + received[0]
    return code


def _end(faults: dict[str, int], done: int) -> int:
    """Report what went wrong; return the exit code."""
    for line in faults:
        complain(f"error: {line}")
    if not faults:
        return 0
    return EXIT_FAILURE if done else min(faults.values())


def _count_text(job: Job) -> str:
    total, finished = len(job.pictures), len(job.saved)
    text = f"{len(job.todo)} of {total} to paint, in {job.folder}"
    if finished:
        text += f"; skipping {finished} finished before (--overwrite paints them anew)"
    if total > finished + len(job.todo):
        text += f"; {total - finished - len(job.todo)} cannot be painted, see the end"
    return text


def _size_texts(job: Job, parts: Sequence[Batch], config: Config) -> Iterator[str]:
    """Yield a line for each size of the pictures, or, of many, for the first ones."""
    counts: dict[Shape, tuple[int, int]] = {}
    for part in parts:
        shape = job.todo[part.members[0]].shape
        count, size = counts.get(shape, (0, 0))
        counts[shape] = count + len(part.members), max(size, part.size)
    for shape, (count, size) in islice(counts.items(), _SIZES):
        scales = scales_text(plan(*shape, config))
        yield f"{size_text(shape)} px: {count} to paint, {size} at once; scales {scales}"
    if len(counts) > _SIZES:
        yield f"and {len(counts) - _SIZES} others"


@dataclass
class _Painter:
    """Paints one batch after the other, and keeps what is done and what went wrong."""

    job: Job
    network: VGG19
    config: Config
    flags: argparse.Namespace
    console: Console
    received: Sequence[int]
    faults: dict[str, int]

    def paint(self, members: Sequence[Measured], size: int) -> None:
        """Paint pictures of one shape at once; where that fails, each alone.

        Args:
          members: the pictures.
          size: of the batch; it is filled up by repeating the last picture.
        """
        loaded, inputs = [], []
        before = self._before(members[0].picture) if self.flags.sequence else None
        config = replace(self.config, min_size=0) if before else self.config
        for each in members:
            try:
                inputs.append(self._load(each, before, alone=size == 1))
                loaded.append(each)
            except InputError as error:
                self.faults[str(error)] = EXIT_USAGE
        if not loaded:
            return
        inputs += inputs[-1:] * (size - len(inputs))
        began = time.perf_counter()
        last = fault = None
        try:
            last = self._follow(loaded, inputs, config)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fault = f"out of memory at {size_text(loaded[0].shape)} px"
            advice = "a smaller --size"
        if last and not last.finite:
            fault = f"the loss became infinite or not a number by step {last.step}"
            advice = f"a smaller --learning-rate than {config.learning_rate}"
        if fault and size > 1:
            complain(f"{fault}, {size} pictures at once; going on with each alone")
            for each in loaded:
                if not self.received:
                    self.paint([each], 1)
        elif fault:
            self.faults[f"{loaded[0].picture.output}: {fault}; give {advice}"] = EXIT_FAILURE
        elif last and last.step == count_steps(*loaded[0].shape, config):  # else it was stopped
            self._save(loaded, last, time.perf_counter() - began)

    def _before(self, picture: Picture) -> Path | None:
        """Return the last result before a frame."""
        frames = self.job.pictures[: self.job.pictures.index(picture)]
        outputs = (frame.output for frame in reversed(frames) if frame.run == picture.run)
        return next((output for output in outputs if output in self.job.saved), None)

    def _load(self, each: Measured, before: Path | None, *, alone: bool) -> _Inputs:
        picture, shape = each.picture, each.shape
        with _blamed(picture.content):
            content = load_image(picture.content, shape=shape)
        styles = []
        for path in picture.styles:
            with _blamed(path):
                styles.append(load_style(path, shape, self.config))
        start = before or self.flags.start_image
        if start:
            return content, styles, load_image(start, shape=shape)
        if alone or self.config.start == "content":
            return content, styles, None
        return content, styles, _start_of(shape, styles, self.config)

    def _follow(
        self, members: Sequence[Measured], inputs: Sequence[_Inputs], config: Config
    ) -> Snapshot:
        contents, styles, starts = zip(*inputs, strict=True)
        done, total = len(self.job.saved), len(self.job.pictures)
        alone = len(inputs) == 1
        stack = operator.itemgetter(0) if alone else np.stack
        snapshots = stylize(
            stack(contents),
            [stack(images) for images in zip(*styles, strict=True)],
            network=self.network,
            config=config,
            start=None if starts[0] is None else stack(starts),
            snapshot_every=self.flags.save_every,
            snapshot_seconds=SECONDS,
            devices=self.flags.devices,
        )

        def save(snapshot: Snapshot, step: str) -> None:
            for each, image in zip(members, _images(snapshot), strict=False):
                folder = each.picture.output.with_suffix("")
                folder.mkdir(exist_ok=True)
                save_image(folder / f"{step}.png", image)

        numbers = f"{done + 1}" if len(members) == 1 else f"{done + 1}-{done + len(members)}"
        return follow(
            snapshots,
            plan(*members[0].shape, config),
            console=self.console,
            received=self.received,
            save_every=self.flags.save_every,
            save=save,
            label=f"{numbers} of {total}",
        )

    def _save(self, members: Sequence[Measured], last: Snapshot, seconds: float) -> None:
        names = []
        for each, image in zip(members, _images(last), strict=False):  # without what fills it up
            output = each.picture.output
            if fault := save_or_rescue(output, image):
                self.faults[fault] = EXIT_FAILURE
            else:
                self.job.saved.add(output)
                names.append(str(output))
        done, total = len(self.job.saved), len(self.job.pictures)
        if names:
            line = f"wrote    {', '.join(names)} in {seconds:.1f} s, {done} of {total}"
            self.console.print(escape(line))


def _images(snapshot: Snapshot) -> Float[np.ndarray, "batch height width 3"]:
    images = np.asarray(snapshot.image)
    return images if images.ndim == 4 else images[None]


def _start_of(shape: Shape, styles: Sequence[np.ndarray], config: Config) -> np.ndarray:
    """Draw a picture's beginning as `stylize` does for one: not of what else is in the batch."""
    small, _ = plan(*shape, config)[0]
    kind = config.image_dtype
    looks = []
    for style in styles:
        look = resample(jnp.asarray(style, kind), style_shape(style.shape[:2], small, config))
        looks.append(jnp.clip(look, 0, 1))
    blank = jnp.zeros((*small, 3), kind)
    return np.asarray(first_picture(blank, looks, None, replace(config, start_blend=1.0)))
