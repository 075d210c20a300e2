"""Paint many pictures: in batches of one shape, or as frames one after the other."""

import contextlib
import functools
import hashlib
import math
import operator
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape

from nst_jax.cli.batch_plan import (
    Batch,
    BatchJob,
    Planned,
    batch_size,
    batches,
    without_finished,
)
from nst_jax.cli.console import (
    SECONDS,
    devices_text,
    is_out_of_memory,
    not_finite,
    print_estimate,
    print_header,
    save_or_rescue,
    scales_text,
    show_progress,
    size_text,
    weights_text,
)
from nst_jax.cli.finished import provenance_of, skip_finished
from nst_jax.cli.flags import EXIT_FAILURE, EXIT_USAGE, arithmetic_line, in_flags
from nst_jax.cli.frames import Past, flow_of, moved
from nst_jax.cli.interrupts import stop_signals
from nst_jax.cli.manifest import ROLES, choices, make_manifest, note_of, save_beside
from nst_jax.cli.names import PictureFiles
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import make_console, warn, warn_from_first
from nst_jax.cli.run_network import network_of, run_weights, warn_of_network
from nst_jax.cli.sheet import save_sheet
from nst_jax.config import ResolvedConfig
from nst_jax.distributed.collectives import allgather_json, is_first, poll, post
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, Size, fit, resample
from nst_jax.io.arrays import digest
from nst_jax.io.checkpoint import CheckpointStore
from nst_jax.io.extras import load_extras
from nst_jax.io.images import image_shape, load_image, save_image
from nst_jax.io.provenance import Provenance
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.transfer.estimate import fit_to_memory
from nst_jax.transfer.initial_image import first_picture
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.saver import FREE
from nst_jax.transfer.schedule import Schedule, make_schedule, named
from nst_jax.transfer.stylize import stylize
from nst_jax.weights.converted_file import Weights

_SIZES = 5  # most sizes that the header lists


class _Inputs(NamedTuple):
    """The images of a picture.

    Attributes:
      content: the content image.
      styles: the style images.
      start: the first picture, if it is not that of the settings.
      previous: of a frame the result before, as it lies in this one.
      seen: where that counts.
    """

    content: np.ndarray
    styles: list[np.ndarray]
    start: np.ndarray | None = None
    previous: np.ndarray | None = None
    seen: np.ndarray | None = None


def paint_many(
    job: BatchJob, options: JobOptions, config: ResolvedConfig, devices: Sequence[Any]
) -> int:
    """Paint and save the pictures on this process's devices; return the exit code."""
    console = make_console(quiet=options.quiet)
    weights = None
    if not options.dry_run:
        weights, config = run_weights(options, config)
    made_from = provenance_of(job, weights, background=options.background, **options.form)
    every = job.todo
    if not options.overwrite:
        job = skip_finished(job, made_from)
    faults = dict.fromkeys(job.faults, EXIT_USAGE)  # a file of several pictures has one line
    if not job.todo:
        print_header(console, [("pictures", count_text(job))])
        faults |= save_sheet_of(job, options, job.finished)
        return end(faults, len(job.finished))

    job, config, parts = _plan(job, every, options, config, len(devices))
    parts, own = _share(job, parts, runs=options.sequence)
    _print_header(console, job, options, [*_size_texts(job, parts)], devices, weights, own)
    console.print(arithmetic_line(config))
    if not weights:
        console.print("one picture of the largest size takes")
        print_estimate(console, _largest(job).schedule, config)
        return end(faults, 1)
    warn_of_network(weights, options.preset)
    for folder in {each.picture.output.parent for each in job.todo}:
        folder.mkdir(parents=True, exist_ok=True)
    with stop_signals() as received:
        painter = _Painter(
            job,
            options,
            config,
            network_of(weights, config),
            devices,
            console,
            made_from,
            functools.partial(_stop_signal, received),
            faults,
            set(job.finished),
            len(job.pictures) - len(job.todo) + _count(own),
        )
        signum = painter.paint_all(own)
    warn_of_network(weights, options.preset)
    done, total = len(painter.saved), len(job.pictures)
    console.print(escape(f"done     {done} of {total} pictures are in {job.folder}"))
    faults |= save_sheet_of(job, options, painter.saved)
    code = end(faults, done)
    if signum:
        how = " without --overwrite" if options.overwrite else ""
        warn_from_first(
            f"stopped by {signal.Signals(signum).name}: {done} of {total} pictures are done; "
            f"the same command{how} goes on with the others"
        )
    return 128 + signum if signum else code


