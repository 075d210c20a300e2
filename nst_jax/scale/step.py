"""One scale of a run as pure programs: its targets, its loss, its steps."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nst_jax.config import Config
from nst_jax.devices.backend import resolve
from nst_jax.devices.executable_cache import Ready
from nst_jax.devices.sharding import Layout
from nst_jax.losses import objective
from nst_jax.losses.objective import (
    Losses,
    Regularizer,
    Targets,
    assemble_targets,
    describe,
    style_transfer_loss,
)
from nst_jax.losses.regularizers import range_penalty, total_variation
from nst_jax.losses.statistics import StyleStatistics
from nst_jax.losses.terms import StyleLoss
from nst_jax.network.vgg import NETWORKS, VGG, build_vgg
from nst_jax.optimizers import minimize
from nst_jax.scale.hyperparameters import (
    Numbers,
    Program,
    keeper,
    make_optimizer,
    projection,
    to_normalized,
    to_srgb,
    to_variable,
)
from nst_jax.scale.windows import Part

# The most steps in one call to the device; only the length of a few arrays of scalars.
CAPACITY = 256


class Problem(NamedTuple):
    """What stays the same at one scale, at run time."""

    network: VGG
    targets: Targets
    numbers: Numbers


def build_network(
    params: Mapping[str, np.ndarray | Array], config: Config, *, deepest: str | None = None
) -> VGG:
    """Build the network that the settings describe, down to a tap; see `build_vgg`.

    Raises:
      InputError: if `build_vgg` or `backend.resolve` does.
    """
    if "auto" in (config.precision, config.conv, config.remat):
        config = resolve(config)
    assert config.conv != "auto"
    assert config.remat != "auto"
    return build_vgg(
        NETWORKS[config.network],
        params,
        pooling=config.pooling,
        pool_scale=config.pool_scale,
        padding=config.padding,
        dtype=config.dtype,
        param_dtype=config.image_dtype,
        conv=config.conv,
        remat=config.remat,
        deepest=deepest,
    )


def variable_loss(
    variable: Float[Array, "*batch height width 3"],
    network: VGG,
    targets: Targets,
    numbers: Numbers,
    program: Program,
    *,
    features: Callable[[Array], Mapping[str, Array]] | None = None,
) -> tuple[Float[Array, ""], Losses]:
    """Compute the loss that is minimized, as a function of the variable.

    Args:
      variable: the picture in the program's space.
      network: computes the features.
      targets: from `compute_targets`.
      numbers: from `split_config`.
      program: from `split_config`.
      features: takes a *normalized* image to its maps, in place of the network.
    """
    maps = features or functools.partial(network.from_normalized, taps=program.taps)
    return style_transfer_loss(
        variable,
        targets,
        features=lambda variable: maps(to_normalized(variable, program.space)),
        content_loss=program.content_loss,
        style_loss=program.style_loss,
        regularizers=regularizers(numbers, program),
        **_weights(numbers, program),
    )


def _weights(numbers: Numbers, program: Program) -> dict[str, Any]:
    contents = zip(program.content_layers, numbers.content_layers, strict=True)
    styles = zip(program.style_layers, numbers.style_layers, strict=True)
    return {
        "content_weight": numbers.content_weight,
        "style_weight": numbers.style_weight,
        "content_layer_weights": dict(contents),
        "style_layer_weights": dict(styles),
    }


def weigh(
    content_terms: OrderedDict[str, Float[Array, ""]],
    style_terms: OrderedDict[str, Float[Array, ""]],
    others: OrderedDict[str, Float[Array, ""]],
    numbers: Numbers,
    program: Program,
) -> Losses:
    """Compute what `variable_loss` does from terms that are known."""
    terms = [*content_terms.values(), *style_terms.values(), *others.values()]
    return objective.weigh(
        content_terms,
        style_terms,
        others,
        regularizer_weights={
            name: weight for name, (weight, _) in regularizers(numbers, program).items()
        },
        zero=jnp.zeros((), jnp.result_type(*terms, jnp.float32)),
        **_weights(numbers, program),
    )


def regularizers(
    numbers: Numbers, program: Program, *, part: Part | None = None
) -> dict[str, tuple[objective.Weight, Regularizer]]:
    """Return the terms that look at the picture alone: of the variable, with their weights.

    Args:
      numbers: the settings.
      program: the settings.
      part: the variable is a window of the picture.
    """

    def of_srgb(regularizer: Regularizer) -> Regularizer:
        return lambda variable: regularizer(to_srgb(variable, program.space))

    terms: dict[str, tuple[objective.Weight, Regularizer]] = {}
    if program.tv_loss:
        total = functools.partial(total_variation, kind=program.tv_loss, part=part)
        terms["tv"] = numbers.tv_weight, of_srgb(total)
    if program.has_range:
        terms["range"] = numbers.range_weight, of_srgb(functools.partial(range_penalty, part=part))
    return terms


def compute_targets(
    network: VGG,
    content: Float[Array, "*batch height width 3"],
    styles: Sequence[Float[Array, "*_ _ _ 3"]],
    numbers: Numbers,
    program: Program,
    *,
    layout: Layout | None = None,
) -> Targets:
    """Compute what `make_targets` does, of several styles, with one compiled program for each size.

    The network is best one from `freeze`. With a layout it and the content lie on its devices, and
    so will the targets.
    """
    layers = program.content_layers, program.style_layers
    maps, like = _describe(network, content, *layers, layout)
    statistics = []
    for style in styles:
        own = layout and layout.beside(style.shape)
        if layout:
            style = own.place(style) if own else layout.replicate(style)
        statistics.append(_describe(network, style, *layers, own)[1])
    targets: Targets = _assemble(maps, like, statistics, numbers.style_blend, program.style_loss)
    return targets


@functools.partial(Ready, static_argnames=("content_layers", "style_layers", "layout"))
def _describe(
    network: VGG,
    image: Float[Array, "*batch height width 3"],
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
    layout: Layout | None = None,
) -> tuple[OrderedDict[str, Array], OrderedDict[str, StyleStatistics]]:
    """Compute all that is to know of an image, whether it is content or style.

    One program for both is one less to compile where they are of one size.
    """
    if layout:
        image = layout.crop(image)
    maps = network(image, taps=content_layers + style_layers)
    kept, statistics = describe(maps, content_layers=content_layers, style_layers=style_layers)
    return (jax.tree.map(layout.spread, kept) if layout else kept), statistics


@functools.partial(jax.jit, static_argnames="style_loss")
def _assemble(
    maps: OrderedDict[str, Array],
    like: OrderedDict[str, StyleStatistics],
    statistics: list[OrderedDict[str, StyleStatistics]],
    style_blend: tuple[float | Array, ...],
    style_loss: StyleLoss,
) -> Targets:
    return assemble_targets(maps, like, statistics, style_loss=style_loss, style_blend=style_blend)


@functools.partial(jax.jit, static_argnames=("program", "layout"))
def start(
    picture: Float[Array, "*batch height width 3"],
    numbers: Numbers,
    program: Program,
    *,
    layout: Layout | None = None,
) -> minimize.State:
    """Return the state at a picture, sRGB, before any step.

    Under jit every leaf has a buffer of its own, so that the state can be donated.
    """
    state = minimize.init(
        to_variable(picture, program.space),
        optimizer=make_optimizer(numbers, program),
        keep=keeper(program),
    )
    return layout.constrain(state) if layout else state


@functools.partial(
    Ready, static_argnames=("program", "layout", "block"), donate_argnames=("state",)
)
def advance(
    state: minimize.State,
    steps: int | Int[Array, ""],
    problem: Problem,
    program: Program,
    *,
    layout: Layout | None = None,
    block: int = 1,
) -> tuple[minimize.State, Array, Losses]:
    """Make `steps` updates; return the state, the picture (not clipped) and the losses.

    With a layout the state and the picture have the rows that fill it up. The block is that of
    `optimize.run`.
    """

    def loss(variable: Array) -> tuple[Array, Losses]:
        network, targets, numbers = problem
        if layout:
            variable = layout.crop(layout.constrain(variable))
            targets = _cropped(targets, variable, program)
        return variable_loss(variable, network, targets, numbers, program)

    keep = keeper(program)
    state, records = minimize.run(
        state,
        steps,
        loss=loss,
        optimizer=make_optimizer(problem.numbers, program, block=block),
        capacity=CAPACITY,
        project=projection(program),
        keep=keep,
        block=block,
    )
    picture = to_srgb(keep.read(state.kept, state.variable), program.space)
    return (*(layout.constrain((state, picture)) if layout else (state, picture)), records)


def _cropped(targets: Targets, variable: Array, program: Program) -> Targets:
    """Take away the rows of the content's maps that fill up a layout."""
    height, stride = variable.shape[-3], program.architecture.stride
    maps = OrderedDict(
        (name, target[..., : height // stride(name), :, :])
        for name, target in targets.content.items()
    )
    return Targets(maps, targets.style)
