"""Paint one picture, and show its progress."""

import contextlib
import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape

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
from nst_jax.cli.flags import EXIT_FAILURE, arithmetic_line
from nst_jax.cli.inputs import expand
from nst_jax.cli.interrupts import stop_signals
from nst_jax.cli.manifest import (
    CHOSEN,
    Manifest,
    choices,
    make_manifest,
    note_of,
    of_images,
    provenance,
    save_beside,
)
from nst_jax.cli.names import PictureFiles
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import make_console, warn, warn_from_first
from nst_jax.cli.replay import check_weights, comparison, manifest_text
from nst_jax.cli.report import check_report, facts_of, save_report
from nst_jax.cli.run_network import network_of, run_weights, warn_of_network
from nst_jax.cli.sheet import check_sheet, save_sheet
from nst_jax.cli.step_log import LogFile, Row, check_log, with_rows
from nst_jax.cli.timelapse import Frames, check_timelapse, every, save_timelapse
from nst_jax.config import Config, ResolvedConfig
from nst_jax.devices.sharding import is_shared, lay_out
from nst_jax.distributed.collectives import agree, is_first
from nst_jax.errors import InputError
from nst_jax.geometry import fit
from nst_jax.io.checkpoint import CheckpointStore
from nst_jax.io.files import check_writable
from nst_jax.io.images import check_output, image_shape, load_image, save_image
from nst_jax.io.provenance import Provenance
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.transfer.estimate import fit_to_memory
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import Schedule, make_schedule
from nst_jax.transfer.stylize import stylize
from nst_jax.weights.converted_file import Weights
from nst_jax.weights.download import sha256_of


class _Memory(NamedTuple):
    """What is kept of a run beside the picture.

    Attributes:
      describe: takes a snapshot to the manifest of its picture.
      rows: a row for each step, if --report was given; see `with_rows`.
      takers: take the rows as they come, for --report and --log.
      frames: the frames of --timelapse, if it was given.
    """

    describe: Callable[[Snapshot[Losses]], Manifest]
    rows: list[Row]
    takers: tuple[Callable[[list[Row]], None], ...]
    frames: Frames | None

    def take(self, rows: list[Row]) -> None:
        """Keep rows."""
        for taker in self.takers:
            taker(rows)


class SingleJob(NamedTuple):
    """A picture to paint: its images, settings, schedule and devices, and its file."""

    content_path: str
    style_paths: list[str]
    content: np.ndarray
    styles: list[np.ndarray]
    start: np.ndarray | None
    output: Path
    config: ResolvedConfig
    schedule: Schedule
    devices: Sequence[Any]


def load_job(
    options: JobOptions,
    output: Path,
    *,
    config: ResolvedConfig,
    may_remat: bool,
    biggest: bool,
    devices: Sequence[Any],
) -> SingleJob:
    """Check everything that a user can get wrong before the work starts; load the images.

    Args:
      options: the options of the command.
      output: the file to write.
      config: the settings.
      may_remat: see `fit_to_memory`.
      biggest: whether to paint the largest picture that fits into memory.
      devices: the devices that compute.

    Raises:
      InputError: if a check fails.
    """
    content, start = options.content[0], options.start_image
    styles = expand(options.style, role="style", warn=warn_from_first)
    check_output(output)
    if options.sheet:
        check_sheet(Path(options.sheet), [output], [content, *styles])
    if options.timelapse:
        check_timelapse(Path(options.timelapse), [output, content, *styles])
    if options.report:
        check_report(Path(options.report))
    if options.log:
        check_log(Path(options.log))
    if options.json:
        check_writable(f"{output}.json", what="the manifest")
    for path in (content, *styles, start, options.replay):
        if path and output.exists() and os.path.exists(path) and os.path.samefile(output, path):
            raise InputError(f"--output {output} is the input image {path}; name another file")
    content_shape, *style_shapes = map(image_shape, (content, *styles))

    def schedule_of(size: int) -> Schedule:
        shape = fit(*content_shape, size, side=config.side)
        return make_schedule(shape, style_shapes, config)

    config, schedule = fit_to_memory(
        schedule_of, config=config, may_remat=may_remat, biggest=biggest, devices=len(devices)
    )
    last = schedule.last
    ineffective = options.settings.keys() & {"steps", "first_steps"} == {"steps"}
    if ineffective and config.min_size and len(schedule.scales) == 1:
        warn_from_first(
            f"--steps has no effect at {size_text(last.shape)} px, where the only scale is the "
            "first; --first-steps is for that"
        )
    return SingleJob(
        content,
        styles,
        load_image(content, shape=last.shape),
        [load_image(path, shape=own) for path, own in zip(styles, last.styles, strict=True)],
        load_image(start, shape=last.shape) if start else None,
        output,
        config,
        schedule,
        devices,
    )


