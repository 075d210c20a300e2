"""Paint many pictures: those of one shape in batches, or frames one after the other."""

import argparse
import functools
import math
import operator
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape

from nst_jax.cli.batch_plan import (
    Batch,
    Job,
    Measured,
    Picture,
    batch_size,
    batches,
    blamed,
    provenance_of,
    skip_finished,
)
from nst_jax.cli.console import (
    SECONDS,
    complain,
    devices_text,
    follow,
    is_out_of_memory,
    network_of,
    not_finite,
    print_forecast,
    print_header,
    run_weights,
    save_or_rescue,
    scales_text,
    size_text,
    stop_signals,
    warn_of_network,
    weights_text,
)
from nst_jax.cli.flags import EXIT_FAILURE, EXIT_USAGE, arithmetic_line
from nst_jax.cli.output import make_console
from nst_jax.config import Config
from nst_jax.distributed.collectives import exchange, is_first, tell, told
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, fit, resample
from nst_jax.io.images import load_image, save_image
from nst_jax.io.provenance import Provenance, write_provenance
from nst_jax.network.vgg import VGG
from nst_jax.transfer.estimate import settle
from nst_jax.transfer.initial_image import first_picture
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import count_steps, plan, style_shape
from nst_jax.transfer.stylize import stylize

# A content image, its styles and its start, as they are loaded.
_Inputs = tuple[np.ndarray, list[np.ndarray], np.ndarray | None]
_SIZES = 5  # at most so many are listed


def paint_many(job: Job, flags: argparse.Namespace, config: Config, devices: Sequence[Any]) -> int:
    """Paint and save the pictures on this process's devices; return the exit code."""
    console = make_console(quiet=flags.quiet)
    weights = None
    if not flags.dry_run:
        weights, config = run_weights(flags, config)
    made_from = provenance_of(job, weights)
    if not flags.overwrite:
        job = skip_finished(job, made_from)
    faults = dict.fromkeys(job.faults, EXIT_USAGE)  # once for a file that is in several pictures
    if not job.todo:
        print_header(console, [("pictures", _count_text(job))])
        return _end(faults, len(job.saved))

    largest = max(job.todo, key=lambda each: each.shape[0] * each.shape[1])
    config = settle(
        lambda size: fit(*largest.shape, size, side=config.side),
        largest.styles,
        config=config,
        batch=flags.batch if (flags.batch or 1) > 1 else 0,
        devices=1,
    )

    fair = math.ceil(len(job.todo) / jax.process_count())

    def most(key: tuple[Shape, tuple[Shape, ...]]) -> int:
        size = flags.batch or batch_size(*key, config=config, devices=len(devices))
        return int(min(size, fair))

    parts = [Batch((number,), 1) for number in range(len(job.todo))]
    if not flags.sequence:
        parts = batches([(each.shape, each.styles) for each in job.todo], most)
    parts, own = _share(job, parts, runs=flags.sequence)
    rows = [
        ("device", devices_text(devices)),
        ("pictures", _count_text(job)),
        *(("size", text) for text in _size_texts(job, parts, config)),
        *([("weights", weights_text(weights))] if weights else []),
        ("recipe", f"preset {flags.preset}, {config.optimizer}"),
    ]
    if flags.sequence:
        rows.append(("frames", f"from the result before, {config.steps} steps at the last scale"))
    mine = sum(len(part.members) for part in own)
    if jax.process_count() > 1:
        rows.append(("shared", f"by {jax.process_count()} processes, this one paints {mine}"))
    print_header(console, rows)
    console.print(arithmetic_line(config))
    if not weights:
        console.print("one picture of the largest size takes")
        print_forecast(console, largest.shape, largest.styles, config)
        return _end(faults, 1)
    if is_first():
        warn_of_network(weights, flags.preset)
    job.folder.mkdir(exist_ok=True)
    with stop_signals() as received:
        stopped = functools.partial(_stop_signal, received)
        network = network_of(weights, config)
        last = len(job.pictures) - len(job.todo) + mine
        painter = _Painter(
            job, network, config, flags, devices, console, made_from, stopped, faults, last
        )
        for part in own:
            painter.paint([job.todo[number] for number in part.members], part.size)
            if stopped():
                break
        found = [faults, [str(path) for path in job.saved]]
        for theirs, saved in exchange("found", found, meanwhile=stopped):
            faults.update(theirs)
            job.saved.update(map(Path, saved))
        signum = stopped()
    if is_first():
        warn_of_network(weights, flags.preset)
    done, total = len(job.saved), len(job.pictures)
    console.print(escape(f"done     {done} of {total} pictures are in {job.folder}"))
    code = _end(faults, done)
    if signum and is_first():
        how = " without --overwrite" if flags.overwrite else ""
        complain(
            f"stopped by {signal.Signals(signum).name}: {done} of {total} pictures are done; "
            f"the same command{how} goes on with the others"
        )
    return 128 + signum if signum else code


def _share(job: Job, parts: Sequence[Batch], *, runs: bool) -> tuple[list[Batch], list[Batch]]:
    """Return the parts of the job, and those that this process paints: they take turns.

    Args:
      job: the same in all processes.
      parts: as this process would have them; its memory may be another.
      runs: frames of one run are for one process.
    """
    agreed = exchange("parts", parts)[0]
    parts = [Batch(tuple(members), size) for members, size in agreed]
    turns = [job.todo[part.members[0]].picture.run for part in parts] if runs else range(len(parts))
    count, own = jax.process_count(), jax.process_index()
    return parts, [part for turn, part in zip(turns, parts, strict=True) if turn % count == own]


def _stop_signal(received: Sequence[int]) -> int:
    """Return the signal that told this process to stop, or another; 0: none did."""
    if received:
        tell("stop", received[0])
        return received[0]
    return told("stop")


def _end(faults: dict[str, int], done: int) -> int:
    """Report what went wrong; return the exit code."""
    for line in faults if is_first() else ():
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
        text += f"; {total - finished - len(job.todo)} will not be painted, see the end"
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
    """Paints one batch after the other, and keeps what is done and what went wrong.

    Attributes:
      total: how many pictures will be done, of several processes by this one, in the end.
    """

    job: Job
    network: VGG
    config: Config
    flags: argparse.Namespace
    devices: Sequence[Any]
    console: Console
    made_from: Callable[[Picture], Provenance]
    stopped: Callable[[], int]
    faults: dict[str, int]
    total: int

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
            fault, advice = not_finite(last, config)
        if fault and size > 1:
            complain(f"{fault}, {size} pictures at once; going on with each alone")
            for each in loaded:
                if not self.stopped():
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
        with blamed(picture.content):
            content = load_image(picture.content, shape=shape)
        styles = []
        for path, look in zip(picture.styles, each.styles, strict=True):
            with blamed(path):
                styles.append(load_image(path, shape=look))
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
        done, total = len(self.job.saved), self.total
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
            devices=self.devices,
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
            stopped=lambda: bool(self.stopped()),
            save_every=self.flags.save_every,
            save=save,
            label=f"{numbers} of {total}",
        )

    def _save(self, members: Sequence[Measured], last: Snapshot, seconds: float) -> None:
        names = []
        for each, image in zip(members, _images(last), strict=False):  # without what fills it up
            output = each.picture.output
            note = write_provenance(self.made_from(each.picture))
            if fault := save_or_rescue(output, image, note=note):
                self.faults[fault] = EXIT_FAILURE
            else:
                self.job.saved.add(output)
                names.append(str(output))
        done, total = len(self.job.saved), self.total
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
