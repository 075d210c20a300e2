"""Paint many pictures: in batches of one shape, or as frames one after the other."""

import functools
import math
import signal
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape

from nst_jax.cli.batch_painter import BatchPainter
from nst_jax.cli.batch_plan import (
    Batch,
    BatchJob,
    Planned,
    batch_size,
    batches,
    without_finished,
)
from nst_jax.cli.console import (
    devices_text,
    print_estimate,
    print_header,
    scales_text,
    size_text,
    weights_text,
)
from nst_jax.cli.finished import provenance_of, skip_finished
from nst_jax.cli.flags import EXIT_FAILURE, EXIT_USAGE, arithmetic_line
from nst_jax.cli.interrupts import stop_signals
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import make_console, warn, warn_from_first
from nst_jax.cli.run_network import network_of, run_weights, warn_of_network
from nst_jax.cli.sheet import save_sheet
from nst_jax.config import ResolvedConfig
from nst_jax.distributed.collectives import allgather_json, is_first, poll, post
from nst_jax.geometry import Shape, Size, fit
from nst_jax.io.images import image_shape
from nst_jax.transfer.estimate import fit_to_memory
from nst_jax.transfer.schedule import Schedule, make_schedule
from nst_jax.weights.converted_file import Weights

_SIZES = 5  # most sizes that the header lists


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
        painter = BatchPainter(
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
        text = f"from the result before, {steps} steps at the last scale; {job.sequence}"
        rows.append(("frames", text))
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
