"""Paint one picture, and show its progress."""

import contextlib
import dataclasses
import functools
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape

from nst_jax.app.live import Live
from nst_jax.cli.beside import Beside, frame_steps
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
from nst_jax.cli.interrupts import stop_signals
from nst_jax.cli.manifest import (
    Changes,
    Manifest,
    choices,
    digest_of,
    make_manifest,
    numbers_at,
    of_images,
    provenance,
)
from nst_jax.cli.names import PictureFiles
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import make_console, warn, warn_from_first
from nst_jax.cli.replay import check_weights, comparison
from nst_jax.cli.run_network import network_of, run_weights, warn_of_network
from nst_jax.cli.single_plan import SingleJob, load_job, recalled
from nst_jax.config import Config
from nst_jax.devices.backend import resolve
from nst_jax.devices.compilation_cache import kept_programs
from nst_jax.devices.sharding import find_devices, is_shared, lay_out
from nst_jax.distributed.collectives import agree, is_first
from nst_jax.io.checkpoint import CheckpointStore, recall
from nst_jax.io.images import save_image
from nst_jax.io.provenance import Provenance
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.transfer.multiscale import Adjust, Snapshot
from nst_jax.transfer.saver import FREE
from nst_jax.transfer.stylize import stylize
from nst_jax.weights.converted_file import Weights


def paint(options: JobOptions, asked: Config, output: Path, *, live: Live | None = None) -> int:
    """Plan and paint one picture; return the exit code.

    Args:
      options: the options of the command.
      asked: the settings.
      output: the file to write.
      live: see `paint_one`.

    Raises:
      InputError: for what a user can get wrong.
    """
    devices = find_devices(options.devices)
    chosen = recall(options.checkpoint) if options.checkpoint else {}
    chosen = options.manifest_of.get("chosen", {}) | chosen
    known = recalled(asked, chosen, devices=len(devices))
    config = resolve(known, devices=len(devices))
    with kept_programs(warn), jax.enable_x64(config.dtype == "float64"):
        job = load_job(
            options,
            output,
            config=config,
            may_remat=known.remat == "auto",
            devices=devices,
        )
        return paint_one(job, options, live=live)


