"""The programs of a run, made from shapes alone: nothing is computed."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nst_jax.config import ResolvedConfig
from nst_jax.devices.backend import block, default_device
from nst_jax.devices.sharding import Layout
from nst_jax.losses.objective import Targets
from nst_jax.network.vgg import VGG, freeze
from nst_jax.scale import tiled_loss
from nst_jax.scale.hyperparameters import Hyperparameters, hyperparameters
from nst_jax.scale.step import (
    StepInputs,
    advance,
    build_network,
    compute_targets,
    start,
    without_shares,
)
from nst_jax.scale.windows import Cover, Part


def lower_step(
    shape: tuple[int, ...],
    styles: Sequence[tuple[int, ...]],
    *,
    config: ResolvedConfig,
    device: Any = None,
    layout: Layout | None = None,
    regions: int = 0,
) -> Any:
    """Lower the program of a step, ready to be compiled.

    Args:
      shape: (*batch, height, width) of the picture.
      styles: the same of each style image at its size of this scale.
      config: settings resolved for the device.
      device: whose program it is, by default JAX's default one; one of a topology
        (`jax.experimental.topologies`) need not be there.
      layout: of a picture that needs no rows to fill it up, over devices that the program is for.
      regions: how many regions have a mask; 0: there are no masks.
    """
    step = _step(shape, styles, config=config, device=device, layout=layout, regions=regions)
    with jax.default_matmul_precision(config.matmul_precision):
        return step(advance.lower)


def compile_step(
    shape: tuple[int, ...],
    styles: Sequence[tuple[int, ...]],
    *,
    config: ResolvedConfig,
    regions: int = 0,
) -> Any:
    """Return the compiled program of a step on the default device: the one that a run will call.

    The arguments are those of `lower_step`.
    """
    step = _step(shape, styles, config=config, regions=regions)
    with jax.default_matmul_precision(config.matmul_precision):
        return step(advance.program)


def _step(
    shape: tuple[int, ...],
    styles: Sequence[tuple[int, ...]],
    *,
    config: ResolvedConfig,
    device: Any = None,
    layout: Layout | None = None,
    regions: int = 0,
) -> Callable[[Callable[..., Any]], Any]:
    """Return what calls a function with the arguments of `advance`."""
    settings = hyperparameters(config)
    if layout:
        device = layout.mesh.devices.flat[0]

    def placed(tree: Any, *, rows: bool = False) -> Any:
        def place(x: Any) -> jax.ShapeDtypeStruct:
            there = jax.sharding.SingleDeviceSharding(device) if device else None
            sharding = layout.sharding(x, rows=rows) if layout else there
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(place, tree)

    frozen, image = placed(_frozen(config)), _image(shape, config)
    looks = [_image(look, config) for look in styles]
    targets = _targets(frozen, image, looks, settings, regions)
    targets = dataclasses.replace(
        targets,
        content=placed(targets.content, rows=True),
        style=placed(targets.style),
        regions=placed(targets.regions, rows=True),
    )
    state = placed(jax.eval_shape(functools.partial(start, settings=settings), image))
    inputs = StepInputs(frozen, targets, without_shares(settings))
    rounds = block((device or default_device()).platform)
    return lambda call: call(state, 1, inputs, layout=layout, block=rounds)


def compile_window_gradient(
    tiles: Cover, styles: int, *, config: ResolvedConfig, regions: int = 0
) -> tuple[Any, float]:
    """Return the compiled program of one of a picture's tiles.

    Args:
      tiles: the windows of the picture.
      styles: how many style images there are.
      config: settings resolved for the default device.
      regions: see `lower_step`.

    Returns:
      The program of `window_gradient`, and the bytes for each pixel of the content's maps that a
      run keeps in host memory.
    """
    settings, frozen, kind = hyperparameters(config), _frozen(config), config.image_dtype
    window = _image(tiles.size, config)
    targets = _targets(frozen, window, [window] * styles, settings, regions)
    kept = tiled_loss.content_bytes(settings)
    kept = kept if kept <= tiled_loss.KEPT_BYTES else 0.0
    content: Any = targets.content if kept else window
    outputs = config.architecture.outputs
    by_content: Any = (jax.ShapeDtypeStruct((), kind),) * len(settings.content_layers)
    lead = (regions,) if regions else ()
    by_style: Any = {
        name: tuple(jax.ShapeDtypeStruct((*lead, *(outputs(name),) * n), kind) for n in (2, 1))
        for name in settings.style_layers
    }
    constants = tiled_loss.Constants(by_content, by_style, without_shares(settings))
    shift = tiled_loss.shifts(targets.style, settings.style_loss)
    part = Part(jax.ShapeDtypeStruct((4,), jnp.int32), tiles.picture)
    inputs = frozen, window, content, part, shift, constants
    with jax.default_matmul_precision(config.matmul_precision):
        masks = _masks(window, regions)
        lowered = tiled_loss.window_gradient.lower(*inputs, masks=masks)
    return lowered.compile(), kept


def blank_network(config: ResolvedConfig) -> VGG:
    """Return a network of shapes alone, which computes as resolved settings say."""
    deepest = config.taps[-1]
    params = {
        name: jax.ShapeDtypeStruct(shape, config.image_dtype)
        for name, shape in config.architecture.parameter_shapes(deepest).items()
    }
    build = functools.partial(build_network, config=config, deepest=deepest)
    network: VGG = jax.eval_shape(build, params)
    return network


def _frozen(config: ResolvedConfig) -> VGG:
    """Return the same as a run takes it."""
    taken = functools.partial(freeze, taps=config.taps)
    frozen: VGG = jax.eval_shape(taken, blank_network(config))
    return frozen


def _targets(
    network: VGG, image: Any, looks: Sequence[Any], settings: Hyperparameters, regions: int
) -> Targets:
    """Return the shapes of the targets."""
    inputs = network, image, looks, settings
    masks, others = _masks(image, regions), [_masks(look, regions) for look in looks]

    def compute(inputs: Any, masks: Any, others: Any) -> Targets:
        return compute_targets(*inputs, masks=masks, style_masks=others)

    targets: Targets = jax.eval_shape(compute, inputs, masks, others if regions else None)
    return targets


def _masks(image: Any, regions: int) -> jax.ShapeDtypeStruct | None:
    """Return the shape of an image's masks."""
    return jax.ShapeDtypeStruct((*image.shape[:-1], regions), image.dtype) if regions else None


def _image(shape: tuple[int, ...], config: ResolvedConfig) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*shape, 3), config.image_dtype)
