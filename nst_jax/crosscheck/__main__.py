"""The command line of the cross-check: `python -m nst_jax.crosscheck`, or `nst-jax-crosscheck`.

It runs the PyTorch program and this program on the same images, and compares them rung by rung; a
rung is one comparison of `nst_jax.crosscheck.ladder`.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from os.path import expanduser  # the shell leaves the ~ of --content=~/a.jpg
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import safetensors
import safetensors.numpy
from rich.console import Console

from nst_jax.cli.flags import (
    EXIT_FAILURE,
    Parser,
    add_setting_flags,
    arithmetic_line,
    exit_code,
    given_settings,
    load_weights,
)
from nst_jax.cli.output import make_console
from nst_jax.config import Config, Layer, Optimizer, ResolvedConfig
from nst_jax.crosscheck import ladder, report
from nst_jax.crosscheck.ladder import Record
from nst_jax.devices.backend import device_name, resolve
from nst_jax.devices.compilation_cache import kept_programs
from nst_jax.errors import InputError
from nst_jax.geometry import fit, shape_of
from nst_jax.io.files import atomic_write, check_writable
from nst_jax.io.images import draw_image, load_image
from nst_jax.presets import preset
from nst_jax.transfer.schedule import make_schedule
from nst_jax.weights.converted_file import is_converted
from nst_jax.weights.state_dict import to_state_dict

PROGRAM = "nst-jax-crosscheck"
# An odd size, where rounding up and down differ; the run takes half a minute.
_BASE = dataclasses.replace(
    preset("pytorch"), size=131, steps=50, precision="float32", conv="direct"
)
_OPTIMIZERS: dict[str, Optimizer] = {"adam": "adam", "lbfgs": "lbfgs-torch"}
_FORMAT = "nst_jax.record.3"
# The settings that --against may change from those of the record.
_FREE = {"precision", "conv"}


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Compare this program with the PyTorch program on the same images, from single "
        "operations to the whole run; exit code 1 if an error is over its budget.",
    )
    drawn = "an image (default: a drawn one)"
    parser.add_argument("--content", type=expanduser, metavar="PATH", help=drawn)
    parser.add_argument("--style", type=expanduser, metavar="PATH", help=drawn)
    parser.add_argument("--weights", metavar="W", help="as in the main job (default: auto)")
    parser.add_argument(
        "--optimizer",
        dest="method",  # lbfgs is torch's name, no value of the setting
        choices=_OPTIMIZERS,
        help="lbfgs: torch.optim.LBFGS (default: adam)",
    )
    parser.add_argument("--json", type=expanduser, metavar="FILE", help="write all numbers")
    parser.add_argument(
        "--plot",
        type=expanduser,
        metavar="FILE",
        help=f"draw both loss curves and the error along the run; {', '.join(report.PLOTS)}",
    )
    parser.add_argument(
        "--export",
        type=expanduser,
        metavar="FILE",
        help="run the PyTorch program only, and write its record, .safetensors",
    )
    parser.add_argument(
        "--against",
        type=expanduser,
        metavar="FILE",
        help="compare with a record of --export; needs no torch, images or weights",
    )
    parser.add_argument("--quiet", action="store_true", help="print only what is over its budget")
    names = "size steps learning_rate memory_size content_weight style_weight network pooling"
    add_setting_flags(parser, names=(*names.split(), "precision", "conv", "seed"), base=_BASE)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    console = make_console(quiet=flags.quiet, markup=False)
    _check_outputs(flags)
    if flags.against:
        _refuse_what_the_record_fixes(flags)
        record, saved = _load_record(Path(flags.against))
        config = resolve(dataclasses.replace(saved, **given_settings(flags)))
        console.print(f"record   {flags.against}")
        _print_run(record, config, console)
    else:
        record, config = _make_record(flags, console)
    if flags.export:
        _save_record(Path(flags.export), record, config)
        console.print(f"wrote    {flags.export}")
        return 0
    console.print(f"jax      {jax.__version__} on {device_name()}")
    console.print(arithmetic_line(config))
    return _compare(flags, record, config, console)


def _check_outputs(flags: argparse.Namespace) -> None:
    for name, suffixes in (
        ("json", (".json",)),
        ("plot", report.PLOTS),
        ("export", (".safetensors",)),
    ):
        path = getattr(flags, name)
        if path is None:
            continue
        if Path(path).suffix not in suffixes:
            raise InputError(f"--{name} {path}: the name must end in {' or '.join(suffixes)}")
        if name != "export" and flags.export:
            raise InputError(f"--export only runs the PyTorch side; leave out --{name}")
        check_writable(path, what=f"the file of --{name}")
    if flags.export and flags.against:
        raise InputError("--export makes the file that --against reads; give one of them")
    if flags.plot:
        report.check_plotting()


def _refuse_what_the_record_fixes(flags: argparse.Namespace) -> None:
    fixed = {"content": flags.content, "style": flags.style, "weights": flags.weights}
    fixed |= {"optimizer": flags.method, **given_settings(flags)}
    given = [name for name, value in fixed.items() if value is not None and name not in _FREE]
    if given:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{listed}: the record {flags.against} fixes that; leave it out")


def _make_record(flags: argparse.Namespace, console: Console) -> tuple[Record, ResolvedConfig]:
    pytorch_record, reference = _torch_side()
    optimizer = _OPTIMIZERS[flags.method or "adam"]
    given = given_settings(flags)
    asked = dataclasses.replace(_BASE, optimizer=optimizer, **given)
    asked.check_given(given)
    config = resolve(asked)
    content, style = _images(flags, config)
    flags.weights = flags.weights or "auto"
    weights, config = load_weights(
        flags.weights, config, given=given, quiet=flags.quiet, warn=_warn
    )
    path = Path(flags.weights).expanduser()
    if path.is_file() and not is_converted(path):
        state = reference.load_state(path, name=config.network)  # torch reads the file by itself
    else:
        arrays = to_state_dict(weights.params, config.network)
        state = {key: reference.torch.from_numpy(array) for key, array in arrays.items()}
    console.print(f"content  {flags.content or 'drawn'}")
    console.print(f"style    {flags.style or 'drawn'}")
    reason = f" ({weights.reason})" if weights.reason else ""
    console.print(f"weights  {weights.title}, {weights.origin}{reason}")
    began = time.perf_counter()
    with make_console(stderr=True, quiet=flags.quiet).status("running the PyTorch program"):
        record = pytorch_record.record(state, content, style, config)
    seconds = time.perf_counter() - began
    _print_run(record, config, console)
    console.print(f"torch    {reference.torch.__version__}, {config.image_dtype}, {seconds:.0f} s")
    return record, config


def _print_run(record: Record, config: Config, console: Console) -> None:
    height, width, _ = record["image/content"].shape
    console.print(
        f"run      {config.steps} steps of {config.optimizer} at {width}x{height} px, "
        f"{config.pooling} pooling"
    )


def _torch_side() -> tuple[ModuleType, ModuleType]:
    try:
        from nst_jax import pytorch_reference
        from nst_jax.crosscheck import pytorch_record
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            "the PyTorch side needs torch: pip install 'nst-jax[crosscheck]'; or export a file "
            "on a machine that has it (--export FILE) and give it here with --against FILE"
        ) from None
    return pytorch_record, pytorch_reference


def _images(flags: argparse.Namespace, config: Config) -> tuple[np.ndarray, np.ndarray]:
    if flags.content:
        content = load_image(flags.content, size=config.size, side=config.side)
    else:
        content = draw_image(0, *fit(3, 4, config.size, side=config.side))
    height, width = content.shape[:2]
    style = load_image(flags.style, shape=(height, width)) if flags.style else None
    style = draw_image(1, height, width) if style is None else style
    make_schedule(shape_of(content), [shape_of(style)], config)  # which checks their sizes
    return content, style


def _compare(
    flags: argparse.Namespace, record: Record, config: ResolvedConfig, console: Console
) -> int:
    rungs: list[ladder.Rung] = []

    def show(rung: ladder.Rung) -> None:
        rungs.append(rung)
        line = report.line(rung)
        console.print(line)
        if flags.quiet and not rung.passed:
            print(line)

    console.print(report.HEADER)
    began = time.perf_counter()
    with kept_programs(_warn), jax.enable_x64(config.dtype == "float64"):
        network = ladder.network_of(record, config)
        for rung in ladder.climb(record, network, config):
            show(rung)
        with make_console(stderr=True, quiet=flags.quiet).status("running the main job"):
            trajectory = ladder.run_beside(record, network, config)
        for rung in ladder.trajectory_rungs(trajectory, record, config):
            show(rung)
    console.print(f"{time.perf_counter() - began:.0f} s")
    broken = [rung for rung in rungs if not rung.passed]
    if flags.json:
        report.write_json(Path(flags.json), rungs, trajectory, config)
    if flags.plot:
        report.write_plot(Path(flags.plot), trajectory, config)
    if broken:
        print(
            f"FAILED: {len(broken)} of {len(rungs)} rungs are over their budget; "
            f"the first is: {broken[0].name}"
        )
        return EXIT_FAILURE
    console.print(f"passed: all {len(rungs)} rungs are within their budgets")
    return 0


def _warn(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def _save_record(path: Path, record: Record, config: Config) -> None:
    # The record does not depend on the convolution: --against chooses it.
    settings = dataclasses.asdict(dataclasses.replace(config, conv=_BASE.conv))
    metadata = {"format": _FORMAT, "config": json.dumps(settings)}
    # safetensors ignores strides, and a state dict may hold transposed kernels.
    arrays = {key: np.asarray(array, order="C") for key, array in record.items()}
    with atomic_write(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def _load_record(path: Path) -> tuple[Record, Config]:
    if not path.is_file():
        raise InputError(f"{path}: {'this is a folder' if path.is_dir() else 'no such file'}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise InputError(f"{path} is not a file that --export wrote")
        record = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is truncated or no file of --export ({error})") from error
    settings = json.loads(metadata["config"])
    lists = {
        name: tuple(Layer(*each) if isinstance(each, list) else each for each in value)
        for name, value in settings.items()
        if isinstance(value, list)
    }
    return record, Config(**settings | lists)


if __name__ == "__main__":
    sys.exit(main())