def paint_one(job: SingleJob, options: JobOptions, *, live: Live | None = None) -> int:
    """Paint and save the picture; return the exit code.

    Args:
      job: from `load_job`.
      options: the options of the command.
      live: shows the run to other threads, which may steer it.
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
    if live:
        live.begin(job.content, job.schedule, steerable=_is_steerable(job, options))
    began = time.perf_counter()
    try:
        made_from = _made_from(job, weights, options)
        network = network_of(weights, job.config)
        weights = dataclasses.replace(weights, params={})  # the network has them
        beside = _beside(job, options, made_from, live)
        with _checkpoints(job, options, made_from) as store, stop_signals() as received:
            last = _paint(job, options, console, network, store, beside, received, live)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size, device = size_text(job.schedule.last.shape), devices_text(job.devices)
        warn(f"out of memory at {size} px on {device}; give a smaller --size")
        return EXIT_FAILURE
    fault = ""
    if is_first():
        seconds = time.perf_counter() - began
        fault = _save(job, options, weights, last, beside, console, seconds, live)
    if fault:
        warn(fault)
    warn_of_network(weights, options.preset)
    return _end(job, options, last, received, live) or (EXIT_FAILURE if fault else 0)


def _is_steerable(job: SingleJob, options: JobOptions) -> bool:
    """Return whether numbers may change on the way: neither a checkpoint nor a replay has them."""
    return job.config.optimizer == "adam" and not (options.checkpoint or options.replay)


def _changes(options: JobOptions, live: Live | None) -> Changes:
    """Return the numbers that have changed on the way, or in the picture that is replayed."""
    return live.changes if live and not options.replay else options.changes


def _beside(
    job: SingleJob, options: JobOptions, made_from: Provenance, live: Live | None
) -> Beside:
    def describe(last: Snapshot[Losses]) -> Manifest:
        return make_manifest(
            {**made_from, **options.form},
            last,
            preset=options.preset,
            config=job.config,
            devices=len(job.devices),
            adjusted=_changes(options, live),
        )

    files = options if is_first() else JobOptions()  # the other processes write none
    watchers = [live.take] if live else []
    return Beside(files, job.schedule.last.shape, describe, watchers=watchers)


def _print_header(
    console: Console, job: SingleJob, weights: Weights | None, options: JobOptions
) -> None:
    last = job.schedule.last
    size = f"{size_text(last.shape)} px"
    styles = [
        ("style", f"{path}, {size_text(shape)} px")
        for path, shape in zip(job.style_paths, last.styles, strict=True)
    ]
    rows = [
        ("device", devices_text(job.devices)),
        ("texture", size) if options.texture else ("content", f"{job.content_path}, {size}"),
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
    beside: Beside,
    received: Sequence[int],
    live: Live | None,
) -> Snapshot[Losses]:
    """Run the job until it is done, stopped or not finite; return the last snapshot."""

    def save(snapshot: Snapshot[Losses], step: str) -> None:
        if is_first():
            path = job.output.with_name(f"{job.output.stem}_{step}{job.output.suffix}")
            save_image(
                path,
                np.asarray(snapshot.image),
                note=beside.note(snapshot),
                extras=job.extras,
                **options.encoding,
            )

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
        **job.masks,
        snapshot_every=_pause(job, options),
        snapshot_seconds=SECONDS,
        adjust=_adjust(job, options, live),
        devices=job.devices,
        checkpoints=store,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    with contextlib.closing(snapshots):
        shown = beside.watch(_until(snapshots, _last_step(job, options)))
        return show_progress(
            live.watch(shown) if live else shown,
            job.schedule,
            console=console,
            stopped=lambda: agree(bool(received) or (live is not None and live.stopped)),
            clock=live.clock if live else time.perf_counter,
            save_every=options.save_every,
            save=save,
        )


def _adjust(job: SingleJob, options: JobOptions, live: Live | None) -> Adjust | None:
    """Return where the numbers that change on the way come from; see `stylize`."""
    if live and _is_steerable(job, options):
        return live.adjust
    return functools.partial(numbers_at, options.changes) if options.changes else None


def _last_step(job: SingleJob, options: JobOptions) -> int:
    """Return the step at which the run ends: a replay ends where the picture was stopped."""
    return int(options.manifest_of.get("step", job.schedule.steps))


def _pause(job: SingleJob, options: JobOptions) -> int | None:
    """Return how many steps apart snapshots are needed at least.

    A replay pauses where the picture was stopped, and where its numbers were changed.
    """
    every = options.save_every or frame_steps(options, job.schedule.steps) or 0
    steps = [*(step for step, _ in options.changes), options.manifest_of.get("step", 0)]
    return math.gcd(every, *steps) or None


def _until(snapshots: Iterator[Snapshot[Losses]], last_step: int) -> Iterator[Snapshot[Losses]]:
    """Yield the snapshots up to a step."""
    for snapshot in snapshots:
        yield snapshot
        if snapshot.step >= last_step:
            return


def _save(
    job: SingleJob,
    options: JobOptions,
    weights: Weights,
    last: Snapshot[Losses],
    beside: Beside,
    console: Console,
    seconds: float,
    live: Live | None,
) -> str:
    """Save the picture and what goes with it, and say so; return the fault, or an empty text."""
    image, note = np.asarray(last.image), beside.note(last)
    if fault := save_or_rescue(job.output, image, note=note, extras=job.extras, **options.encoding):
        return fault
    if live:
        live.written(job.output)
    line = f"wrote    {job.output} after {last.step} steps in {seconds:.1f} s"
    console.print(escape(line))
    if options.replay:
        print_header(console, [("replay", comparison(Path(options.replay), job.output))])
    return beside.save(
        PictureFiles(job.content_path, tuple(job.style_paths), job.output, 0),
        last,
        sizes=[size_text(plan.shape) for plan in job.schedule.scales],
        weights=weights_text(weights),
        seconds=seconds,
    )


def _end(
    job: SingleJob,
    options: JobOptions,
    last: Snapshot[Losses],
    received: Sequence[int],
    live: Live | None,
) -> int:
    """Warn if the run ended early; return the exit code."""
    if not last.finite:
        what, advice = not_finite(last, job.config)
        warn_from_first(f"{what}: the picture is the last good one; give {advice}")
        return EXIT_FAILURE
    ended_early = last.step < _last_step(job, options)
    if ended_early and live and live.stopped and not received:
        warn_from_first(f"stopped before the end: {job.output} is the picture so far")
        return 0
    if ended_early:  # the signal may have come to another process
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
        None if options.texture else job.content_path,
        job.style_paths,
        options.start_image,
        masks=options.masks,
        digest=digest_of,
    )
    others = {"background": options.background}
    return provenance(options.asked(), weights=weights, **others) | images


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
        fingerprint={name: x for name, x in made_from.items() if name not in FREE},
        chosen=choices(job.config),
        warn=warn,
    ) as store:
        yield store
