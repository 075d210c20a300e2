"""Compile a step for a GPU or a TPU that is not here: `python -m benchmarks.ahead h200`.

XLA compiles for a described device. Nothing is run, and no time is measured. The table gives, for
each operation of a step, the least time in which an NVIDIA GPU could move the bytes and compute the
products, or for a TPU the compiler's estimate in cycles. The table shows passes over maps that
could be part of a convolution, transposes, the number of operations, and the memory.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

# Set before JAX starts: JAX computes nothing here, and libtpu must not look for a TPU.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"

from jax.experimental import topologies
from rich.console import Console

from benchmarks import hlo
from nst_jax.cli.flags import Parser, exit_code, positive_int
from nst_jax.config import Config, ResolvedConfig
from nst_jax.devices.sharding import lay_out
from nst_jax.errors import InputError
from nst_jax.io.files import check_writable
from nst_jax.presets import PRESETS, preset
from nst_jax.scale.ahead_of_time import lower_step

PROGRAM = "benchmarks.ahead"


class Gpu(NamedTuple):
    """An NVIDIA GPU by its data sheet.

    Attributes:
      name: the driver's name of the GPU.
      capability: compute capability.
      cores: streaming multiprocessors.
      gigahertz: their highest clock.
      bandwidth: bytes a second.
      memory: bytes.
      cache: bytes of the L2 cache.
      shared: bytes of shared memory of a multiprocessor.
      rates: dense FLOP/s of matrix products by precision.
    """

    name: str
    capability: str
    cores: int
    gigahertz: float
    bandwidth: float
    memory: float
    cache: float
    shared: int
    rates: Mapping[str, float]


_HOPPER = {"bfloat16": 989e12, "tf32": 495e12, "float32": 67e12}
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", "8.0", 108, 1.41, 2.039e12, 85e9, 42e6, 167936,
        {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12},
    ),
    "h100": Gpu("NVIDIA H100 80GB HBM3", "9.0", 132, 1.98, 3.35e12, 85e9, 52e6, 233472, _HOPPER),
    "h200": Gpu("NVIDIA H200", "9.0", 132, 1.98, 4.8e12, 150e9, 63e6, 233472, _HOPPER),
}  # fmt: skip
# JAX's names of the smallest slices.
TPUS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
_LARGEST_GRAM = 512**2  # elements
# Operations without work. A loop inside a step, as over the pairs of L-BFGS, is not counted.
_FREE = (
    "all-reduce-done",
    "collective-permute-done",
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "constant",
    "after-all",
    "while",
)


class Cost(NamedTuple):
    """One operation of a step.

    Attributes:
      operation: the operation.
      amount: the least microseconds on a GPU, estimated cycles on a TPU.
      moved: bytes that the operation reads and writes, each array once.
      flops: floating-point operations of its products.
    """

    operation: hlo.Operation
    amount: float
    moved: int
    flops: int


def find_devices(target: str, count: int = 1) -> list[Any]:
    """Return descriptions of devices, which need not be here.

    Raises:
      InputError: if the compiler is not installed, or compiles for fewer devices.
    """
    gpu = GPUS.get(target)
    try:
        if gpu:
            kind = {"target_config": _described(gpu), "topology": f"1x1x{count}"}
            found = topologies.get_topology_desc(target, platform="cuda", **kind).devices
        else:
            found = topologies.get_topology_desc(TPUS[target], platform="tpu").devices
    except (RuntimeError, ImportError, PackageNotFoundError) as error:
        raise InputError(
            f"{target}: its compiler does not answer ({str(error).splitlines()[0]}); it comes "
            f"with pip install '.[{'gpu' if gpu else 'tpu'}]'"
        ) from None
    if count > len(found):
        raise InputError(f"--devices {count}: at most {len(found)} of {target} can be compiled for")
    return list(found[:count])


def _described(gpu: Gpu) -> str:
    """Return the description of a GPU for XLA, a GpuTargetConfigProto as text."""
    major, minor = gpu.capability.split(".")
    cudnn = [*version("nvidia-cudnn-cu13").split("."), "0", "0"][:3]
    return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
      shared_memory_per_core: {gpu.shared} shared_memory_per_block_optin: {gpu.shared - 1024}
      threads_per_core_limit: 2048 core_count: {gpu.cores}
      fpus_per_core: {128 if major == "9" else 64}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: {gpu.bandwidth:.0f} l2_cache_size: {gpu.cache:.0f}
      clock_rate_ghz: {gpu.gigahertz} device_memory_size: {gpu.memory:.0f}
      cuda_compute_capability {{ major: {major} minor: {minor} }}
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
    runtime_version {{ major: 13 minor: 0 patch: 0 }}
    device_description_str: "{gpu.name}"
    """


def resolved(target: str, config: Config) -> ResolvedConfig:
    """Return the settings as `Config.resolve` makes them for the device."""
    gpu = GPUS.get(target)
    return config.resolve(
        "gpu" if gpu else "tpu", capability=float(gpu.capability) if gpu else None
    )


def compile_step(
    target: str, size: int, *, config: ResolvedConfig, batch: int = 0, devices: int = 1
) -> Any:
    """Compile the step of a square picture.

    Args:
      target: one of `GPUS` or `TPUS`.
      size: side of the picture in px.
      config: from `resolved`.
      batch: number of pictures at once; 0: one picture, without a batch dimension.
      devices: number of devices that the rows, or the pictures, are spread over.

    Raises:
      InputError: from `find_devices`, or if the devices do not divide the rows.
    """
    shape = (*((batch,) if batch else ()), size, size)
    found = find_devices(target, devices)
    layout = lay_out((*shape, 3), found) if devices > 1 else None
    if layout and (layout.mesh.size < devices or layout.rows != size):
        raise InputError(f"--size {size}: {devices} devices take a multiple of {64 * devices} px")
    return lower_step(shape, [shape], config=config, device=found[0], layout=layout).compile()


