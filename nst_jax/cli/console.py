"""What painting one picture and many have in common: progress, signals, complaints, saving."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from nst_jax.cli.flags import load_weights
from nst_jax.config import Config
from nst_jax.devices.backend import device_name
from nst_jax.distributed.collectives import exchange, is_first
from nst_jax.errors import InputError
from nst_jax.geometry import Shape
from nst_jax.io.images import save_image
from nst_jax.network.vgg import VGG
from nst_jax.presets import PRESETS
from nst_jax.scale.step import build_network
from nst_jax.transfer import estimate
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import Plan, count_steps
from nst_jax.weights.converted_file import CONVERT_COMMAND, Weights

PROGRAM = "nst-jax"
# How often the progress moves, and how long Ctrl-C may take; plain lines come more rarely.
SECONDS, _LINE_SECONDS = 2.0, 5.0
_WEIGHTS = ("content_weight", "style_weight", "tv_weight", "range_weight")


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def complain_for_all(message: str) -> None:
    """Print one line on standard error, of several processes in the first one alone."""
    if is_first():
        complain(message)


def size_text(shape: Shape) -> str:
    """Return "WIDTHxHEIGHT", as people name sizes."""
    height, width = shape
    return f"{width}x{height}"


def scales_text(scales: Plan) -> str:
    """Return the scales of a run and the steps made there."""
    return ", ".join(f"{size_text(shape)}: {steps}" for shape, steps in scales)


def print_header(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print what a run is about, each line under its label."""
    for label, text in rows:
        console.print(f"{label:<8} {escape(text)}")


def run_weights(flags: argparse.Namespace, config: Config) -> tuple[Weights, Config]:
    """Load the weights of a run, and return the settings with their network.

    Raises:
      InputError: if `load_weights` does, or several processes have found different networks.
    """
    weights, config = load_weights(flags, config, taps=config.taps, complain=complain_for_all)
    found = exchange("network", f"{weights.title}{'' if weights.trained else ', untrained'}")
    if len(set(found)) > 1:
        raise InputError(
            f"the processes have found different networks: {'; '.join(found)}; give all of them "
            "the same --weights"
        )
    return weights, config


def network_of(weights: Weights, config: Config) -> VGG:
    """Build the network of a run, no deeper than it needs."""
    return build_network(weights.params, config, deepest=config.taps[-1])


def weights_text(weights: Weights) -> str:
    """Return which network it is and where its weights come from, for people."""
    return f"{weights.title}, {weights.origin}"


def devices_text(devices: Sequence[Any]) -> str:
    """Return what a run computes on, for people; several devices are those of one kind."""
    name = device_name()
    return f"{len(devices)} x {name}" if len(devices) > 1 else name


def print_forecast(
    console: Console,
    shape: Shape,
    styles: Sequence[Shape],
    config: Config,
    *,
    devices: Sequence[Any] | None = None,
) -> None:
    """Print what a run of this size needs, before any of it; see `forecast`."""
    wanted = estimate.need(shape, styles, config=config, devices=len(devices or (None,)))
    parts = estimate.memories(wanted, estimate.free_memory())
    memory = ", ".join(
        f"{need / 1e9:.1f} of {there / 1e9:.1f} GB free" + (f" on the {name}" if parts[1:] else "")
        for name, need, there in parts
    )
    pace = estimate.pace(shape, styles, config=config, devices=devices)
    steps, (minutes, seconds) = count_steps(*shape, config), divmod(round(pace.seconds), 60)
    print_header(
        console,
        [
            ("memory", memory),
            ("time", f"about {minutes}:{seconds:02} for {steps} steps; the last {pace.last:.2g} s"),
        ],
    )


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


def warn_of_network(weights: Weights, preset: str) -> None:
    """Say if the network is not trained, or not that of the preset's program."""
    if not weights.trained:
        why = weights.reason or "an untrained network was asked for"
        complain(
            f"WARNING: THE NETWORK IS NOT TRAINED ({weights.origin}), so this is not the picture "
            f"that trained weights give. Why: {why}. To get them: {CONVERT_COMMAND}"
        )
    elif preset == "pytorch" and weights.network != PRESETS[preset].network:
        complain(
            f"WARNING: {weights.title} paints, but the preset pytorch is a program with VGG-19, so "
            "neither the losses nor the picture are those of that program"
        )


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


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C, SIGTERM or SIGHUP instead of dying of it.

    A second Ctrl-C or SIGTERM kills as usual. SIGHUP comes where a terminal is closed; under nohup,
    which ignores it, it stays ignored.
    """
    received: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on every system
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)

    def receive(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        restore()
        if signum == hangup:  # a closed terminal sends it twice: the kernel does, and the shell
            signal.signal(hangup, signal.SIG_IGN)
        complain("stopping after this step; once more to stop at once")

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()


def work(scales: Plan, step: int) -> int:
    """Return how many pixels the first steps of a run update, all together."""
    done = 0
    for (height, width), steps in scales:
        here = min(step, steps)
        done, step = done + here * height * width, step - here
    return done


def follow(
    snapshots: Iterator[Snapshot],
    scales: Plan,
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
      scales: of the run.
      console: where the progress is shown.
      stopped: asked after each snapshot; says whether the run is to stop there.
      save_every: how many steps lie between two pictures on the way.
      save: takes a snapshot and the number of its step as text, all of one length.
      label: which one of many runs this is; their progress is shown on a terminal alone, and not
        left there.
    """
    total = sum(steps for _, steps in scales)
    digits, all_work = len(str(total)), work(scales, total)
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
    first_step, first_time, line_time = 0, 0.0, 0.0
    with progress:
        for snapshot in snapshots:
            now = time.perf_counter()
            text = _describe(snapshot)
            if first_step:  # a step of a larger scale takes longer
                rate = (snapshot.step - first_step) / (now - first_time)
                done = work(scales, snapshot.step)
                left = (all_work - done) * (now - first_time) / (done - work(scales, first_step))
                text += f" {rate:.2f} steps/s {int(left / 60)}:{int(left % 60):02} left"
            else:  # the first one has waited for the compiler
                first_step, first_time = snapshot.step, now
            progress.update(task, completed=snapshot.step, description=prefix + text)
            ended = snapshot.step == total or not snapshot.finite or stopped()
            if progress.disable and not label and (ended or now - line_time >= _LINE_SECONDS):
                console.print(f"step {snapshot.step:>{digits}}/{total}  {text}")
                line_time = now
            if snapshot.stuck:
                complain_for_all(
                    f"L-BFGS finds no better picture; going on as if at step {snapshot.step}"
                )
            if save_every and snapshot.step % save_every == 0 and snapshot.finite:
                try:
                    save(snapshot, f"{snapshot.step:0{digits}}")
                except (InputError, OSError) as error:  # the run itself is worth more
                    complain(f"{error}; going on")
            if ended:
                break
    return snapshot


def _describe(snapshot: Snapshot) -> str:
    losses = snapshot.losses
    return (
        f"content {losses.content[-1]:.4g} style {losses.style[-1]:.4g} "
        f"total {losses.total[-1]:.4g}"
    )
