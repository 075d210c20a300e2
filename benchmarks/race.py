"""Measure the time to quality: `python -m benchmarks.race`.

The quality is the total loss that the preset `pytorch` ends at with Adam. The time to this loss is
measured for Adam, for L-BFGS, and for L-BFGS over scales. All runs take turns in one process. A run
rests while its loss is below Adam's, so it is timed up to Adam's last loss and no further. Programs
are compiled before the race.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.console import Console

from nst_jax.cli.flags import Parser, arithmetic_line, exit_code, positive_int
from nst_jax.config import Config
from nst_jax.devices.backend import device_name, resolve
from nst_jax.devices.compilation_cache import kept_programs
from nst_jax.io.files import check_writable, write_json
from nst_jax.io.images import load_image
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.presets import preset
from nst_jax.scale.step import build_network
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.stylize import stylize
from nst_jax.weights.sources import find_weights

PROGRAM = "benchmarks.race"
_SECONDS = 2.0  # of a turn
_FOREVER = 10**6  # steps
ADAM = "adam"


def methods(steps: int) -> dict[str, Config]:
    """Return the settings of each way to minimize the same loss; `steps` are Adam's."""
    adam = dataclasses.replace(preset("pytorch"), steps=steps)
    lbfgs = dataclasses.replace(adam, optimizer="lbfgs", memory_size=10, steps=_FOREVER)
    torch = dataclasses.replace(adam, optimizer="lbfgs-torch", steps=_FOREVER)
    return {
        ADAM: adam,
        "adam, learning rate 0.02": dataclasses.replace(adam, learning_rate=0.02, steps=_FOREVER),
        "lbfgs-torch": torch,
        "lbfgs": lbfgs,
        "lbfgs over scales": dataclasses.replace(
            lbfgs, min_size=64, scale_factor=2.0, first_steps=100, steps=100
        ),
    }


class Runner:
    """One run, some seconds at a time.

    Attributes:
      seconds: time used so far.
      best: the least total loss so far at the final size.
    """

    def __init__(self, snapshots: Iterator[Snapshot[Losses]], shape: tuple[int, ...]):
        self._snapshots, self._shape = snapshots, shape
        self.seconds, self.best, self.steps, self.ended = 0.0, np.inf, 0, False
        self.curve: list[tuple[float, float]] = []

    def advance(self) -> None:
        """Take one turn."""
        began = time.perf_counter()
        snapshot = next(self._snapshots, None)
        self.seconds += time.perf_counter() - began
        if snapshot is None or not snapshot.finite:
            self.ended = True
            return
        self.steps = snapshot.step
        if snapshot.image.shape == self._shape:
            self.best = min(self.best, float(snapshot.losses.total.min()))
            self.curve.append((self.seconds, self.best))


def race(runners: Mapping[str, Runner]) -> None:
    """Let the runs take turns until Adam has ended and no other run is behind Adam."""
    adam = runners[ADAM]
    while not adam.ended:
        adam.advance()
        for runner in runners.values():
            while runner is not adam and not runner.ended and runner.best > adam.best:
                runner.advance()


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Time ways to minimize the PyTorch program's loss.")
    add = parser.add_argument
    add("--content", default="png/content.png", metavar="PATH", help="(default: %(default)s)")
    add("--style", default="png/style.png", metavar="PATH", help="(default: %(default)s)")
    add(
        "--size",
        type=positive_int(least=16),
        default=256,
        metavar="N",
        help="longest side in px (default: 256)",
    )
    add("--steps", type=positive_int(), default=2000, metavar="N", help="of Adam (default: 2000)")
    add("--weights", default="auto", metavar="W", help="as in the main job (default: auto)")
    add("--json", metavar="FILE", help="write all numbers, the curves too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    if flags.json:
        check_writable(flags.json, what="the file of --json")
    console = Console(highlight=False, soft_wrap=True)
    content = load_image(flags.content, size=flags.size)
    style = load_image(flags.style, shape=content.shape[:2])
    weights = find_weights(flags.weights)
    runners: dict[str, Runner] = {}
    with kept_programs(lambda message: print(message, file=sys.stderr)):
        for name, config in methods(flags.steps).items():
            config = resolve(dataclasses.replace(config, network=weights.network))
            network = build_network(weights.params, config)

            def start(config: Config, network: VGG = network) -> Iterator[Snapshot[Losses]]:
                return stylize(
                    content,
                    style,
                    network=network,
                    config=config,
                    snapshot_every=None,
                    snapshot_seconds=_SECONDS,
                )

            for _ in start(dataclasses.replace(config, steps=1, first_steps=1)):
                pass  # compiles
            runners[name] = Runner(start(config), content.shape)
        console.print(f"device   {device_name()}\nweights  {weights.origin}")
        console.print(f"{arithmetic_line(config)}, {content.shape[1]}x{content.shape[0]} px")
        race(runners)
    target, seconds = runners[ADAM].best, runners[ADAM].seconds
    console.print(f"{'to a loss of ' + format(target, '.4g'):<26} steps  seconds  times Adam's")
    for name, runner in runners.items():
        share = runner.seconds / seconds
        reached = "" if runner.best <= target else f"  not reached: {runner.best:.4g}"
        console.print(f"{name:<26} {runner.steps:>5} {runner.seconds:>8.1f} {share:>9.3f}{reached}")
    if flags.json:
        report = {
            "device": device_name(),
            "size": content.shape[:2],
            "target": target,
            "curves": {name: runner.curve for name, runner in runners.items()},
        }
        write_json(flags.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
