"""The memory and the time that a run needs, estimated before its first step.

Memory comes from the compiled program's own analysis, time from a few steps that are made.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from nst_jax.config import Config, ResolvedConfig
from nst_jax.devices.backend import default_device, resolve
from nst_jax.devices.sharding import rows_of_a_device
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, Size
from nst_jax.network.vgg import Remat, freeze
from nst_jax.scale.ahead_of_time import blank_network, compile_step, compile_window_gradient
from nst_jax.scale.interface import ScaleInputs
from nst_jax.scale.prepare import begin_scale
from nst_jax.scale.windows import Cover
from nst_jax.transfer.schedule import ScalePlan, Schedule, make_schedule

# The memory of a process beside the compiled program: the interpreter, JAX, the compiler and the
# weights as they were read; for each pixel, the images, the targets and the shown picture.
# Measured on a CPU: with them the estimate is 2 to 8 % above the peak from 256 to 1024 px.
_PROCESS_BYTES, _PIXEL_BYTES = 850 * 10**6, 300
_CGROUP = Path("/sys/fs/cgroup")  # version 2
# The share of the free memory that is left to allocators and other processes.
_RESERVE = 0.05
# Bytes for each pixel, more than twice what any program of ours takes (docs/scaling.md). Where they
# fit, no program is analyzed.
_BOUND = 6000
_LEAST_SIZE = 256  # px; the smallest size whose program is analyzed to find the largest that fits


class Need(NamedTuple):
    """What a run needs where its largest scale is computed.

    Attributes:
      device: bytes on each device.
      host: bytes of host memory; on a CPU both are the same memory.
    """

    device: int
    host: int


def estimate_memory(
    shape: Shape, styles: Sequence[Shape], *, config: Config, batch: int = 0, devices: int = 1
) -> Need:
    """Return the memory that a run needs. Nothing is computed, but its largest program is compiled.

    Args:
      shape: (height, width) of the picture in px.
      styles: (height, width) of each style image as it is given.
      config: the settings; what is "auto" is chosen for JAX's default device.
      batch: how many pictures at once; 0: one, without a batch's dimension.
      devices: how many the pictures, or the rows of one, are spread over.

    Raises:
      InputError: if `stylize` would raise it for these sizes and settings.
    """
    resolved, schedule = resolve(config, devices=devices), make_schedule(shape, styles, config)
    return need(schedule.last, config=resolved, batch=batch, devices=devices)


def need(plan: ScalePlan, *, config: ResolvedConfig, batch: int = 0, devices: int = 1) -> Need:
    """Compile the program of a scale and return the memory that it asks for.

    The command line's run takes the same compiled program.

    Args:
      plan: of the scale.
      config: the settings.
      batch: see `estimate_memory`.
      devices: see `estimate_memory`.
    """
    if plan.tiles and not batch:
        return _need_tiled(plan, plan.tiles, config)
    shape = plan.shape
    if devices > 1:
        shape = (rows_of_a_device(shape[0], devices), shape[1]) if not batch else shape
        batch = -(-batch // devices)
    lead = (batch,) if batch else ()
    styles = [(*lead, *style) for style in plan.styles]
    step = compile_step((*lead, *shape), styles, config=config, regions=plan.regions)
    pixels = (batch or 1) * shape[0] * shape[1]
    # Simulated devices share the memory.
    there = devices if default_device().platform == "cpu" else 1
    return Need(there * (_bytes(step) + _PIXEL_BYTES * pixels), _PROCESS_BYTES)


def _need_tiled(plan: ScalePlan, tiles: Cover, config: ResolvedConfig) -> Need:
    program, kept = compile_window_gradient(
        tiles, len(plan.styles), config=config, regions=plan.regions
    )
    pair = 2 * config.memory_size if config.optimizer != "adam" else 2
    # The content as it was read and resized, the picture, its gradient, its average, what is shown
    # and saved, and what the optimizer remembers; the content's maps with the windows' margins.
    pictures = 12 * (9 + pair) + 8 * plan.regions  # the masks as given, and at the scale
    host = int(math.prod(plan.shape) * (pictures + kept * _overlap(tiles)))
    return Need(_bytes(program), _PROCESS_BYTES + host)


def _bytes(compiled: Any) -> int:
    found = compiled.memory_analysis()
    return int(
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )


def free_memory() -> Need:
    """Return the bytes that are free on the default device and on the host.

    On a CPU both are the host's. Where a device does not tell, its memory counts as endless.
    """
    host = int((1 - _RESERVE) * min(psutil.virtual_memory().available, _cgroup_free()))
    device = default_device()
    if device.platform == "cpu":
        return Need(host, host)
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit", 2**62) - stats.get("bytes_in_use", 0)
    return Need(int((1 - _RESERVE) * limit), host)


def _cgroup_free() -> int:
    """Return what a container's limit leaves; much if there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = (_CGROUP / "memory.current").read_text()
        return 2**62 if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return 2**62


