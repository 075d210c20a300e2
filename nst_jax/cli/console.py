"""What the command line shows of a run: its header, its progress, its faults; and how it saves."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from nst_jax.cli.output import warn, warn_from_first
from nst_jax.config import Config, ResolvedConfig
from nst_jax.devices.backend import device_name
from nst_jax.errors import InputError
from nst_jax.geometry import Shape
from nst_jax.io.images import save_image
from nst_jax.transfer import estimate
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import Schedule
from nst_jax.weights.converted_file import Weights

# How often the progress moves, and how long Ctrl-C may take; plain lines come more rarely.
SECONDS, _LINE_SECONDS = 2.0, 5.0
_WEIGHTS = ("content_weight", "style_weight", "tv_weight", "range_weight")


def size_text(shape: Shape) -> str:
    """Return "WIDTHxHEIGHT", as people name sizes."""
    height, width = shape
    return f"{width}x{height}"


def scales_text(schedule: Schedule) -> str:
    """Return the scales of a run and the steps made there."""
    return ", ".join(f"{size_text(plan.shape)}: {plan.steps}" for plan in schedule.scales)


def print_header(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print what a run is about, each line under its label."""
    for label, text in rows:
        console.print(f"{label:<8} {escape(text)}")


def weights_text(weights: Weights) -> str:
    """Return which network it is and where its weights come from, for people."""
    return f"{weights.title}, {weights.origin}"


def devices_text(devices: Sequence[Any]) -> str:
    """Return what a run computes on, for people; several devices are those of one kind."""
    name = device_name()
    return f"{len(devices)} x {name}" if len(devices) > 1 else name


def print_estimate(
    console: Console,
    schedule: Schedule,
    config: ResolvedConfig,
    *,
    devices: Sequence[Any] | None = None,
) -> None:
    """Print the memory and the time that a run needs, before its first step."""
    wanted = estimate.need(schedule.last, config=config, devices=len(devices or (None,)))
    parts = estimate.memories(wanted, estimate.free_memory())
    memory = ", ".join(
        f"{need / 1e9:.1f} of {there / 1e9:.1f} GB free" + (f" on the {name}" if parts[1:] else "")
        for name, need, there in parts
    )
    pace = estimate.pace(schedule, config=config, devices=devices)
    minutes, seconds = divmod(round(pace.seconds), 60)
    time = f"about {minutes}:{seconds:02} for {schedule.steps} steps; the last {pace.last:.2g} s"
    print_header(console, [("memory", memory), ("time", time)])


def not_finite(last: Snapshot, config: Config) -> tuple[str, str]:
    """Say what was not finite in a run that ended so, and what to give instead."""
    bad = np.flatnonzero(~np.isfinite(last.losses.total))
    first = last.step - len(last.losses.total)  # the step before the first loss that is known
    if len(bad) and first + bad[0] > 0:
        return (
            f"the loss became infinite or not a number by step {last.step}",
            f"a smaller --learning-rate than {config.learning_rate}"
            if config.optimizer == "adam"
            else "smaller weights, or --optimizer=adam",
        )
    what = "the loss is infinite from the start"
    if not len(bad):
        what = f"the squares of the gradient became infinite by step {last.step}"
    weights = {name: getattr(config, name) for name in _WEIGHTS}
    name = max(weights, key=lambda name: weights[name])
    return what, f"a smaller --{name.replace('_', '-')} than {weights[name]:g}"


def is_out_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    """Return whether the device's memory was too small."""
    return "RESOURCE_EXHAUSTED" in str(error)


def save_or_rescue(
    output: Path, image: Float[np.ndarray, "height width 3"], *, note: str = ""
) -> str:
    """Save a picture; where that fails, save it in a temporary folder: hours are not lost.

    Args:
      output: the file.
      image: see `save_image`.
      note: see `save_image`.

    Returns:
      What is wrong and where the picture is, or nothing.
    """
    try:
        save_image(output, image, note=note)
    except (InputError, OSError) as error:
        # As PNG, since the encoder may be what fails.
        rescue = Path(tempfile.mkdtemp(prefix="nst-jax-"), f"{output.stem}.png")
        save_image(rescue, image)
        return f"{error}; the picture is {rescue}"
    return ""


def show_progress(
    snapshots: Iterator[Snapshot],
    schedule: Schedule,
    *,
    console: Console,
    stopped: Callable[[], bool],
    save_every: int | None = None,
    save: Callable[[Snapshot, str], None],
    label: str = "",
) -> Snapshot:
    """Show the progress of a run and save pictures on the way; return the last snapshot.

    Args:
      snapshots: from `stylize`.
      schedule: of the run.
      console: where the progress is shown.
      stopped: asked after each snapshot; says whether the run is to stop there.
      save_every: how many steps lie between two pictures on the way.
      save: takes a snapshot and the number of its step as text, all of one length.
      label: which one of many runs this is; their progress is shown on a terminal alone, and not
        left there.
    """
    total, pace = schedule.steps, _Pace(schedule)
    digits, line_time = len(str(total)), 0.0
    progress = Progress(
        BarColumn(bar_width=20),  # the one column that may shrink
        MofNCompleteColumn(table_column=Column(min_width=2 * digits + 1)),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=bool(label),
        disable=not console.is_terminal or console.quiet,
    )
    prefix = label and f"{label}: "
    task = progress.add_task(f"{prefix}compiling", total=total)
    with progress:
        for snapshot in snapshots:
            text = _losses_text(snapshot) + pace.text(snapshot.step)
            progress.update(task, completed=snapshot.step, description=prefix + text)
            ended = snapshot.step == total or not snapshot.finite or stopped()
            now = time.perf_counter()
            if progress.disable and not label and (ended or now - line_time >= _LINE_SECONDS):
                console.print(f"step {snapshot.step:>{digits}}/{total}  {text}")
                line_time = now
            if snapshot.stuck:
                warn_from_first(
                    f"L-BFGS finds no better picture; going on as if at step {snapshot.step}"
                )
            if save_every and snapshot.step % save_every == 0 and snapshot.finite:
                try:
                    save(snapshot, f"{snapshot.step:0{digits}}")
                except (InputError, OSError) as error:  # the run itself is worth more
                    warn(f"{error}; going on")
            if ended:
                break
    return snapshot


class _Pace:
    """How fast a run is and how long it will take, from its first snapshot on.

    A step of a larger scale takes longer, as its pixels do.
    """

    def __init__(self, schedule: Schedule):
        self._schedule, self._step, self._time = schedule, 0, 0.0

    def text(self, step: int) -> str:
        """Return the pace at a step; nothing at the first one, which waited for the compiler."""
        now, pixels = time.perf_counter(), self._schedule.pixels
        if not self._step:
            self._step, self._time = step, now
            return ""
        rate = (step - self._step) / (now - self._time)
        per_pixel = (now - self._time) / (pixels(step) - pixels(self._step))
        left = per_pixel * (pixels(self._schedule.steps) - pixels(step))
        return f" {rate:.2f} steps/s {int(left / 60)}:{int(left % 60):02} left"


def _losses_text(snapshot: Snapshot) -> str:
    losses = snapshot.losses
    return (
        f"content {losses.content[-1]:.4g} style {losses.style[-1]:.4g} "
        f"total {losses.total[-1]:.4g}"
    )
