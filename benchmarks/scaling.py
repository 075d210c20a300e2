"""Measure large pictures, batches and devices: `python -m benchmarks.scaling memory|batch|devices`.

memory: seconds a step and bytes a pixel at several sizes, each mode in a process of its own; a mode
that has failed is not run at larger sizes. batch: pictures at once against pictures one after the
other. devices: the rows of a picture over simulated devices, with the bytes that these exchange by
the compiled program.
"""

import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import hlo, machine, output
from benchmarks.driver import ROOT, Plan, Result, measure
from benchmarks.modes import MODES
from benchmarks.speed import prepare
from nst_jax.cli.flags import Parser, exit_code, positive_int
from nst_jax.io.files import atomic_write, check_writable, write_json

PROGRAM = "benchmarks.scaling"
MEMORY_MODES = (
    "jax-float32",
    "jax-float32-blocks",
    "jax-float32-tile512",
    "jax-float32-tile1024",
    "torch-float32-eager-nchw",
    "torch-float32-compile",
)
Rows = list[list[str]]


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("what", choices=("memory", "batch", "devices"))
    add = parser.add_argument
    add(
        "--sizes",
        type=positive_int(least=16),
        nargs="+",
        metavar="N",
        help="sides of the square picture in px",
    )
    add(
        "--modes", nargs="+", choices=MODES, default=MEMORY_MODES, metavar="MODE", help="for memory"
    )
    add(
        "--counts", type=positive_int(), nargs="+", metavar="N", help="pictures at once, or devices"
    )
    add("--rounds", type=positive_int(), default=3, metavar="N", help="timed blocks (default: 3)")
    add(
        "--timeout",
        type=positive_int(),
        default=900,
        metavar="S",
        help="seconds for one start or block (default: 900)",
    )
    add("--content", metavar="PATH", help="memory: an image, made square (default: drawn)")
    add("--style", metavar="PATH", help="memory: the same")
    add("--weights", default="untrained", metavar="W", help="memory: as in the main job")
    add("--json", metavar="FILE", help="write all numbers")
    add("--markdown", metavar="FILE", help="write the table for a document")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["worker"]:
        return _work(*arguments[1:])
    flags = _parser().parse_args(arguments)
    return exit_code(PROGRAM, lambda: _run(flags, arguments))


def _run(flags: argparse.Namespace, arguments: Sequence[str]) -> int:
    for path in filter(None, (flags.json, flags.markdown)):
        check_writable(path, what="the results")
    console = Console(highlight=False, markup=False, width=140)
    report: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", PROGRAM, *arguments]),
        "hardware": machine.describe(),
    }
    headers, rows, report["results"] = _MEASURE[flags.what](flags, console)
    table = Table()
    for name in headers:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if flags.json:
        write_json(flags.json, report)
    if flags.markdown:
        lines = [headers, ["---:"] * len(headers), *rows]
        with atomic_write(flags.markdown) as temporary:
            temporary.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return 0


def _memory(flags: argparse.Namespace, console: Console) -> tuple[list[str], Rows, Any]:
    sizes = flags.sizes or [256, 512, 1024, 2048]
    gpu = bool(machine.gpu_names())
    plan = Plan(
        modes=(),
        sizes=tuple(sizes),
        rounds=flags.rounds,
        steps=1,
        cache="off",
        platform="gpu" if gpu else "cpu",
        threads=None,
        timeout=flags.timeout,
    )
    results: list[Result] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        prepare(flags, plan, folder)
        for size in sizes:
            for mode in flags.modes:
                if mode in failed:
                    results.append(Result(mode, size, failure="failed at a smaller size"))
                    continue
                one = replace(plan, modes=(mode,), steps=None if size < 1024 else 1)
                (found,) = measure(one, Path(folder), size, lambda text: None)
                results.append(found)
                console.print(f"{size} px {mode}: {_memory_cell(found)}")
                if found.failure:
                    failed[mode] = found.failure
    rows = []
    for size in sizes:
        cells = [_memory_cell(found) for found in results if found.size == size]
        rows.append([f"{size}", *cells])
    return ["px", *flags.modes], rows, [result.as_dict() for result in results]


def _memory_cell(found: Result) -> str:
    if found.failure:
        return found.failure
    peak = max([found.peak_bytes, *(start.peak_bytes for start in found.starts.values())])
    pixel = peak / found.size**2
    return f"{output.number(found.median)} s, {peak / 1e9:.2f} GB, {pixel:.0f} B/px"


