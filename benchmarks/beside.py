"""Time what goes with a picture, such as --log and --preview: `python -m benchmarks.beside`.

Each variant is the main job as a process of its own. The variants run in turns, after one run of
each that warms the caches. A table has the medians of the seconds of the run, as the job prints
them, and of the whole process, with their ratios to the job alone.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from rich.console import Console

from nst_jax.cli.flags import Parser, exit_code, positive_int
from nst_jax.errors import InputError

PROGRAM = "benchmarks.beside"
ALONE = "alone"
VARIANTS: Mapping[str, str] = MappingProxyType(
    {
        ALONE: "",
        "manifest": "--no-manifest",
        "log": "--log=steps.jsonl",
        "report": "--report=run.html",
        "timelapse": "--timelapse=film.gif",
        "preview": "--preview",
        "watched": "--preview",
    }
)


class Taken(NamedTuple):
    """The seconds of a run, and of its process."""

    run: float
    process: float


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Time what goes with a picture.")
    add = parser.add_argument
    add("--content", default="png/content.png", metavar="PATH", help="(default: %(default)s)")
    add("--style", default="png/style.png", metavar="PATH", help="(default: %(default)s)")
    add("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="V")
    for flag, value, what in (("--size", 256, "longest side in px"), ("--rounds", 5, "rounds")):
        help = f"{what} (default: %(default)s)"
        add(flag, type=positive_int(), default=value, metavar="N", help=help)
    add("--weights", default="auto", metavar="W", help="as in the main job (default: auto)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    job = [f"--{name}={Path(getattr(flags, name)).absolute()}" for name in ("content", "style")]
    weights = Path(flags.weights)
    job.append(f"--weights={weights.absolute() if weights.exists() else weights}")
    job.append(f"--size={flags.size}")
    names = list(dict.fromkeys([ALONE, *flags.variants]))
    seconds: dict[str, list[Taken]] = {name: [] for name in names}
    console = Console(highlight=False, soft_wrap=True)
    for number in range(flags.rounds + 1):
        for name in names:
            taken = run_job([*job, *VARIANTS[name].split()], watch=name == "watched")
            console.print(f"round {number}, {name}: {taken.run} s of {taken.process:.2f} s")
            if number:  # the first one has compiled
                seconds[name].append(taken)
    console.print(table(seconds), end="")
    return 0


def table(seconds: Mapping[str, Sequence[Taken]]) -> str:
    """Return the table: for each variant its flags, the median seconds, and the ratios."""
    lines = ["| variant | flags | run, s | ratio | process, s | ratio |", "| --- " * 6 + "|"]
    base = _median(seconds[ALONE])
    for name, taken in seconds.items():
        cells = [name, VARIANTS[name]]
        for median, alone in zip(_median(taken), base, strict=True):
            cells += [f"{median:.2f}", f"{median / alone:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _median(taken: Sequence[Taken]) -> Taken:
    return Taken(*(statistics.median(values) for values in zip(*taken, strict=True)))


def run_job(flags: Sequence[str], *, watch: bool) -> Taken:
    """Run the main job in a folder of its own; return the seconds that it took.

    Args:
      flags: of the main job.
      watch: whether a program follows the page of --preview.

    Raises:
      InputError: if the job fails, which prints its own error.
    """
    command, run = [sys.executable, "-m", "nst_jax", *flags], 0.0
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                if wrote := re.match(r"wrote .* in ([\d.]+) s$", line):
                    run = float(wrote[1])
                if watch and (page := re.match(r"preview +(\S+)", line)):
                    threading.Thread(target=_follow, args=(page[1],), daemon=True).start()
        if process.returncode:
            raise InputError(f"the job failed: {' '.join(command)}")
        return Taken(run, time.perf_counter() - began)


def _follow(address: str) -> None:
    """Take what the page shows, as a browser does."""
    code = (
        "import sys; from gradio_client import Client; "
        "job = Client(sys.argv[1], verbose=False, download_files=False)"
        ".submit(api_name='/follow'); list(job)"
    )
    subprocess.run([sys.executable, "-c", code, address], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
