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
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from nst_jax import __version__
from nst_jax.backend import device_name, resolve
from nst_jax.compiled import kept_programs
from nst_jax.config import Config
from nst_jax.errors import InputError
from nst_jax.flags import (
    EXIT_FAILURE,
    Parser,
    add_setting_flags,
    arithmetic_line,
    download_bar,
    exit_code,
    format_setting,
    given_settings,
)
from nst_jax.images import check_output, load_image, save_image
from nst_jax.presets import PRESETS, preset
from nst_jax.problem import build_network, split_config
from nst_jax.transfer import (
    Plan,
    Snapshot,
    check_inputs,
    plan,
    style_shape,
    style_side,
    stylize,
)
from nst_jax.weights import find_weights
from nst_jax.weights_file import CONVERT_COMMAND, Weights

PROGRAM = "nst-jax"
# How often the progress moves, and how long Ctrl-C may take; plain lines come more rarely.
_SECONDS, _LINE_SECONDS = 2.0, 5.0


class Images(NamedTuple):
    """All images that a run is given."""

    content: np.ndarray
    styles: list[np.ndarray]
    start: np.ndarray | None


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="Paint a content image in the manner of a style image."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--content", required=True, metavar="PATH", help="image to paint")
    parser.add_argument(
        "--style",
        required=True,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="image that shows how; several are blended",
    )
    parser.add_argument(
        "--start-image", metavar="PATH", help="image to start from, in place of --start"
    )
    parser.add_argument(
        "--output",
        default="stylized.png",
        metavar="PATH",
        help="picture to write (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        default="default",
        metavar="NAME",
        help=f"settings: {', '.join(PRESETS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--list-presets", action=_ListPresets, help="print every preset's settings and exit"
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


class _ListPresets(argparse.Action):
    """Print the presets as flags, each with what it changes in the default's settings."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        default = Config()
        for name, config in PRESETS.items():
            print(name)
            for setting in dataclasses.fields(Config):
                value = getattr(config, setting.name)
                if name == "default" or value != getattr(default, setting.name):
                    print(f"  {setting.name.replace('_', '-'):<16} {format_setting(value)}")
        parser.exit()


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
    config, images = _checked_inputs(flags)
    config = resolve(config)
    with kept_programs(_complain), jax.enable_x64(config.dtype == "float64"):
        return _paint(flags, config, images)


def _paint(flags: argparse.Namespace, config: Config, images: Images) -> int:
    device, (height, width, _) = device_name(), images.content.shape
    scales = plan(height, width, config)
    console = Console(quiet=flags.quiet, highlight=False, soft_wrap=True)
    with download_bar(Console(stderr=True, quiet=flags.quiet)) as bar:
        deepest = split_config(config)[1].taps[-1]
        weights = find_weights(flags.weights, seed=config.seed, deepest=deepest, progress=bar)
    for label, text in (
        ("device", device),
        ("content", f"{flags.content}, {width}x{height} px"),
        *(
            ("style", f"{path}, {_size(style_shape(image.shape[:2], (height, width), config))} px")
            for path, image in zip(flags.style, images.styles, strict=True)
        ),
        ("weights", weights.origin),
        (
            "steps",
            f"{sum(steps for _, steps in scales)} of {config.optimizer}, preset {flags.preset}",
        ),
        ("scales", ", ".join(f"{_size(shape)}: {steps}" for shape, steps in scales)),
    ):
        console.print(f"{label:<8} {escape(text)}")
    console.print(arithmetic_line(config))
    _warn_if_untrained(weights)

    network = build_network(weights.params, config, deepest=deepest)
    snapshots = stylize(
        images.content,
        images.styles,
        network=network,
        config=config,
        start=images.start,
        snapshot_every=flags.save_every,
        snapshot_seconds=_SECONDS,
    )
    output = Path(flags.output)
    began = time.perf_counter()
    try:
        last, signum = _follow(snapshots, scales, output, flags.save_every, console)
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


def _size(shape: tuple[int, int]) -> str:
    height, width = shape
    return f"{width}x{height}"


def _work(scales: Plan, step: int) -> int:
    """Return how many pixels the first steps of a run update, all together."""
    work = 0
    for (height, width), steps in scales:
        here = min(step, steps)
        work, step = work + here * height * width, step - here
    return work


def _checked_inputs(flags: argparse.Namespace) -> tuple[Config, Images]:
    """Find out everything that a user can get wrong before the work starts; load the images."""
    config, output = _config(flags), Path(flags.output)
    check_output(output)
    for path in (flags.content, *flags.style, flags.start_image):
        if path and output.exists() and os.path.exists(path) and os.path.samefile(output, path):
            raise InputError(f"--output {output} is the input image {path}; name another file")
    content = load_image(flags.content, size=config.size, side=config.side)
    height, width, _ = content.shape
    styles = [_load_style(path, (height, width), config) for path in flags.style]
    check_inputs(content, styles, config)
    start = flags.start_image and load_image(flags.start_image, shape=(height, width))
    return config, Images(content, styles, start)


def _load_style(path: str, picture: tuple[int, int], config: Config) -> np.ndarray:
    if config.style_fit == "stretch":  # as the PyTorch program does
        return load_image(path, shape=style_shape(picture, picture, config))
    size = style_side(picture, config)
    return load_image(path, size=size, side=config.style_fit, enlarge=False)


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
    scales: Plan,
    output: Path,
    save_every: int | None,
    console: Console,
) -> tuple[Snapshot, int]:
    """Show the progress and save pictures; return the last snapshot and the signal received."""
    total = sum(steps for _, steps in scales)
    digits, work = len(str(total)), _work(scales, total)
    progress = Progress(
        BarColumn(bar_width=20),  # the one column that may shrink
        MofNCompleteColumn(table_column=Column(min_width=2 * digits + 1)),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal or console.quiet,
    )
    task = progress.add_task("compiling", total=total)
    first_step, first_time, line_time = 0, 0.0, 0.0
    with _stop_signals() as received, progress:
        for snapshot in snapshots:
            now = time.perf_counter()
            text = _describe(snapshot)
            if first_step:  # a step of a larger scale takes longer
                rate = (snapshot.step - first_step) / (now - first_time)
                done = _work(scales, snapshot.step)
                left = (work - done) * (now - first_time) / (done - _work(scales, first_step))
                text += f" {rate:.2f} steps/s {int(left / 60)}:{int(left % 60):02} left"
            else:  # the first one has waited for the compiler
                first_step, first_time = snapshot.step, now
            progress.update(task, completed=snapshot.step, description=text)
            ended = snapshot.step == total or not snapshot.finite or bool(received)
            if progress.disable and (ended or now - line_time >= _LINE_SECONDS):
                console.print(f"step {snapshot.step:>{digits}}/{total}  {text}")
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


def _describe(snapshot: Snapshot) -> str:
    losses = snapshot.losses
    return (
        f"content {losses.content[-1]:.4g} style {losses.style[-1]:.4g} "
        f"total {losses.total[-1]:.4g}"
    )


if __name__ == "__main__":
    sys.exit(main())
