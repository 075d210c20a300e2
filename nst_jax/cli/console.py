"""Print the header, the progress and the faults of a run, and save its picture."""

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
from nst_jax.losses.objective import Losses
from nst_jax.transfer import estimate
from nst_jax.transfer.fallback import Setback
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.pace import Left, TimeLeft, duration_text
from nst_jax.transfer.progress import ends_scale
from nst_jax.transfer.schedule import Schedule
from nst_jax.weights.converted_file import Weights

# Seconds between snapshots, which Ctrl-C may have to wait for, and between lines without a bar.
SECONDS, _LINE_SECONDS = 2.0, 5.0
_WEIGHTS = ("content_weight", "style_weight", "tv_weight", "range_weight")


def size_text(shape: Shape) -> str:
    """Return "WIDTHxHEIGHT"."""
    height, width = shape
    return f"{width}x{height}"


def scales_text(schedule: Schedule) -> str:
    """Return the sizes of a run's scales, with the steps at each."""
    return ", ".join(f"{size_text(plan.shape)}: {plan.steps}" for plan in schedule.scales)


def print_header(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print lines of a run's header, each behind its label."""
    for label, text in rows:
        console.print(f"{label:<8} {escape(text)}")


def weights_text(weights: Weights) -> str:
    """Return the network's title and the origin of its weights."""
    return f"{weights.title}, {weights.origin}"


def devices_text(devices: Sequence[Any]) -> str:
    """Return the devices of a run as text; several devices are of one kind."""
    name = device_name()
    return f"{len(devices)} x {name}" if len(devices) > 1 else name


def print_estimate(
    console: Console,
    schedule: Schedule,
    config: ResolvedConfig,
    *,
    devices: Sequence[Any] | None = None,
) -> None:
    """Print the memory estimate of a run, and an estimate of its time."""
    wanted = estimate.need(schedule.last, config=config, devices=len(devices or (None,)))
    parts = estimate.memories(wanted, estimate.free_memory())
    memory = ", ".join(
        f"{need / 1e9:.1f} of {there / 1e9:.1f} GB free" + (f" on the {name}" if parts[1:] else "")
        for name, need, there in parts
    )
    pace = estimate.pace(schedule, config=config, devices=devices)
    duration = (
        f"about {duration_text(pace.seconds + 0.5)} for {schedule.steps} steps; the last takes "
        f"{pace.last:.2g} s"
    )
    print_header(console, [("memory", memory), ("time", duration)])


def not_finite(last: Snapshot[Losses], config: Config) -> tuple[str, str]:
    """Return what was not finite at the end of a run, and what to give instead."""
    failed = last.failed or Setback(last.step, "the loss became infinite or not a number")
    what = f"{failed.failed} at step {failed.step}"
    if failed.step == 1 or "gradient" in failed.failed:
        weights = {name: getattr(config, name) for name in _WEIGHTS}
        name = max(weights, key=lambda name: weights[name])
        return what, f"a smaller --{name.replace('_', '-')} than {weights[name]:g}"
    if config.optimizer == "adam":
        advice = f"a smaller --learning-rate than {config.learning_rate}"
    else:
        advice = "smaller weights, or --optimizer=adam"
    may_go_back = config.optimizer != "lbfgs" and config.on_nan == "stop"
    return what, f"--on-nan=backoff, or {advice}" if may_go_back else advice


def is_out_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    """Return whether the error says that the device's memory was too small."""
    return "RESOURCE_EXHAUSTED" in str(error)


def save_or_rescue(output: Path, image: Float[np.ndarray, "height width 3"], **options: Any) -> str:
    """Save a picture; if that fails, save it in a temporary folder, so that no work is lost.

    Args:
      output: the file.
      image: see `save_image`.
      options: see `save_image`.

    Returns:
      The fault and the path of the picture, or an empty text.
    """
    try:
        save_image(output, image, **options)
    except (InputError, OSError) as error:
        # As PNG, since the encoder of the other format may be at fault.
        rescue = Path(tempfile.mkdtemp(prefix="nst-jax-"), f"{output.stem}.png")
        save_image(rescue, image, **options)
        return f"{error}; the picture is {rescue}"
    return ""


def show_progress(
    snapshots: Iterator[Snapshot[Losses]],
    schedule: Schedule,
    *,
    console: Console,
    stopped: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
    save_every: int | None = None,
    save: Callable[[Snapshot[Losses], str], None],
    label: str = "",
) -> Snapshot[Losses]:
    """Show the progress of a run and save pictures on the way; return the last snapshot.

    Args:
      snapshots: from `stylize`.
      schedule: the schedule of the run.
      console: where the progress is shown.
      stopped: returns, after each snapshot, whether to stop the run.
      clock: returns the time in seconds that counts for the time that is left.
      save_every: number of steps between two pictures on the way.
      save: takes a snapshot and its step as text; all texts have one length.
      label: the name of one of many runs; its progress is shown on a terminal only, and erased at
        the end.
    """
    total, time_left = schedule.steps, TimeLeft(schedule, clock=clock)
    digits, line_time, told = len(str(total)), 0.0, 0
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
            text = _losses_text(snapshot) + _left_text(time_left.at(snapshot.step))
            progress.update(task, completed=snapshot.step, description=prefix + text)
            ended = snapshot.step == total or not snapshot.finite or stopped()
            now = time.perf_counter()
            if progress.disable and not label and (ended or now - line_time >= _LINE_SECONDS):
                console.print(f"step {snapshot.step:>{digits}}/{total}  {text}")
                line_time = now
            if ends_scale(snapshot, schedule):
                progress.update(task, description=f"{prefix}preparing the next scale")
            told = _warn_of_turns(snapshot, told)
            if save_every and snapshot.step % save_every == 0 and snapshot.finite:
                try:
                    save(snapshot, f"{snapshot.step:0{digits}}")
                except (InputError, OSError) as error:  # the run goes on without this picture
                    warn(f"{error}; going on")
            if ended:
                break
    return snapshot


def _warn_of_turns(snapshot: Snapshot[Losses], told: int) -> int:
    """Warn where a run has gone back, or skips steps; return the number of setbacks told."""
    for setback in snapshot.setbacks[told:]:
        warn_from_first(
            f"{setback.failed} at step {setback.step}; going on from the last good state with "
            "steps of a quarter of the length"
        )
    if snapshot.stuck:
        warn_from_first(f"the picture no longer changes; skipping to step {snapshot.step}")
    return len(snapshot.setbacks)


def _left_text(left: Left | None) -> str:
    return f" {left.rate:.2f} steps/s {duration_text(left.seconds)} left" if left else ""


def _losses_text(snapshot: Snapshot[Losses]) -> str:
    losses = snapshot.losses
    parts = {"content": losses.content, "style": losses.style, "total": losses.total}
    return " ".join(f"{name} {values[-1].sum():.4g}" for name, values in parts.items())