def costs(target: str, text: str, config: Config) -> list[Cost]:
    """Return the cost of each operation of a step, the largest first.

    Args:
      target: one of `GPUS` or `TPUS`.
      text: text of the compiled program.
      config: settings of the compiled program.
    """
    program, gpu = hlo.read(text), GPUS.get(target)
    step = program[hlo.bodies(program)[0]]
    types = {operation.name: operation.result for operation in step}
    found = []
    for operation in step:
        if operation.kind in _FREE:
            continue
        # cuDNN's scratch memory is u8.
        written = hlo.count_bytes(re.sub(r"u8\[\d*\]", "", operation.result))
        parts = [hlo.count_bytes(types[name]) for name in operation.operands] + [written]
        if re.search("dynamic.(update.)?slice", operation.name):  # the sliced array stays in place
            parts = [part for part in parts if part < max(parts)]
        moved = sum(parts)
        work = hlo.flops(operation, types, program) if gpu else 0
        if gpu:
            rate = gpu.rates.get(config.precision, gpu.rates["float32"])
            amount = 1e6 * max(moved / gpu.bandwidth, work / rate)
        else:
            cycles = re.search(r'"estimated_cycles":"(\d+)"', operation.rest)
            amount = float(cycles[1]) if cycles else 0.0
        found.append(Cost(operation, amount, moved, work))
    return sorted(found, key=lambda cost: -cost.amount)


def summary(found: Sequence[Cost], text: str) -> str:
    """Return the most telling counts in one line."""
    convolutions = [cost for cost in found if "__cudnn$conv" in cost.operation.rest]
    relu = sum('"activation_mode":"kRelu"' in cost.operation.rest for cost in convolutions)
    turned = [
        cost
        for cost in found
        if re.search("transpose|copy", cost.operation.name)
        and any(math.prod(shape) > _LARGEST_GRAM for _, shape in hlo.arrays(cost.operation.result))
    ]
    known = re.findall(r'known_trip_count":\{"n":"(\d+)"', text)
    parts = [f"{len(found)} operations a step"]
    if convolutions:
        parts.append(f"{len(convolutions)} convolutions, {relu} with their ReLU")
    parts.append(f"{len(turned)} copies or transposes of maps")
    kinds = [cost.operation.kind.removesuffix("-start") for cost in found]
    for kind in ("collective-permute", "all-reduce", "all-gather", "all-to-all"):
        if count := kinds.count(kind):
            parts.append(f"{count} {kind}s")
    return "; ".join(parts + [f"rounds of {', '.join(known)} steps"] * bool(known))


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Compile a step for a device that is not here.")
    add = parser.add_argument
    add("target", choices=[*GPUS, *TPUS], help="the device")
    add(
        "--size",
        type=positive_int(least=16),
        default=512,
        metavar="N",
        help="side of the picture (default: 512)",
    )
    add("--preset", default="pytorch", choices=list(PRESETS), help="(default: pytorch)")
    precisions = ("auto", "float32", "tf32", "bfloat16")
    add("--precision", default="auto", choices=precisions, help="(default: auto)")
    add(
        "--batch",
        type=positive_int(least=0),
        default=0,
        metavar="N",
        help="pictures at once (default: one)",
    )
    add(
        "--devices",
        type=positive_int(),
        default=1,
        metavar="N",
        help="devices that share the picture (default: 1)",
    )
    add(
        "--top",
        type=positive_int(least=0),
        default=25,
        metavar="N",
        help="lines to print (default: 25)",
    )
    add("--keep", metavar="FILE", help="write the compiled program's text")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if flags.keep:
        check_writable(flags.keep, what="the file of --keep")
    config = resolved(flags.target, replace(preset(flags.preset), precision=flags.precision))
    compiled = compile_step(
        flags.target, flags.size, config=config, batch=flags.batch, devices=flags.devices
    )
    text = compiled.as_text() or ""
    if flags.keep:
        Path(flags.keep).write_text(text)
    found = costs(flags.target, text, config)
    memory = compiled.memory_analysis()
    what = f"{flags.devices} x {flags.target}" if flags.devices > 1 else flags.target
    console.print(
        f"{flags.preset} at {flags.size}x{flags.size} px in {config.precision}, compiled for "
        f"{what} by jaxlib {version('jaxlib')}; not run"
    )
    console.print(f"{summary(found, text)}; {memory.temp_size_in_bytes / 1e6:.0f} MB of its own")
    total = sum(cost.amount for cost in found)
    if flags.target in GPUS:
        console.print(f"at least {total / 1e3:.3f} ms by the data sheet's rates")
    else:
        console.print(f"{total / 1e6:.1f} million cycles by the compiler's estimate")
    unit = "us" if flags.target in GPUS else "cycles"
    console.print(f"{unit:>9} {'share':>6} {'MB':>8} {'GFLOP':>7}  operation  result  from")
    for cost in found[: flags.top]:
        operation = cost.operation
        named = f"{operation.name}  {operation.shape}  {operation.origin}".rstrip()
        console.print(
            f"{cost.amount:9.0f} {cost.amount / total:6.1%} {cost.moved / 1e6:8.1f} "
            f"{cost.flops / 1e9:7.2f}  {named}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