def _batch(flags: argparse.Namespace, _: Console) -> tuple[list[str], Rows, Any]:
    rows, found = [], []
    counts = flags.counts or [1, 2, 4, 8]
    for size in flags.sizes or [128, 256]:
        times = _worker("batch", json.dumps([size, counts, flags.rounds]))
        medians = [statistics.median(each) for each in times]
        found.append({"size": size, "seconds": dict(zip(counts, times, strict=True))})
        cells = (f"{output.number(x)} s, {medians[0] / x:.2f}x" for x in medians)
        rows.append([f"{size}", *cells])
    return ["px", *(f"{n} at once" for n in counts)], rows, found


def _devices(flags: argparse.Namespace, _: Console) -> tuple[list[str], Rows, Any]:
    rows, found = [], []
    for size in flags.sizes or [512]:
        for count in flags.counts or [1, 2, 4, 8]:
            each = _worker("devices", json.dumps([size, count, flags.rounds]), devices=count)
            found.append({"size": size, "devices": count, **each})
            rows.append(
                [
                    f"{size}",
                    f"{count}",
                    f"{each['temporary'] / 1e6:.0f} MB",
                    f"{each['permute'] / 1e6:.2f} MB in {each['permutes']}",
                    f"{each['reduce'] / 1e6:.2f} MB in {each['reduces']}",
                    f"{each['gathers']}",
                    output.number(statistics.median(each["seconds"])),
                ]
            )
    headers = ["px", "devices", "working memory", "border rows", "sums", "all-gathers", "s a step"]
    return headers, rows, found


_MEASURE = {"memory": _memory, "batch": _batch, "devices": _devices}


def _worker(what: str, request: str, devices: int = 1) -> Any:
    """Measure in a process of its own, with simulated devices if there is no GPU."""
    simulated = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), environment.get("PYTHONPATH")))
    )
    if not machine.gpu_names():
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {simulated}".strip()
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, "worker", what, request],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise OSError(f"a worker failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def _work(what: str, request: str) -> int:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from nst_jax.config import Config
    from nst_jax.devices.backend import resolve
    from nst_jax.devices.sharding import find_devices, lay_out
    from nst_jax.io.images import draw_image
    from nst_jax.network.vgg import freeze
    from nst_jax.scale.interface import ScaleInputs
    from nst_jax.scale.step import advance, build_network, prepare_step
    from nst_jax.scale.whole import WholeScale
    from nst_jax.weights.untrained import untrained_params

    size, count, rounds = json.loads(request)
    config = resolve(Config(conv="direct" if what == "devices" else "auto"))
    taps = config.taps
    network = build_network(untrained_params(0, config.network), config, deepest=taps[-1])
    network = freeze(network, taps=taps)
    content, style = (draw_image(seed, size, size) for seed in (0, 1))

    def block(scale: WholeScale) -> float:
        began = time.perf_counter()
        jax.block_until_ready(scale.advance(1))
        return time.perf_counter() - began

    if what == "batch":
        scales = []
        for n in count:
            many = jnp.asarray(np.stack([content] * n)) if n > 1 else jnp.asarray(content)
            inputs = ScaleInputs(many, [jnp.asarray(style)], many, network, config)
            scales.append(WholeScale(inputs))
            block(scales[-1])
        times: list[list[float]] = [[] for _ in count]
        for _ in range(rounds):
            for n, scale, found in zip(count, scales, times, strict=True):
                found.append(block(scale) / n)
        print(json.dumps(times))
        return 0

    devices = find_devices("all")[:count]
    image = jnp.asarray(content)
    layout = lay_out(image.shape, devices)
    styles = [jnp.asarray(style)]
    state, given = prepare_step(image, styles, network=network, config=config, layout=layout)
    with jax.default_matmul_precision(config.matmul_precision):
        compiled = advance.lower(state, 1, given, layout=layout).compile()
    sent = list(_sent(compiled.as_text() or ""))
    analysis: Any = compiled.memory_analysis()
    scale = WholeScale(ScaleInputs(image, styles, image, network, config, devices=devices))
    block(scale)
    print(
        json.dumps(
            {
                "temporary": analysis.temp_size_in_bytes,
                "permute": sum(size for name, size in sent if name == "collective-permute"),
                "permutes": sum(name == "collective-permute" for name, _ in sent),
                "reduce": sum(size for name, size in sent if name == "all-reduce"),
                "reduces": sum(name == "all-reduce" for name, _ in sent),
                "gathers": sum(name == "all-gather" for name, _ in sent),
                "seconds": [block(scale) for _ in range(rounds)],
            }
        )
    )
    return 0


def _sent(program: str) -> Iterator[tuple[str, int]]:
    """Yield each exchange of a compiled program, with the bytes that a device receives."""
    kinds = ("all-gather", "all-reduce", "collective-permute", "all-to-all")
    for operation in hlo.operations(program):
        if operation.kind in kinds:
            yield operation.kind, hlo.count_bytes(operation.result)


if __name__ == "__main__":
    sys.exit(main())
