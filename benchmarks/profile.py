"""Profile a step of this program: `python -m benchmarks.profile --size=256`.

Prints the largest costs by operation, under XLA's names.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# Set before JAX starts: without this flag the trace lacks the operations of a CPU.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_xprof_traceme=true"

import jax
from rich.console import Console

from benchmarks import hlo
from benchmarks.jax_side import Job
from benchmarks.modes import MODES, Mode
from nst_jax.cli.flags import Parser, exit_code, positive_int
from nst_jax.devices.backend import device_name
from nst_jax.io.images import draw_image
from nst_jax.presets import PRESETS
from nst_jax.weights.sources import find_weights

PROGRAM = "benchmarks.profile"


class Event(NamedTuple):
    """One span of a trace."""

    plane: str
    line: str
    name: str
    nanoseconds: float


class Cost(NamedTuple):
    """What one operation costs in each step, all its calls together."""

    name: str
    milliseconds: float
    calls: float


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Print the largest costs of a step, by operation.")
    modes = [mode for mode in MODES.values() if mode.framework == "jax"]
    add = parser.add_argument
    add(
        "--size",
        type=positive_int(least=16),
        default=256,
        metavar="N",
        help="side of the picture (default: 256)",
    )
    for name, default in (("precision", "float32"), ("conv", "auto")):
        choices = list(dict.fromkeys(getattr(mode, name) for mode in modes))
        add(f"--{name}", default=default, choices=choices, help=f"(default: {default})")
    add("--preset", default="pytorch", choices=list(PRESETS), help="(default: pytorch)")
    add("--steps", type=positive_int(), default=3, metavar="N", help="steps to trace (default: 3)")
    add(
        "--top",
        type=positive_int(least=0),
        default=25,
        metavar="N",
        help="lines to print (default: 25)",
    )
    add("--keep", metavar="FOLDER", help="keep the trace, for TensorBoard or Perfetto")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(flags.keep or temporary)
        mode = Mode("jax", flags.precision, flags.conv)
        content, style = (draw_image(seed, flags.size, flags.size) for seed in (0, 1))
        job = Job(mode, content, style, lambda: find_weights("untrained").params, flags.preset)
        origins = sources(job.program())
        job.run(1)
        with jax.profiler.trace(str(folder)):
            job.run(flags.steps)
        path = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        found = costs(operations(read(path)), flags.steps)
    total = sum(cost.milliseconds for cost in found)
    console.print(
        f"{flags.preset}, {mode.name} at {flags.size}x{flags.size} px on {device_name()}: "
        f"{total:.2f} ms a step in {len(found)} operations (all threads together)"
    )
    console.print(f"{'ms':>10} {'share':>6} {'calls':>6}  operation  result  from")
    for cost in found[: flags.top]:
        share = cost.milliseconds / total
        name = f"{cost.name}  {origins.get(cost.name, '')}".rstrip()
        console.print(f"{cost.milliseconds:10.3f} {share:6.1%} {cost.calls:6.4g}  {name}")
    return 0


def read(path: Path) -> Iterator[Event]:
    """Read a trace that `jax.profiler` has written."""
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                yield Event(plane.name, line.name, event.name, event.duration_ns)


def operations(events: Iterable[Event]) -> Iterator[Event]:
    """Keep XLA's operations: those of the devices, or where there is none, of the CPU's threads."""
    listed = list(events)
    device = [event for event in listed if event.plane.startswith("/device:")]
    if device:
        # "XLA Ops", if it exists, repeats the streams' kernels under the program's names.
        named = [event for event in device if event.line == "XLA Ops"]
        yield from named or (event for event in device if event.line.startswith("Stream"))
        return
    for event in listed:
        if event.plane == "/host:CPU" and event.line != "python" and _is_operation(event.name):
            yield event


def _is_operation(name: str) -> bool:
    # "while.3" and "call" hold the operations within them; names with spaces, colons or capitals
    # are the runtime's and Python's own.
    return not (
        name.startswith(("$", "end: ", "while", "conditional", "call"))
        or any(sign in name for sign in " :()")
        or name[:1].isupper()
    )


def sources(program: str) -> dict[str, str]:
    """Return, for each operation of a compiled program's text, its result's shape and its origin.

    The origin is the last part of the path of JAX's operations that the compiler has kept.
    """
    return {
        operation.name: f"{operation.shape}  {operation.origin}"
        for operation in hlo.operations(program)
        if operation.origin
    }


def costs(events: Iterable[Event], steps: int) -> list[Cost]:
    """Sum the events by name, the largest cost first."""
    sums: dict[str, tuple[float, int]] = {}
    for event in events:
        nanoseconds, calls = sums.get(event.name, (0.0, 0))
        sums[event.name] = nanoseconds + event.nanoseconds, calls + 1
    found = [Cost(name, ns / 1e6 / steps, calls / steps) for name, (ns, calls) in sums.items()]
    return sorted(found, key=lambda cost: -cost.milliseconds)


if __name__ == "__main__":
    sys.exit(main())