def save_sheet_of(job: BatchJob, options: JobOptions, saved: Collection[Path]) -> dict[str, int]:
    """Save the contact sheet of the finished pictures, if it was asked for; return its fault."""
    pictures = [picture for picture in job.pictures if picture.output in saved]
    if not (options.sheet and pictures and is_first()) or options.dry_run:
        return {}
    fault = save_sheet(Path(options.sheet), pictures, grid=options.pairs == "product")
    return {fault: EXIT_FAILURE} if fault else {}


def _plan(
    job: BatchJob,
    every: Sequence[Planned],
    options: JobOptions,
    config: ResolvedConfig,
    devices: int,
) -> tuple[BatchJob, ResolvedConfig, list[Batch]]:
    """Return the job, the settings with which it fits into memory, and its batches.

    With checkpoints the batches are those of the whole job, as a picture's last bits depend on its
    batch. A finished picture is then painted again in the company of one that is missing.

    Args:
      job: without the finished pictures.
      every: the pictures with those.
      options: the options of the command.
      config: the settings.
      devices: number of devices.
    """
    if options.checkpoint:
        known = {*job.finished, *(each.picture.output for each in job.todo)}
        job = job._replace(todo=tuple(each for each in every if each.picture.output in known))
    config = _fit(_largest(job), config, options)
    job, parts = without_finished(job, _batches(job, options, config, devices))
    return job, config, parts


def _largest(job: BatchJob) -> Planned:
    return max(job.todo, key=lambda each: math.prod(each.shape))


def _fit(largest: Planned, config: ResolvedConfig, options: JobOptions) -> ResolvedConfig:
    """Return the settings with which the largest picture fits into memory."""

    given = image_shape(largest.picture.content)

    def schedule_of(size: Size) -> Schedule:
        shape = fit(*given, size, side=config.side)
        return make_schedule(shape, largest.schedule.last.styles, config)

    asked = options.asked()
    config, _ = fit_to_memory(
        schedule_of,
        config=config,
        may_remat=asked.remat == "auto",
        batch=options.batch if options.batch and options.batch > 1 else 0,
    )
    return config


def _batches(
    job: BatchJob, options: JobOptions, config: ResolvedConfig, devices: int
) -> list[Batch]:
    """Return the batches of all pictures, as this process would make them."""
    if options.sequence:
        return [Batch((number,), 1) for number in range(len(job.todo))]
    fair = math.ceil(len(job.todo) / jax.process_count())
    plans = [each.schedule.last for each in job.todo]
    most = {
        plan: options.batch or batch_size(plan, config=config, devices=devices)
        for plan in dict.fromkeys(plans)
    }
    return batches(plans, lambda plan: min(most[plan], fair))


def _print_header(
    console: Console,
    job: BatchJob,
    options: JobOptions,
    sizes: Sequence[str],
    devices: Sequence[Any],
    weights: Weights | None,
    own: Sequence[Batch],
) -> None:
    steps = job.asked.steps
    rows = [
        ("device", devices_text(devices)),
        ("pictures", count_text(job)),
        *(("size", text) for text in sizes),
        *([("weights", weights_text(weights))] if weights else []),
        ("recipe", f"preset {options.preset}, {job.asked.optimizer}"),
    ]
    if options.sequence:
        rows.append(("frames", f"from the result before, {steps} steps at the last scale"))
    if jax.process_count() > 1:
        text = f"by {jax.process_count()} processes, this one paints {_count(own)}"
        rows.append(("shared", text))
    print_header(console, rows)


def _count(parts: Sequence[Batch]) -> int:
    return sum(len(part.members) for part in parts)


