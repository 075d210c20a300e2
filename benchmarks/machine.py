"""Describe and measure the machine: `python -m benchmarks.machine jax|torch PLATFORM [CPUS]`.

The command prints the rates of one framework as JSON; each is measured in a process of its own.
"""

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nst-jax", "jax", "jaxlib", "flax", "torch", "triton")
# Sides of the square matrices; float32 elements of the arrays that are copied.
_SIDES = {"cpu": (1024, 2048), "gpu": (4096, 8192, 16384)}
_ELEMENTS = {"cpu": 2**25, "gpu": 2**28}
_REPEATS = 7


def gpu_names() -> list[str]:
    """Return the NVIDIA GPUs that the driver lists; none where there is no driver."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _cpuinfo(key: str) -> str:
    """Return the first value of a key in /proc/cpuinfo, or an empty text."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def cpu_name() -> str:
    """Return the CPU's model name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_count() -> int:
    """Return how many CPUs this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return the hardware, and the versions of the measured packages."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    instructions = _cpuinfo("flags").split()
    return {
        "cpu": cpu_name(),
        "instructions": [
            name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in instructions
        ],
        "cores": cpu_count(),
        "gpus": gpu_names(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
    }


def least_seconds(action: Callable[[], object]) -> float:
    """Return the least seconds of several runs, after a run that does not count."""
    action()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def best(rates: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return, for each rate, the largest that a framework has reached."""
    found: dict[str, float] = {}
    for measured in rates:
        for name, rate in measured.items():
            found[name] = max(rate, found.get(name, 0))
    return found


def jax_rates(where: str) -> dict[str, float]:
    """Measure matrix products and memory in JAX, in operations and bytes a second."""
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_side import check_device

    check_device("gpu" if where == "gpu" else "cpu")
    kinds = {"float32": (jnp.float32, "highest"), "bfloat16": (jnp.bfloat16, "default")}
    if where == "gpu":
        kinds["tf32"] = (jnp.float32, "tensorfloat32")

    def finished(product: Callable[..., Any], *operands: Any) -> None:
        jax.block_until_ready(product(*operands))

    rates: dict[str, float] = {}
    for name, (dtype, precision) in kinds.items():
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        for side in _SIDES[where]:
            a = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
            seconds = least_seconds(functools.partial(finished, product, a, a))
            rates[name] = max(rates.get(name, 0), 2 * side**3 / seconds)
    triad = jax.jit(lambda x, y: 0.5 * x + y, donate_argnums=0)
    x, y = jnp.zeros(_ELEMENTS[where]), jnp.ones(_ELEMENTS[where])

    def add() -> None:
        nonlocal x
        x = triad(x, y).block_until_ready()

    rates["bandwidth"] = 3 * 4 * _ELEMENTS[where] / least_seconds(add)
    return rates


def torch_rates(where: str) -> dict[str, float]:
    """Measure the same in torch."""
    import torch

    from benchmarks.torch_side import check_device

    check_device("gpu" if where == "gpu" else "cpu")
    device = "cuda" if where == "gpu" else "cpu"
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if where == "gpu":
        kinds["tf32"] = torch.float32

    def timed(action: Callable[[], object]) -> float:
        def finished() -> None:
            action()
            if where == "gpu":
                torch.cuda.synchronize()

        return least_seconds(finished)

    rates: dict[str, float] = {}
    for name, dtype in kinds.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        for side in _SIDES[where]:
            a = torch.randn(side, side, device=device).to(dtype)
            out = torch.empty_like(a)
            seconds = timed(functools.partial(torch.mm, a, a, out=out))
            rates[name] = max(rates.get(name, 0), 2 * side**3 / seconds)
    x, y = (torch.ones(_ELEMENTS[where], device=device) for _ in range(2))
    rates["bandwidth"] = 3 * 4 * _ELEMENTS[where] / timed(lambda: torch.add(y, x, out=x))
    return rates


if __name__ == "__main__":
    framework, place, *limit = sys.argv[1:]
    if limit:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(limit[0])])
    print(json.dumps((jax_rates if framework == "jax" else torch_rates)(place)))
