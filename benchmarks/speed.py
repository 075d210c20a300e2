"""Time a step here and in PyTorch, on a CPU or a GPU: `python -m benchmarks.speed`.

Each mode at each size has a process of its own. The processes of one size are timed in turns, so
that a drift of the machine's speed is the same for all.
"""

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from benchmarks import machine, output
from benchmarks.driver import Cache, Plan, Result, measure, worker_environment
from benchmarks.modes import DEFAULT_MODES, MODES, Platform
from nst_jax.cli.flags import EXIT_FAILURE, EXIT_USAGE, Parser, exit_code, positive_int
from nst_jax.crosscheck.report import check_plotting
from nst_jax.errors import InputError
from nst_jax.io.files import check_writable

PROGRAM = "benchmarks.speed"
SIZES = (256, 400, 512, 1024)
_LEAST_SIZE = 16  # px, of which relu5_1 has one
_FILE_WIDTH = 160  # of tables that go into a file


def _steps(text: str) -> int | None:
    return None if text == "auto" else positive_int()(text)


def _mode(text: str) -> str:
    if text not in MODES:
        raise argparse.ArgumentTypeError(f"unknown mode {text!r}; allowed are {', '.join(MODES)}")
    return text


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Time a step of this program and of the PyTorch program in turns; print a "
        "table for each size. Exit code 1 if nothing could be measured.",
    )
    add = parser.add_argument
    add(
        "--sizes",
        type=positive_int(least=_LEAST_SIZE),
        nargs="+",
        default=SIZES,
        metavar="N",
        help="sides of the square picture in px",
    )
    add(
        "--modes",
        type=_mode,
        nargs="+",
        metavar="MODE",
        help="what to compare (default on a CPU: "
        + " ".join(DEFAULT_MODES["cpu"])
        + "; on a GPU: "
        + " ".join(DEFAULT_MODES["gpu"])
        + "); torch also has -max-autotune",
    )
    add("--rounds", type=positive_int(), default=7, metavar="N", help="timed blocks (default: 7)")
    add(
        "--steps",
        type=_steps,
        metavar="N|auto",
        help="steps in a block; auto: as many as take 2 s, at least 2 if a step takes up to 4 s",
    )
    add(
        "--cache",
        choices=get_args(Cache),
        default="both",
        help="compilation cache at the start; cold: empty; warm: filled by an earlier process; "
        "both: a cold and a warm start; off: no cache (default: both)",
    )
    add("--device", choices=("auto", *get_args(Platform)), default="auto", help="(default: auto)")
    add(
        "--threads",
        type=positive_int(),
        metavar="N",
        help="CPUs that a worker may use (default: all)",
    )
    add("--content", metavar="PATH", help="an image, made square (default: a drawn one)")
    add("--style", metavar="PATH", help="the same")
    add(
        "--weights",
        default="untrained",
        metavar="W",
        help="as in the main job (default: untrained)",
    )
    add("--no-rates", action="store_true", help="leave out the machine's matrix and memory rates")
    add(
        "--timeout",
        type=positive_int(),
        default=900,
        metavar="S",
        help="seconds for one start or block (default: 900)",
    )
    add("--json", metavar="FILE", help="write all numbers")
    add("--markdown", metavar="FILE", help="write the tables for a document")
    add("--plot", metavar="FILE", help=f"seconds over pixels; {', '.join(output.PLOTS)}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    flags = _parser().parse_args(arguments)
    return exit_code(PROGRAM, lambda: _run(flags, arguments))


def _run(flags: argparse.Namespace, arguments: Sequence[str]) -> int:
    _check_outputs(flags)
    hardware = machine.describe()
    gpu = flags.device == "gpu" or (flags.device == "auto" and bool(hardware["gpus"]))
    platform: Platform = "gpu" if gpu else "cpu"
    if flags.threads and flags.threads > hardware["cores"]:
        raise InputError(f"--threads {flags.threads}: this process may use {hardware['cores']}")
    if flags.threads and not hasattr(os, "sched_setaffinity"):
        raise InputError(f"--threads {flags.threads}: this system cannot bind processes to CPUs")
    plan = Plan(
        modes=tuple(dict.fromkeys(flags.modes or DEFAULT_MODES[platform])),
        sizes=tuple(dict.fromkeys(flags.sizes)),
        rounds=flags.rounds,
        steps=flags.steps,
        cache=flags.cache,
        platform=platform,
        threads=flags.threads,
        timeout=flags.timeout,
    )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_FILE_WIDTH)
    status = Console(stderr=True).status("preparing")
    report: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", PROGRAM, *arguments]),
        "platform": platform,
        "threads": plan.threads,
        "cache": plan.cache,
        "hardware": hardware,
        "rates": {},
    }
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, status:
        report["weights"] = prepare(flags, plan, folder)
        if not flags.no_rates:
            status.update("measuring the machine")
            report["rates_by_framework"] = {name: _rates(plan, name) for name in ("jax", "torch")}
            report["rates"] = machine.best(report["rates_by_framework"].values())
        console.print(output.heading(report), soft_wrap=True)
        for size in plan.sizes:
            found = measure(plan, Path(folder), size, status.update)
            results += found
            console.print(output.table(found), soft_wrap=True)
            # After each size, for an interrupted run.
            _write(flags, report, results)
    if kinds := output.starts_text(results):
        console.print(f"starts: {kinds}. {output.NOTE}.", soft_wrap=True)
    _warn_of_idlers(results, console)
    return EXIT_FAILURE if all(result.failure for result in results) else 0