def _share(job: BatchJob, parts: Sequence[Batch], *, runs: bool) -> tuple[list[Batch], list[Batch]]:
    """Return the batches of the job, and those of this process: the processes take turns.

    Args:
      job: the same in all processes.
      parts: the batches as this process would make them; those of process 0 count, since the free
        memory of the processes may differ.
      runs: whether one process paints all frames of a run.
    """
    agreed = allgather_json("parts", parts)[0]
    parts = [Batch(tuple(members), size) for members, size in agreed]
    turns = [job.todo[part.members[0]].picture.run for part in parts] if runs else range(len(parts))
    count, own = jax.process_count(), jax.process_index()
    return parts, [part for turn, part in zip(turns, parts, strict=True) if turn % count == own]


def _stop_signal(received: Sequence[int]) -> int:
    """Return the signal that stopped this process or another one; 0: there was none."""
    if received:
        post("stop", received[0])
        return received[0]
    return poll("stop")


def end(faults: dict[str, int], done: int) -> int:
    """Print the faults, which have exit codes; return that of a job with `done` pictures."""
    for line in faults if is_first() else ():
        warn(f"error: {line}")
    if not faults:
        return 0
    return EXIT_FAILURE if done else min(faults.values())


def count_text(job: BatchJob) -> str:
    """Return how many pictures of a job are left, and where they go."""
    total, finished = len(job.pictures), len(job.finished)
    text = f"{len(job.todo)} of {total} to paint, in {job.folder}"
    if finished:
        text += f"; skipping {finished} finished before (--overwrite paints them anew)"
    if total > finished + len(job.todo):
        text += f"; {total - finished - len(job.todo)} will not be painted, for the reasons below"
    return text


def _size_texts(job: BatchJob, parts: Sequence[Batch]) -> Iterator[str]:
    """Yield a line for each size of the pictures; if there are many, for the first sizes."""
    counts: dict[Shape, tuple[int, int, Schedule]] = {}
    for part in parts:
        first = job.todo[part.members[0]]
        count, size, _ = counts.get(first.shape, (0, 0, None))
        here = count + len(part.members), max(size, part.size), first.schedule
        counts[first.shape] = here
    for shape, (count, size, schedule) in islice(counts.items(), _SIZES):
        scales = scales_text(schedule)
        yield f"{size_text(shape)} px: {count} to paint, {size} at once; scales {scales}"
    if len(counts) > _SIZES:
        yield f"and {len(counts) - _SIZES} others"


