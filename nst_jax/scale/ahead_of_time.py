"""The programs of a run, made from shapes alone: nothing is computed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nst_jax.config import Config
from nst_jax.devices.backend import block, default_device
from nst_jax.devices.sharding import Layout
from nst_jax.geometry import Shape
from nst_jax.losses.objective import Targets
from nst_jax.network.vgg import VGG, freeze
from nst_jax.scale import step as scale_step
from nst_jax.scale import tiled_loss
from nst_jax.scale.hyperparameters import split_config
from nst_jax.scale.step import Problem, build_network
from nst_jax.scale.tiled import tiles


def lower_step(
    shape: tuple[int, ...],
    looks: Sequence[tuple[int, ...]],
    *,
    config: Config,
    device: Any = None,
    layout: Layout | None = None,
) -> Any:
    """Lower the program of a step, ready to be compiled.

    Args:
      shape: (*batch, height, width) of the picture.
      looks: the same of each style as it is looked at.
      config: settings resolved for the device.
      device: whose program it is, by default JAX's default one; one of a topology
        (`jax.experimental.topologies`) need not be there.
      layout: of a picture that needs no rows to fill it up, over devices that the program is for.
    """
    step = _step(shape, looks, config=config, device=device, layout=layout)
    with jax.default_matmul_precision(config.matmul_precision):
        return step(scale_step.advance.lower)


def compile_step(
    shape: tuple[int, ...], looks: Sequence[tuple[int, ...]], *, config: Config
) -> Any:
    """Return the compiled program of a step on the default device: the one that a run will call.

    The arguments are those of `lower_step`.
    """
    step = _step(shape, looks, config=config)
    with jax.default_matmul_precision(config.matmul_precision):
        return step(scale_step.advance.program)


def _step(
    shape: tuple[int, ...],
    looks: Sequence[tuple[int, ...]],
    *,
    config: Config,
    device: Any = None,
    layout: Layout | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Return what calls a function with the arguments of `advance`."""
    numbers, program = split_config(config)
    if layout:
        device = layout.mesh.devices.flat[0]

    def placed(tree: Any, *, rows: bool = False) -> Any:
        def place(x: Any) -> jax.ShapeDtypeStruct:
            there = jax.sharding.SingleDeviceSharding(device) if device else None
            sharding = layout.sharding(x, rows=rows) if layout else there
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(place, tree)

    frozen, image = placed(_frozen(config)), _image(shape, config)
    targets = jax.eval_shape(
        functools.partial(scale_step.compute_targets, numbers=numbers, program=program),
        frozen,
        image,
        [_image(look, config) for look in looks],
    )
    state = jax.eval_shape(
        functools.partial(scale_step.start, numbers=numbers, program=program), image
    )
    targets = Targets(placed(targets.content, rows=True), placed(targets.style))
    given = Problem(frozen, targets, numbers._replace(style_blend=()))
    rounds = block((device or default_device()).platform)
    return lambda call: call(placed(state), 1, given, program, layout=layout, block=rounds)


def compile_pull(shape: Shape, styles: int, *, config: Config) -> tuple[Any, float]:
    """Return the compiled program of one of a picture's tiles.

    Args:
      shape: (height, width) of the whole picture.
      styles: how many there are.
      config: settings resolved for the default device.

    Returns:
      The program of `sums.pull`, and the bytes for each pixel of the content's maps that a run
      keeps in host memory.
    """
    numbers, program = split_config(config)
    frozen = _frozen(config)
    window = _image(tiles((*shape, 3), config).size, config)
    targets = jax.eval_shape(
        functools.partial(scale_step.compute_targets, numbers=numbers, program=program),
        frozen,
        window,
        [window] * styles,
    )
    kept = tiled_loss.content_bytes(program)
    kept = kept if kept <= tiled_loss.KEPT_BYTES else 0.0
    content: Any = targets.content if kept else window
    kind = config.image_dtype
    sizes = {name: config.architecture.outputs(name) for name in program.style_layers}
    style = {
        name: tuple(jax.ShapeDtypeStruct((count,) * n, kind) for n in (2, 1))
        for name, count in sizes.items()
    }
    content_factors = (jax.ShapeDtypeStruct((), kind),) * len(program.content_layers)
    constants: Any = tiled_loss.Constants(content_factors, style, numbers)  # type: ignore[arg-type]
    shift = tiled_loss.shifts(targets.style, program.style_loss)
    bounds = jax.ShapeDtypeStruct((4,), jnp.int32)
    with jax.default_matmul_precision(config.matmul_precision):
        lowered = tiled_loss.pull.lower(
            frozen, window, content, bounds, shift, constants, program, shape
        )
    return lowered.compile(), kept


def blank_network(config: Config) -> VGG:
    """Return a network of shapes alone, which computes as resolved settings say."""
    deepest = config.taps[-1]
    params = {
        name: jax.ShapeDtypeStruct(shape, config.image_dtype)
        for name, shape in config.architecture.parameter_shapes(deepest).items()
    }
    build = functools.partial(build_network, config=config, deepest=deepest)
    network: VGG = jax.eval_shape(build, params)
    return network


def _frozen(config: Config) -> VGG:
    """Return the same as a run takes it."""
    taken = functools.partial(freeze, taps=config.taps)
    frozen: VGG = jax.eval_shape(taken, blank_network(config))
    return frozen


def _image(shape: tuple[int, ...], config: Config) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*shape, 3), config.image_dtype)