def paint_one(job: SingleJob, options: JobOptions) -> int:
    """Paint and save the picture; return the exit code.

    Args:
      job: from `load_job`.
      options: the options of the command.
    """
    console = make_console(quiet=options.quiet)
    weights = None
    if not options.dry_run:
        weights, config = run_weights(options, job.config)
        check_weights(options.manifest_of, weights, config.taps[-1])
        job = job._replace(config=config)
    _print_header(console, job, weights, options)
    if not weights:
        print_estimate(console, job.schedule, job.config, devices=job.devices)
        return 0
    warn_of_network(weights, options.preset)
    began = time.perf_counter()
    try:
        made_from = _made_from(job, weights, options)
        network = network_of(weights, job.config)
        weights = dataclasses.replace(weights, params={})  # the network has them
        memory = _memory(job, options, made_from)
        with _checkpoints(job, options, made_from) as store, stop_signals() as received:
            last = _paint(job, options, console, network, store, memory, received)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size, device = size_text(job.schedule.last.shape), devices_text(job.devices)
        warn(f"out of memory at {size} px on {device}; give a smaller --size")
        return EXIT_FAILURE
    fault = ""
    if is_first():
        fault = _save(job, options, weights, last, memory, console, time.perf_counter() - began)
    if fault:
        warn(fault)
    warn_of_network(weights, options.preset)
    return _end(job, options, last, received) or (EXIT_FAILURE if fault else 0)


def _print_header(
    console: Console, job: SingleJob, weights: Weights | None, options: JobOptions
) -> None:
    last = job.schedule.last
    styles = [
        ("style", f"{path}, {size_text(shape)} px")
        for path, shape in zip(job.style_paths, last.styles, strict=True)
    ]
    rows = [
        ("device", devices_text(job.devices)),
        ("content", f"{job.content_path}, {size_text(last.shape)} px"),
        *styles,
        *([("weights", weights_text(weights))] if weights else []),
        ("steps", f"{job.schedule.steps} of {job.config.optimizer}, preset {options.preset}"),
        ("scales", scales_text(job.schedule)),
    ]
    print_header(console, rows)
    console.print(arithmetic_line(job.config))


