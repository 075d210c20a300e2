"""The command line of the main job: `python main.py`, or `nst-jax` where it is installed."""

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from nst_jax import __version__
from nst_jax.backend import device_name, resolve
from nst_jax.compiled import kept_programs
from nst_jax.config import PRESETS, Config, preset
from nst_jax.errors import InputError
from nst_jax.flags import (
    EXIT_FAILURE,
    Parser,
    add_setting_flags,
    arithmetic_line,
    download_bar,
    exit_code,
    given_settings,
)
from nst_jax.images import check_output, load_image, save_image
from nst_jax.transfer import Snapshot, build_network, check_inputs, split_config, stylize
from nst_jax.weights import find_weights
from nst_jax.weights_file import CONVERT_COMMAND, Weights

PROGRAM = "nst-jax"
# How often the progress moves, and how long Ctrl-C may take; plain lines come more rarely.
_SECONDS, _LINE_SECONDS = 2.0, 5.0


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="Paint a content image in the manner of a style image."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--content", required=True, metavar="PATH", help="image to paint")
    parser.add_argument("--style", required=True, metavar="PATH", help="image that shows how")
    parser.add_argument(
        "--output",
        default="stylized.png",
        metavar="PATH",
        help="picture to write (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        default="pytorch",
        metavar="NAME",
        help=f"settings: {', '.join(PRESETS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="W",
        help="auto (cached, else downloaded, else untrained), pretrained (fails where auto goes "
        "untrained), untrained[:SEED], or a file: converted .safetensors or torch .pth "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--save-every", type=_positive, metavar="N", help="also write the picture every N steps"
    )
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    add_setting_flags(parser)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _config(flags: argparse.Namespace) -> Config:
    given = given_settings(flags)
    config = dataclasses.replace(preset(flags.preset), **given)
    config.check_given(given)
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with the given arguments, by default the process's; return its code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    config, content, style = _checked_inputs(flags)
    config = resolve(config)
    with kept_programs(_complain), jax.enable_x64(config.dtype == "float64"):
        return _paint(flags, config, content, style)


def _paint(
    flags: argparse.Namespace, config: Config, content: np.ndarray, style: np.ndarray
) -> int:
    device, (height, width, _) = device_name(), content.shape
    console = Console(quiet=flags.quiet, highlight=False, soft_wrap=True)
    with download_bar(Console(stderr=True, quiet=flags.quiet)) as bar:
        deepest = split_config(config)[1].taps[-1]
        weights = find_weights(flags.weights, seed=config.seed, deepest=deepest, progress=bar)
    for label, text in (
        ("device", device),
        ("content", f"{flags.content}, {width}x{height} px"),
        ("style", f"{flags.style}, at the same size"),
        ("weights", weights.origin),
        ("steps", f"{config.steps} of {config.optimizer}, preset {flags.preset}"),
    ):
        console.print(f"{label:<8} {escape(text)}")
    console.print(arithmetic_line(config))
    _warn_if_untrained(weights)

    network = build_network(weights.params, config, deepest=deepest)
    snapshots = stylize(
        content,
        style,
        network=network,
        config=config,
        snapshot_every=flags.save_every or config.steps,
        snapshot_seconds=_SECONDS,
    )
    output = Path(flags.output)
    began = time.perf_counter()
    try:
        last, signum = _follow(snapshots, config, output, flags.save_every, console)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _complain(f"out of memory at {width}x{height} px on {device}; give a smaller --size")
        return EXIT_FAILURE
    seconds = time.perf_counter() - began
    saved = _save_or_rescue(output, last)
    if saved:
        console.print(escape(f"wrote    {output} after {last.step} steps in {seconds:.1f} s"))
    _warn_if_untrained(weights)
    if not last.finite:
        _complain(
            f"the loss became infinite or not a number by step {last.step}: the picture is the "
            f"last good one; give a smaller --learning-rate than {config.learning_rate}"
        )
    if signum:
        _complain(f"stopped by {signal.Signals(signum).name}: {output} is the picture so far")
        return 128 + signum
    return 0 if saved and last.finite else EXIT_FAILURE


