"""One scale of a run as a pure program: its settings taken apart, its targets, its steps."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from nst_jax import iterates, objective, optimize
from nst_jax.adam import torch_adam
from nst_jax.architecture import TAPS, check_taps, stride
from nst_jax.backend import resolve
from nst_jax.config import Config, Optimizer, Space
from nst_jax.lbfgs import torch_lbfgs
from nst_jax.losses import ContentLoss, StyleLoss
from nst_jax.moments import StyleStatistics
from nst_jax.objective import (
    Losses,
    Regularizer,
    Targets,
    assemble_targets,
    describe,
    style_transfer_loss,
)
from nst_jax.regularizers import TotalVariation, range_penalty, total_variation
from nst_jax.sharding import Layout
from nst_jax.vgg import VGG19, build_vgg19, denormalize, normalize
from nst_jax.windows import Part

# The most steps in one call to the device; only the length of a few arrays of scalars.
CAPACITY = 256


class Numbers(NamedTuple):
    """The settings that the compiled program takes at run time: changing one compiles nothing."""

    learning_rate: float | Float[Array, ""]
    content_weight: float | Float[Array, ""]
    style_weight: float | Float[Array, ""]
    tv_weight: float | Float[Array, ""]
    range_weight: float | Float[Array, ""]
    content_layers: tuple[float | Float[Array, ""], ...]
    style_layers: tuple[float | Float[Array, ""], ...]
    style_blend: tuple[float | Float[Array, ""], ...]


class Program(NamedTuple):
    """The settings that make another program.

    All decays too: as float32 numbers that are known only at run time, 1 - 0.999 would lose half
    its digits. A regularizer without weight is no part of the program.
    """

    taps: tuple[str, ...]
    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    content_loss: ContentLoss
    style_loss: StyleLoss
    tv_loss: TotalVariation | None
    has_range: bool
    space: Space
    clamp: bool
    optimizer: Optimizer
    memory_size: int
    beta1: float
    beta2: float
    picture: iterates.Picture
    average_decay: float


class Problem(NamedTuple):
    """What stays the same at one scale, at run time."""

    network: VGG19
    targets: Targets
    numbers: Numbers


def split_config(config: Config) -> tuple[Numbers, Program]:
    """Take apart what a run knows at run time and what it compiles.

    Raises:
      InputError: if there is no layer at all.
    """
    contents, styles = config.content_layers, config.style_layers
    return (
        Numbers(
            config.learning_rate,
            config.content_weight,
            config.style_weight,
            config.tv_weight,
            config.range_weight,
            tuple(layer.weight for layer in contents),
            tuple(layer.weight for layer in styles),
            config.style_blend,
        ),
        Program(
            taps=check_taps(layer.name for layer in contents + styles),
            content_layers=tuple(layer.name for layer in contents),
            style_layers=tuple(layer.name for layer in styles),
            content_loss=config.content_loss,
            style_loss=config.style_loss,
            tv_loss=config.tv_loss if config.tv_weight else None,
            has_range=config.range_weight > 0,
            space=config.space,
            clamp=config.clamp,
            optimizer=config.optimizer,
            memory_size=config.memory_size,
            beta1=config.beta1,
            beta2=config.beta2,
            picture=config.picture,
            average_decay=config.average_decay,
        ),
    )


def build_network(
    params: Mapping[str, np.ndarray | Array], config: Config, *, deepest: str = TAPS[-1]
) -> VGG19:
    """Build the network that the settings describe, down to a tap; see `build_vgg19`.

    Raises:
      InputError: if `build_vgg19` or `backend.resolve` does.
    """
    if "auto" in (config.precision, config.conv, config.remat):
        config = resolve(config)
    assert config.conv != "auto"
    assert config.remat != "auto"
    return build_vgg19(
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


def make_optimizer(
    numbers: Numbers, program: Program, *, block: int = 1
) -> optax.GradientTransformation:
    """Return the optimizer that the settings name; the block is that of `torch_lbfgs`."""
    match program.optimizer:
        case "adam":
            return torch_adam(numbers.learning_rate, b1=program.beta1, b2=program.beta2)
        case "lbfgs":
            return optax.lbfgs(memory_size=program.memory_size)
        case "lbfgs-torch":
            return torch_lbfgs(memory_size=program.memory_size, block=block)


def keeper(program: Program) -> iterates.Keeper:
    """Return the rule by which the iterates become a picture."""
    match program.picture:
        case "last":
            return iterates.last()
        case "average":
            return iterates.average(program.average_decay)
        case "best":
            return iterates.best()


def to_variable(image: Float[Array, "*batch 3"], space: Space) -> Float[Array, "*batch 3"]:
    """Take sRGB in [0, 1] to the space that is optimized in."""
    return normalize(image) if space == "normalized" else image


def to_srgb(variable: Float[Array, "*batch 3"], space: Space) -> Float[Array, "*batch 3"]:
    """Invert `to_variable`; nothing is clipped."""
    return denormalize(variable) if space == "normalized" else variable


def to_normalized(variable: Float[Array, "*batch 3"], space: Space) -> Float[Array, "*batch 3"]:
    """Take the variable to what the network sees."""
    return variable if space == "normalized" else normalize(variable)


def projection(program: Program) -> Callable[[Array], Array]:
    """Return what is done to the variable after each update."""

    def shown(variable: Array) -> Array:
        return to_variable(jnp.clip(to_srgb(variable, program.space), 0, 1), program.space)

    return shown if program.clamp else optimize.unchanged


def variable_loss(
    variable: Float[Array, "*batch height width 3"],
    network: VGG19,
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
    network: VGG19,
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


@functools.partial(jax.jit, static_argnames=("content_layers", "style_layers", "layout"))
def _describe(
    network: VGG19,
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
) -> optimize.State:
    """Return the state at a picture, sRGB, before any step.

    Under jit every leaf has a buffer of its own, so that the state can be donated.
    """
    state = optimize.init(
        to_variable(picture, program.space),
        optimizer=make_optimizer(numbers, program),
        keep=keeper(program),
    )
    return layout.constrain(state) if layout else state


@functools.partial(jax.jit, static_argnames=("program", "layout", "block"), donate_argnames="state")
def advance(
    state: optimize.State,
    steps: int | Int[Array, ""],
    problem: Problem,
    program: Program,
    *,
    layout: Layout | None = None,
    block: int = 1,
) -> tuple[optimize.State, Array, Losses]:
    """Make `steps` updates; return the state, the picture (not clipped) and the losses.

    With a layout the state and the picture have the rows that fill it up. The block is that of
    `optimize.run`.
    """

    def loss(variable: Array) -> tuple[Array, Losses]:
        network, targets, numbers = problem
        if layout:
            variable = layout.crop(layout.constrain(variable))
            targets = _cropped(targets, variable)
        return variable_loss(variable, network, targets, numbers, program)

    keep = keeper(program)
    state, records = optimize.run(
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


def _cropped(targets: Targets, variable: Array) -> Targets:
    """Take away the rows of the content's maps that fill up a layout."""
    maps = OrderedDict(
        (name, target[..., : variable.shape[-3] // stride(name), :, :])
        for name, target in targets.content.items()
    )
    return Targets(maps, targets.style)