def _check_outputs(flags: argparse.Namespace) -> None:
    for name, suffixes in (("json", (".json",)), ("markdown", (".md",)), ("plot", output.PLOTS)):
        path = getattr(flags, name)
        if path is None:
            continue
        if Path(path).suffix not in suffixes:
            raise InputError(f"--{name} {path}: the name must end in {' or '.join(suffixes)}")
        check_writable(path, what=f"the file of --{name}")
    if flags.plot:
        check_plotting()


def prepare(flags: argparse.Namespace, plan: Plan, folder: str) -> str:
    """Write the inputs of the workers; return the origin of the weights."""
    request = {
        "folder": folder,
        "sizes": plan.sizes,
        "weights": flags.weights,
        **{
            role: str(Path(path).absolute()) if (path := getattr(flags, role)) else None
            for role in ("content", "style")
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.inputs", json.dumps(request)],
        capture_output=True,
        text=True,
        # On the CPU, so that untrained weights take no memory of the GPU.
        env=worker_environment(plan, None) | {"JAX_PLATFORMS": "cpu"},
    )
    if done.returncode == EXIT_USAGE:
        raise InputError(done.stderr.strip().removeprefix(f"{PROGRAM}: error: "))
    if done.returncode != 0:
        raise OSError(f"the inputs could not be made: {done.stderr.strip().splitlines()[-1]}")
    origin: str = json.loads(done.stdout)["weights"]
    return origin


def _rates(plan: Plan, framework: str) -> dict[str, float]:
    """Measure the rates of one framework; an unusable framework has none."""
    command = [sys.executable, "-m", "benchmarks.machine", framework, plan.platform]
    if plan.threads:
        command += [str(plan.threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=worker_environment(plan, None)
    )
    rates: dict[str, float] = json.loads(done.stdout) if done.returncode == 0 else {}
    return rates


def _write(flags: argparse.Namespace, report: dict[str, Any], results: list[Result]) -> None:
    for name in ("json", "markdown", "plot"):
        if path := getattr(flags, name):
            getattr(output, f"write_{name}")(Path(path), report, results)


def _warn_of_idlers(results: Sequence[Result], console: Console) -> None:
    """Name the workers that used CPU time between their blocks, and so disturbed the others."""
    for result in results:
        if result.idle_cpu_seconds > 0.05:
            console.print(
                f"note: {result.mode} at {result.size} px used up to "
                f"{result.idle_cpu_seconds:.2f} s of CPU time between its blocks",
                soft_wrap=True,
            )


if __name__ == "__main__":
    sys.exit(main())