def _checked_inputs(flags: argparse.Namespace) -> tuple[Config, np.ndarray, np.ndarray]:
    """Find out everything that a user can get wrong before the work starts; load the images."""
    config, output = _config(flags), Path(flags.output)
    check_output(output)
    for path in (flags.content, flags.style):
        if output.exists() and os.path.exists(path) and os.path.samefile(output, path):
            raise InputError(f"--output {output} is the input image {path}; name another file")
    content = load_image(flags.content, size=config.size)
    # As the PyTorch program does: the style image takes the content's size, whatever its shape.
    style = load_image(flags.style, shape=content.shape[:2])
    check_inputs(content, style, config)
    return config, content, style


def _save_or_rescue(output: Path, snapshot: Snapshot) -> bool:
    """Save the picture; where that fails, save it in a temporary folder: hours are not lost."""
    image = np.asarray(snapshot.image)
    try:
        save_image(output, image)
    except (InputError, OSError) as error:
        rescue = Path(tempfile.mkdtemp(prefix="nst-jax-"), output.name)
        save_image(rescue, image)
        _complain(f"{error}; the picture is {rescue}")
        return False
    return True


def _complain(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def _warn_if_untrained(weights: Weights) -> None:
    if not weights.trained:
        why = weights.reason or "an untrained network was asked for"
        _complain(
            f"WARNING: THE NETWORK IS NOT TRAINED ({weights.origin}), so this is not the picture "
            f"that trained weights give. Why: {why}. To get them: {CONVERT_COMMAND}"
        )


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM instead of dying of it; the second one kills as usual."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)

    def receive(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        restore()
        _complain("stopping after this step; once more to stop at once")

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


def _follow(
    snapshots: Iterator[Snapshot],
    config: Config,
    output: Path,
    save_every: int | None,
    console: Console,
) -> tuple[Snapshot, int]:
    """Show the progress and save pictures; return the last snapshot and the signal received."""
    digits = len(str(config.steps))
    progress = Progress(
        BarColumn(bar_width=20),  # the one column that may shrink
        MofNCompleteColumn(table_column=Column(min_width=2 * digits + 1)),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal or console.quiet,
    )
    task = progress.add_task("compiling", total=config.steps)
    first_step, first_time, line_time = 0, 0.0, 0.0
    with _stop_signals() as received, progress:
        for snapshot in snapshots:
            now = time.perf_counter()
            rate = (snapshot.step - first_step) / (now - first_time) if first_step else 0.0
            if not first_step:  # the first one has waited for the compiler
                first_step, first_time = snapshot.step, now
            text = _describe(snapshot, rate, config.steps)
            progress.update(task, completed=snapshot.step, description=text)
            ended = snapshot.step == config.steps or not snapshot.finite or bool(received)
            if progress.disable and (ended or now - line_time >= _LINE_SECONDS):
                console.print(f"step {snapshot.step:>{digits}}/{config.steps}  {text}")
                line_time = now
            if save_every and snapshot.step % save_every == 0 and snapshot.finite:
                name = f"{output.stem}_{snapshot.step:0{digits}}{output.suffix}"
                try:
                    save_image(output.with_name(name), np.asarray(snapshot.image))
                except (InputError, OSError) as error:  # the run itself is worth more
                    _complain(f"{error}; going on")
            if ended:
                break
    return snapshot, received[0] if received else 0


def _describe(snapshot: Snapshot, rate: float, steps: int) -> str:
    losses = snapshot.losses
    text = (
        f"content {losses.content[-1]:.4g} style {losses.style[-1]:.4g} "
        f"total {losses.total[-1]:.4g}"
    )
    if rate:
        minutes, seconds = divmod(round((steps - snapshot.step) / rate), 60)
        text += f" {rate:.2f} steps/s {minutes}:{seconds:02} left"
    return text


if __name__ == "__main__":
    sys.exit(main())