def memories(wanted: Need, free: Need) -> list[tuple[str, int, int]]:
    """Return each memory's name, the bytes that are wanted of it, and those that are free."""
    platform = default_device().platform
    if platform == "cpu":  # both are one
        return [("host", wanted.device + wanted.host, free.host)]
    return [(platform, wanted.device, free.device), ("host", wanted.host, free.host)]


def fits(wanted: Need, free: Need) -> bool:
    """Say whether a run fits into the free memory."""
    return all(need <= there for _, need, there in memories(wanted, free))


def surely_fits(shape: Shape, config: ResolvedConfig, *, batch: int = 1) -> bool:
    """Say, without compiling anything, whether a run needs so little that it fits in any case."""
    pairs = 2 * config.memory_size if config.optimizer != "adam" else 0
    wide = 2 if config.dtype == "float64" else 1
    count = wide * batch * math.prod(shape) * (_BOUND + 12 * pairs)
    return fits(Need(2 * count, _PROCESS_BYTES), free_memory())


def largest(
    need_of: Callable[[int], Need], *, free: Need, least: int = _LEAST_SIZE, most: int = 2**15
) -> int:
    """Return the largest size in px, about, that fits; 0 if none does.

    Memory grows with the square of the size: two sizes are looked at, and the one that follows from
    them, which is made smaller until it fits by its own analysis.

    Args:
      need_of: the need at a size.
      free: from `free_memory`.
      least: the smaller of the two sizes.
      most: where the search ends.
    """

    def share(size: int) -> float:
        """Return the larger of the shares of what is free."""
        return max(need / there for _, need, there in memories(need_of(size), free))

    one, two = share(least), share(2 * least)
    slope = max(two - one, 1e-9) / (3 * least**2)
    size = min(most, int(max(0.0, (1 - one) / slope + least**2) ** 0.5))
    while size >= 16 and share(size) > 1:
        size = int(0.97 * size)
    return size if size >= 16 else 0


def fit_to_memory(
    schedule_of: Callable[[Size], Schedule],
    *,
    config: ResolvedConfig,
    may_remat: bool,
    batch: int = 0,
    devices: int = 1,
) -> tuple[ResolvedConfig, Schedule]:
    """Return the settings with which a run fits into the free memory, mostly those given.

    A run that fits in any case compiles nothing here.

    Args:
      schedule_of: takes a size to the schedule of a picture of that size.
      config: the settings; the size "max" becomes the largest number of px that fits.
      may_remat: whether the maps between two poolings may be computed twice.
      batch: see `estimate_memory`.
      devices: see `estimate_memory`.

    Returns:
      The settings, and the schedule with their size.

    Raises:
      InputError: if it does not fit; it names the size that would.
    """
    free = free_memory()
    untiled = not config.tile and config.wrap == "none" and config.optimizer != "lbfgs"
    least = max(_LEAST_SIZE, 2 * config.tile)  # tiles make another program than smaller pictures
    ways: list[Remat] = ["none", "blocks"] if may_remat else [config.remat]

    def need_of(size: Size, remat: Remat) -> Need:
        plan, way = schedule_of(size).last, replace(config, remat=remat)
        return need(plan, config=way, batch=batch, devices=devices)

    def largest_of(remat: Remat) -> int:
        return largest(functools.partial(need_of, remat=remat), free=free, least=least)

    if config.size == "max":
        sizes = {way: largest_of(way) for way in ways}
        way = max(ways, key=lambda way: sizes[way])
        if sizes[way]:
            return replace(config, size=sizes[way], remat=way), schedule_of(sizes[way])
        shape = schedule_of(_LEAST_SIZE).last.shape
        raise InputError(refusal(0, shape, need_of(_LEAST_SIZE, ways[0]), free, untiled=untiled))
    schedule = schedule_of(config.size)
    if surely_fits(schedule.last.shape, config, batch=max(1, batch)):
        return replace(config, remat=ways[0]), schedule
    for way in ways:
        if fits(need_of(config.size, way), free):
            return replace(config, remat=way), schedule
    size, wanted = largest_of(ways[0]), need_of(config.size, ways[0])
    raise InputError(refusal(size, schedule.last.shape, wanted, free, untiled=untiled))