def _paint(
    job: SingleJob,
    options: JobOptions,
    console: Console,
    network: VGG,
    store: CheckpointStore | None,
    memory: _Memory,
    received: Sequence[int],
) -> Snapshot[Losses]:
    """Run the job until it is done, stopped or not finite; return the last snapshot."""

    def save(snapshot: Snapshot[Losses], step: str) -> None:
        if is_first():
            path = job.output.with_name(f"{job.output.stem}_{step}{job.output.suffix}")
            note = note_of(memory.describe(snapshot), embed=options.manifest)
            save_image(path, np.asarray(snapshot.image), note=note)

    if store:
        _warn_of_lost_scales(job)
    if store and store.newest:
        print_header(console, [("resume", f"from step {store.newest}")])
    snapshots = stylize(
        job.content,
        job.styles,
        network=network,
        config=job.config,
        start=job.start,
        snapshot_every=_pause(job, options),
        snapshot_seconds=SECONDS,
        devices=job.devices,
        checkpoints=store,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    shown: Iterator[Snapshot[Losses]] = snapshots
    with contextlib.closing(snapshots):
        if memory.frames:
            shown = memory.frames.watch(snapshots)
        shown = _until(shown, _last_step(job, options))
        if memory.takers:
            shown = with_rows(shown, memory.take)
        return show_progress(
            shown,
            job.schedule,
            console=console,
            stopped=lambda: agree(bool(received)),
            save_every=options.save_every,
            save=save,
        )


def _last_step(job: SingleJob, options: JobOptions) -> int:
    """Return the step at which the run ends: a replay ends where the picture was stopped."""
    return int(options.manifest_of.get("step", job.schedule.steps))


def _pause(job: SingleJob, options: JobOptions) -> int | None:
    """Return how many steps apart snapshots are needed at least."""
    frames = every(job.schedule.steps) if options.timelapse else None
    return options.save_every or options.manifest_of.get("step") or frames


def _until(snapshots: Iterator[Snapshot[Losses]], last_step: int) -> Iterator[Snapshot[Losses]]:
    """Yield the snapshots up to a step."""
    for snapshot in snapshots:
        yield snapshot
        if snapshot.step >= last_step:
            return


def _memory(job: SingleJob, options: JobOptions, made_from: Provenance) -> _Memory:
    describe = functools.partial(
        make_manifest,
        made_from,
        preset=options.preset,
        config=job.config,
        devices=len(job.devices),
    )
    if not is_first():
        return _Memory(describe, [], (), None)
    rows: list[Row] = []
    log = (LogFile(Path(options.log), warn=warn),) if options.log else ()
    report = (rows.extend,) if options.report else ()
    frames = Frames(job.schedule.last.shape) if options.timelapse else None
    return _Memory(describe, rows, (*log, *report), frames)


def _save(
    job: SingleJob,
    options: JobOptions,
    weights: Weights,
    last: Snapshot[Losses],
    memory: _Memory,
    console: Console,
    seconds: float,
) -> str:
    """Save the picture and what goes with it, and say so; return the fault, or an empty text."""
    manifest = memory.describe(last)
    note = note_of(manifest, embed=options.manifest)
    fault = save_or_rescue(job.output, np.asarray(last.image), note=note)
    if fault:
        return fault
    line = f"wrote    {job.output} after {last.step} steps in {seconds:.1f} s"
    console.print(escape(line))
    if options.replay:
        print_header(console, [("replay", comparison(Path(options.replay), job.output))])
    if options.json:
        fault = save_beside(job.output, manifest)
    if options.sheet:
        files = PictureFiles(job.content_path, tuple(job.style_paths), job.output, 0)
        fault = save_sheet(Path(options.sheet), [files], grid=False) or fault
    if memory.frames:
        fault = save_timelapse(Path(options.timelapse or ""), memory.frames.film()) or fault
    if options.report:
        start = [("first picture", options.start_image)] if options.start_image else []
        page = save_report(
            Path(options.report),
            result=job.output,
            inputs=[
                ("content", job.content_path),
                *(("style", path) for path in job.style_paths),
                *start,
            ],
            sizes=[size_text(plan.shape) for plan in job.schedule.scales],
            rows=memory.rows,
            facts=facts_of(manifest, weights=weights_text(weights), seconds=seconds),
            manifest=manifest_text(manifest),
        )
        fault = page or fault
    return fault


def _end(
    job: SingleJob, options: JobOptions, last: Snapshot[Losses], received: Sequence[int]
) -> int:
    """Warn if the run ended early; return the exit code."""
    if not last.finite:
        what, advice = not_finite(last, job.config)
        warn_from_first(f"{what}: the picture is the last good one; give {advice}")
        return EXIT_FAILURE
    if last.step < _last_step(job, options):  # the signal may have come to another process
        signum = received[0] if received else signal.SIGTERM
        name = signal.Signals(signum).name
        warn_from_first(f"stopped by {name}: {job.output} is the picture so far")
        return 128 + signum
    return 0


def _warn_of_lost_scales(job: SingleJob) -> None:
    """Warn of scales without checkpoints, where a process has no part of the picture."""
    shapes = [plan.shape for plan in job.schedule.scales]
    lost = [shape for shape in shapes if not is_shared(lay_out((*shape, 3), job.devices))]
    if lost:
        warn_from_first(
            f"no checkpoints are kept at {', '.join(map(size_text, lost))} px, where the picture "
            "is too small for all processes"
        )


def _made_from(job: SingleJob, weights: Weights, options: JobOptions) -> Provenance:
    """Return the provenance of the picture."""
    images = of_images(
        job.content_path,
        job.style_paths,
        options.start_image,
        digest=lambda path: sha256_of(Path(path)),
    )
    return provenance(options.asked(), weights=weights, **options.words) | images


@contextlib.contextmanager
def _checkpoints(
    job: SingleJob, options: JobOptions, made_from: Provenance
) -> Iterator[CheckpointStore | None]:
    """Open the folder of --checkpoint, if it is given, for this job alone."""
    if not options.checkpoint:
        yield None
        return
    with CheckpointStore(
        options.checkpoint,
        fingerprint=made_from,
        chosen=choices(job.config),
        warn=warn,
    ) as store:
        yield store


def recalled(
    config: Config, chosen: Mapping[str, Any], *, biggest: bool, devices: int
) -> tuple[Config, bool]:
    """Return the settings, with the choices that the machine of an earlier run has made.

    So a run goes on with the arithmetic that it began with, on another machine too. Two choices may
    be made again: Winograd's convolutions are for one device, and a run without remat may need it
    for the memory that is free now.

    Args:
      config: the settings before `Config.resolve`.
      chosen: the choices, from a checkpoint folder or a manifest.
      biggest: whether the size is a choice of the machine.
      devices: number of devices that the picture is spread over.

    Returns:
      The settings, and whether the size is still to be chosen.
    """
    auto = {name for name in CHOSEN if getattr(config, name) == "auto"}
    wanted = (auto | {"size"} if biggest else auto) & chosen.keys()
    if devices > 1 and chosen.get("conv") == "winograd":
        wanted.discard("conv")
    if chosen.get("remat") == "none":
        wanted.discard("remat")
    config = dataclasses.replace(config, **{name: chosen[name] for name in wanted})
    return config, biggest and "size" not in wanted