@dataclass
class _Painter:
    """Paints one batch after the other, and collects the finished files and the faults.

    Attributes:
      faults: a line on each fault, with its exit code.
      saved: the files that are finished.
      total: the number of pictures that this process's progress counts to.
    """

    job: BatchJob
    options: JobOptions
    config: ResolvedConfig
    network: VGG
    devices: Sequence[Any]
    console: Console
    made_from: Callable[[PictureFiles], Provenance]
    stopped: Callable[[], int]
    faults: dict[str, int]
    saved: set[Path]
    total: int

    def paint_all(self, parts: Sequence[Batch]) -> int:
        """Paint the batches of this process, and wait for the other processes.

        Returns:
          The signal that stopped the job, or 0.
        """
        for part in parts:
            self.paint([self.job.todo[number] for number in part.members], part.size)
            if self.stopped():
                break
        found = [self.faults, [str(path) for path in self.saved]]
        for theirs, saved in allgather_json("found", found, meanwhile=self.stopped):
            self.faults.update(theirs)
            self.saved.update(map(Path, saved))
        return self.stopped()

    def paint(self, members: Sequence[Planned], size: int) -> None:
        """Paint pictures of one shape as a batch; if that fails, paint each alone.

        Args:
          members: the pictures.
          size: size of the batch, which repeats of the last picture fill up.
        """
        before = self._before(members[0].picture) if self.options.sequence else None
        config = self.config
        if before:  # then the last scale is enough
            config = replace(config, min_size=0)
            members = [each._replace(schedule=_planned(each, config)) for each in members]
        loaded, inputs = self._load_all(members, before, alone=size == 1)
        if not loaded:
            return
        inputs += inputs[-1:] * (size - len(inputs))
        with self._checkpoints(loaded, inputs, config, before=bool(before)) as store:
            self._paint(loaded, inputs, config, store)
            if store and all(each.picture.output in self.saved for each in loaded):
                store.delete()

    def _paint(
        self,
        loaded: Sequence[Planned],
        inputs: Sequence[_Inputs],
        config: ResolvedConfig,
        store: CheckpointStore | None,
    ) -> None:
        began, size = time.perf_counter(), len(inputs)
        last = fault = None
        try:
            last = self._run(loaded, inputs, config, store)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fault = f"out of memory at {size_text(loaded[0].shape)} px"
            advice = "a smaller --size"
        if last and not last.finite:
            fault, advice = not_finite(last, self.config)
        if fault and size > 1:
            warn(f"{fault}, {size} pictures at once; going on with each alone")
            for each in loaded:
                if not self.stopped():
                    self.paint([each], 1)
        elif fault:
            self.faults[f"{loaded[0].picture.output}: {fault}; give {advice}"] = EXIT_FAILURE
        elif last and last.step == loaded[0].schedule.steps:  # else it was stopped
            self._save(loaded, last, time.perf_counter() - began)

    @contextlib.contextmanager
    def _checkpoints(
        self,
        members: Sequence[Planned],
        inputs: Sequence[_Inputs],
        config: ResolvedConfig,
        *,
        before: bool,
    ) -> Iterator[CheckpointStore | None]:
        """Open the checkpoints of a batch in a folder of its own, if they are asked for."""
        if not self.options.checkpoint:
            yield None
            return
        outputs = [member.picture.output.relative_to(self.job.folder) for member in members]
        names = [str(output.with_suffix("")) for output in outputs]
        key = hashlib.sha256(repr((names, len(inputs))).encode()).hexdigest()[:8]
        each = [self.made_from(member.picture) for member in members]
        may_change = (*FREE, *self.options.form)
        about = {name: x for name, x in each[0].items() if name not in may_change}
        about |= choices(config)
        for name in (f"{role} image" for role in ROLES):
            about[name] = [x for made_from in each for x in made_from[name]]
        if before:
            about["start image"] = [digest(inputs[0][2:])]
        folder = Path(self.options.checkpoint, f"{Path(names[0]).name}-{key}")
        with CheckpointStore(folder, fingerprint=about, warn=warn) as store:
            if store.newest:
                text = f"{', '.join(names)} from step {store.newest}"
                print_header(self.console, [("resume", text)])
            yield store

    def _before(self, picture: PictureFiles) -> Past | None:
        """Return the nearest finished frame before this one."""
        frames = [frame for frame in self.job.pictures if frame.run == picture.run]
        now = frames.index(picture) + 1
        numbered = list(enumerate(frames[: now - 1], 1))
        return next(
            (Past(x, number, now) for number, x in reversed(numbered) if x.output in self.saved),
            None,
        )

    def _load_all(
        self, members: Sequence[Planned], before: Past | None, *, alone: bool
    ) -> tuple[list[Planned], list[_Inputs]]:
        """Return the pictures whose images can be loaded, and their images."""
        loaded, inputs = [], []
        for each in members:
            try:
                images = self._load(each, before, alone=alone)
                extras = load_extras(each.picture.content, **self.options.carried)
                self.made_from(each.picture)  # the digests: at the end a file may be gone
                inputs.append(images)
                loaded.append(each._replace(extras=extras))
            except InputError as error:
                self.faults[in_flags(error)] = EXIT_USAGE
        return loaded, inputs

    def _load(self, each: Planned, before: Past | None, *, alone: bool) -> _Inputs:
        picture, last = each.picture, each.schedule.last
        load = functools.partial(load_image, background=self.options.background)
        with named(picture.content):
            content = load(picture.content, shape=last.shape)
        styles = []
        for path, shape in zip(picture.styles, last.styles, strict=True):
            with named(path):
                styles.append(load(path, shape=shape))
        inputs = _Inputs(content, styles)
        if before:
            with named(before.picture.content):
                past = load(before.picture.content, shape=last.shape)
            result = load(before.picture.output, shape=last.shape)
            if flow_of(self.options) == "none":
                return inputs._replace(start=result)
            flow = self.options.flow or "auto"
            previous, seen = moved(before, result, content, past, flow=flow)
            return inputs._replace(previous=previous, seen=seen)
        if self.options.start_image:
            return inputs._replace(start=load(self.options.start_image, shape=last.shape))
        if alone or self.config.start == "content":
            return inputs
        return inputs._replace(start=_draw_start(each.schedule, styles, self.config))

    def _run(
        self,
        members: Sequence[Planned],
        inputs: Sequence[_Inputs],
        config: ResolvedConfig,
        store: CheckpointStore | None,
    ) -> Snapshot[Losses]:
        contents, styles, starts, previous, seen = zip(*inputs, strict=True)
        schedule, done = members[0].schedule, len(self.saved)
        stack = operator.itemgetter(0) if len(inputs) == 1 else np.stack
        snapshots = stylize(
            stack(contents),
            [stack(images) for images in zip(*styles, strict=True)],
            network=self.network,
            config=config,
            start=None if starts[0] is None else stack(starts),
            previous=previous[0],  # frames are no batches
            previous_mask=seen[0],
            snapshot_every=self.options.save_every,
            snapshot_seconds=SECONDS,
            devices=self.devices,
            checkpoints=store,
            checkpoint_seconds=self.options.checkpoint_seconds,
        )

        def save(snapshot: Snapshot[Losses], step: str) -> None:
            for each, image in zip(members, _images(snapshot), strict=False):
                folder = each.picture.output.with_suffix("")
                folder.mkdir(exist_ok=True)
                path = folder / f"{step}{self.options.suffix}"
                save_image(path, image, extras=each.extras, **self.options.encoding)

        numbers = f"{done + 1}" if len(members) == 1 else f"{done + 1}-{done + len(members)}"
        with contextlib.closing(snapshots):
            return show_progress(
                snapshots,
                schedule,
                console=self.console,
                stopped=lambda: bool(self.stopped()),
                save_every=self.options.save_every,
                save=save,
                label=f"{numbers} of {self.total}",
            )

    def _save(self, members: Sequence[Planned], last: Snapshot[Losses], seconds: float) -> None:
        names = []
        images = _images(last)  # with repeats of the last picture at the end
        for number, (each, image) in enumerate(zip(members, images, strict=False)):
            output = each.picture.output
            manifest = make_manifest(
                self.made_from(each.picture),
                last,
                preset=self.options.preset,
                config=self.config,
                devices=len(self.devices),
                member=number if np.ndim(last.image) == 4 else None,
            )
            note = note_of(manifest, embed=self.options.manifest)
            # Before the picture, which says that all is done.
            fault = save_beside(output, manifest) if self.options.json else ""
            lost = save_or_rescue(
                output, image, note=note, extras=each.extras, **self.options.encoding
            )
            if fault := lost or fault:
                self.faults[fault] = EXIT_FAILURE
            else:
                self.saved.add(output)
                names.append(str(output))
        done, total = len(self.saved), self.total
        if names:
            line = f"wrote    {', '.join(names)} in {seconds:.1f} s, {done} of {total}"
            self.console.print(escape(line))


def _planned(each: Planned, config: ResolvedConfig) -> Schedule:
    """Return the schedule of a picture with other settings."""
    return make_schedule(each.shape, each.schedule.last.styles, config)


def _images(snapshot: Snapshot[Losses]) -> Float[np.ndarray, "batch height width 3"]:
    images = np.asarray(snapshot.image)
    return images if images.ndim == 4 else images[None]


def _draw_start(
    schedule: Schedule, styles: Sequence[np.ndarray], config: ResolvedConfig
) -> np.ndarray:
    """Draw a first picture as `stylize` does for a picture alone, whatever else is in the batch."""
    first, kind = schedule.scales[0], config.image_dtype
    small = [
        jnp.clip(resample(jnp.asarray(style, kind), shape), 0, 1)
        for style, shape in zip(styles, first.styles, strict=True)
    ]
    blank = jnp.zeros((*first.shape, 3), kind)
    return np.asarray(first_picture(blank, small, None, replace(config, start_blend=1.0)))