class Pace(NamedTuple):
    """How long steps take.

    Attributes:
      seconds: of all steps of a run, about.
      last: of one step at the last scale.
    """

    seconds: float
    last: float


def pace(
    schedule: Schedule,
    *,
    config: ResolvedConfig,
    devices: Sequence[Any] | None = None,
    most_pixels: int = 2**19,
) -> Pace:
    """Make a few steps at the largest scale that is not too large, and reckon from its pixels.

    Larger scales take somewhat longer than their pixels say where memory is the limit: seen on a
    CPU, a fifth at four times the pixels.

    Args:
      schedule: of the run.
      config: the settings.
      devices: see `ScaleInputs`.
      most_pixels: of the scale that steps are made at; a smaller one if there is none.
    """
    scales = schedule.scales
    small = [plan for plan in scales if math.prod(plan.shape) <= most_pixels]
    tried = (small or scales[:1])[-1]
    rng = np.random.default_rng(0)
    picture, *styles = (
        jnp.asarray(rng.uniform(size=(*shape, 3)), config.image_dtype)
        for shape in (tried.shape, *tried.styles)
    )
    # The numbers in the network do not change the time.
    network = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), blank_network(config))
    frozen = freeze(network, taps=config.taps)
    inputs = ScaleInputs(picture, styles, picture, frozen, config, tried.tiles, devices)
    if tried.regions:
        masks, *others = (jnp.ones((*x.shape[:-1], tried.regions)) for x in (picture, *styles))
        inputs = inputs._replace(masks=masks, style_masks=others)
    scale = begin_scale(inputs)
    scale.advance(1)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(scale.advance(1))
        times.append(time.perf_counter() - began)
    pixel = sorted(times)[1] / _work(tried)
    seconds = sum(pixel * _work(plan) * plan.steps for plan in scales)
    return Pace(seconds, pixel * _work(schedule.last))


def _work(plan: ScalePlan) -> float:
    """Return the pixels that a step computes, those of tiles with what they compute more."""
    pixels = float(math.prod(plan.shape))
    # All pixels of the windows, and a forward pass on top of one with the gradient.
    return 1.5 * _overlap(plan.tiles) * pixels if plan.tiles else pixels


def _overlap(covered: Cover) -> float:
    """Return how many windows a pixel of the picture is in, on average."""
    return len(covered.windows) * math.prod(covered.size) / math.prod(covered.picture)


def refusal(size: int, shape: Shape, wanted: Need, free: Need, *, untiled: bool = True) -> str:
    """Say that a run does not fit, and what would.

    Args:
      size: one that does, from `largest`; 0: none.
      shape: (height, width) in px of the one that does not.
      wanted: its need.
      free: from `free_memory`.
      untiled: whether the picture could be computed in tiles, and is not.
    """
    height, width = shape
    parts = memories(wanted, free)
    _, need, there = [part for part in parts if part[1] > part[2]][-1]
    advice = f"--size={size} fits" if size else "no size fits"
    return (
        f"{width}x{height} px need {need / 1e9:.1f} GB of memory, but {there / 1e9:.1f} GB are "
        f"free; {advice}" + (", or give --tile=1024, which takes less" if untiled else "")
    )
