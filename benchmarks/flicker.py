"""Measure how a film flickers: `python -m benchmarks.flicker --flow frames painted other`.

Moves each painted frame to where the next one shows the same, by optical flow from files. Prints
the mean absolute difference of the two, of colors in [0, 1]. What the frame before does not show is
left out. `python png/clip.py frames` writes a film whose flow is exact.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from nst_jax.cli.flags import Parser, exit_code
from nst_jax.cli.inputs import expand
from nst_jax.errors import InputError
from nst_jax.io.flow import load_flow
from nst_jax.io.images import load_image
from nst_jax.motion import resize_flow, seen_before, warp

PROGRAM = "benchmarks.flicker"


def differences(folder: str, flow: str) -> Iterator[tuple[float, float]]:
    """Yield for each frame but the first how far it is from the one before, as it lies and moved.

    Args:
      folder: the frames, as image files.
      flow: the folder of the flow between them; see --flow of the main job.
    """
    frames = map(load_image, expand([folder], role="frames", warn=print))
    for number, (before, frame) in enumerate(pairwise(frames), 1):
        ends = f"backward_{number + 1}_{number}", f"forward_{number}_{number + 1}"
        loaded = (jnp.asarray(load_flow(f"{flow}/{name}.flo")) for name in ends)
        back, onward = (resize_flow(x, frame.shape[:2]) for x in loaded)
        seen = np.asarray(seen_before(back, onward)) > 0
        moved = np.asarray(warp(jnp.asarray(before), back))
        yield float(np.abs(frame - before).mean()), float(np.abs(frame - moved)[seen].mean())


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Measure how films flicker.")
    parser.add_argument("films", nargs="+", metavar="FOLDER", help="frames as image files")
    parser.add_argument("--flow", required=True, metavar="DIR", help="as --flow of the main job")
    return parser


def _run(flags: argparse.Namespace) -> int:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{'':<24}{'as they lie':>14}{'moved':>10}")
    for folder in flags.films:
        found = list(differences(folder, flags.flow))
        if not found:
            raise InputError(f"{folder} has one frame; flicker takes at least two")
        still, moved = np.mean(found, axis=0)
        console.print(f"{folder[-23:]:<24}{still:>14.4f}{moved:>10.4f}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


if __name__ == "__main__":
    sys.exit(main())
