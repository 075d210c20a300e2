"""One scale of a run as pure programs: its targets, its loss, its steps."""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nst_jax.config import ResolvedConfig
from nst_jax.devices.executable_cache import CachedJit
from nst_jax.devices.sharding import Layout
from nst_jax.losses.objective import (
    Description,
    Look,
    Losses,
    LossWeights,
    Targets,
    Weight,
    assemble_targets,
    describe,
    style_transfer_loss,
    weigh_terms,
)
from nst_jax.losses.regions import Masks, StyleMasks
from nst_jax.losses.regularizers import (
    Anchor,
    Summand,
    add_up,
    range_summands,
    temporal_summands,
    variation_summands,
)
from nst_jax.network.vgg import NETWORKS, VGG, build_vgg, recast
from nst_jax.optimizers.minimize import State, run_steps
from nst_jax.scale.hyperparameters import (
    Hyperparameters,
    hyperparameters,
    make_minimizer,
    to_normalized,
    to_srgb,
    to_variable,
)

# The most steps in one call to the device; only the length of a few arrays of scalars.
CAPACITY = 256

_Picture = Float[Array, "*batch height width 3"]
_Style = Float[Array, "*_ _ _ 3"]  # each of another size


class StepInputs(NamedTuple):
    """What the steps of one scale take beside the state; it stays the same."""

    network: VGG
    targets: Targets
    settings: Hyperparameters
    anchor: Anchor | None = None


def build_network(
    params: Mapping[str, np.ndarray | Array],
    config: ResolvedConfig,
    *,
    deepest: str | None = None,
) -> VGG:
    """Build the network that the settings describe, down to a tap; see `build_vgg`.

    Raises:
      InputError: if `build_vgg` does.
    """
    return build_vgg(
        NETWORKS[config.network],
        params,
        param_dtype=config.image_dtype,
        deepest=deepest,
        **config.network_options,
    )


def prepare_step(
    content: _Picture,
    styles: Sequence[_Style],
    *,
    network: VGG,
    config: ResolvedConfig,
    picture: _Picture | None = None,
    layout: Layout | None = None,
    masks: Masks | None = None,
    style_masks: Sequence[StyleMasks] | None = None,
    anchor: Anchor | None = None,
) -> tuple[State, StepInputs]:
    """Return the state of a scale before its first step, and what `advance` takes beside it.

    Args:
      content: at the scale's size.
      styles: the style images at their sizes of this scale.
      network: best from `freeze`, with the config's taps.
      config: the settings.
      picture: where to start; the content image if not given.
      layout: of the content's shape, to compute on many devices.
      masks: of the content's regions, if there are any.
      style_masks: of each style.
      anchor: what the picture stays close to.
    """
    settings = hyperparameters(config)
    picture = content if picture is None else picture
    if layout:
        network = layout.replicate(network)
        content, picture = layout.place(content), layout.place(picture)
        masks, anchor = jax.tree.map(layout.place, (masks, anchor))
    with jax.default_matmul_precision(config.matmul_precision):
        targets = compute_targets(
            network,
            content,
            styles,
            settings,
            layout=layout,
            masks=masks,
            style_masks=style_masks,
        )
    state = start(picture, settings, layout=layout)
    return state, StepInputs(network, targets, without_shares(settings), anchor)


def without_shares(settings: Hyperparameters) -> Hyperparameters:
    """Return the settings of the steps: the styles' shares are in the targets.

    So the program of a step is the same for any number of styles.
    """
    return dataclasses.replace(settings, style_blend=(), style_layer_blend=OrderedDict())


def variable_loss(
    variable: _Picture,
    network: VGG,
    targets: Targets,
    settings: Hyperparameters,
    *,
    anchor: Anchor | None = None,
    features: Callable[[Array], Mapping[str, Array]] | None = None,
) -> tuple[Float[Array, ""], Losses]:
    """Compute the loss that is minimized, as a function of the variable.

    Args:
      variable: the picture in the settings' space.
      network: computes the features.
      targets: from `compute_targets`.
      settings: from `hyperparameters`.
      anchor: what the picture stays close to.
      features: takes a *normalized* image to its maps, in place of the network.
    """
    maps = features or functools.partial(network.from_normalized, taps=settings.taps)
    return style_transfer_loss(
        variable,
        targets,
        features=lambda variable: maps(to_normalized(variable, settings.space)),
        content_weight=settings.content_weight,
        style_weight=settings.style_weight,
        content_loss=settings.content_loss,
        content_layer_weights=settings.content_layers,
        style_layer_weights=settings.style_layers,
        terms=regularizers(settings, anchor=anchor),
    )


def losses_of_terms(
    content_terms: OrderedDict[str, Float[Array, ""]],
    style_terms: OrderedDict[str, Float[Array, ""]],
    others: OrderedDict[str, Float[Array, ""]],
    settings: Hyperparameters,
) -> Losses:
    """Compute what `variable_loss` does from terms that are known."""
    terms = [*content_terms.values(), *style_terms.values(), *others.values()]
    weights = LossWeights(
        settings.content_weight,
        settings.style_weight,
        settings.content_layers,
        settings.style_layers,
        regularizer_weights(settings),
    )
    zero = jnp.zeros((), jnp.result_type(*terms, jnp.float32))
    return weigh_terms(content_terms, style_terms, others, weights, zero=zero)


def regularizer_weights(settings: Hyperparameters) -> dict[str, Weight]:
    """Return the factors of the terms that look at the picture alone, whether they are used."""
    return {
        "tv": settings.tv_weight,
        "range": settings.range_weight,
        "temporal": settings.temporal_weight,
    }


def regularizers(
    settings: Hyperparameters,
    *,
    anchor: Anchor | None = None,
    shape: tuple[int, ...] | None = None,
    total: Callable[[list[Summand]], Array] = add_up,
) -> dict[str, tuple[Weight, Callable[..., Array]]]:
    """Return the terms that look at the picture alone: of the variable, with their weights.

    Args:
      settings: from `hyperparameters`.
      anchor: what the picture stays close to, or the window of that.
      shape: (height, width) of the picture, where the variable is a window of it.
      total: takes what a term adds up to its value.
    """
    summands: dict[str, Callable[..., list[Summand]]] = {}
    if settings.tv_loss:
        summands["tv"] = functools.partial(
            variation_summands, kind=settings.tv_loss, wrap=settings.wrap
        )
    if settings.has_range:
        summands["range"] = range_summands
    if anchor:
        summands["temporal"] = functools.partial(temporal_summands, anchor=anchor)

    def of_variable(of_image: Callable[..., list[Summand]]) -> Callable[..., Array]:
        return lambda variable, maps=None: total(
            of_image(to_srgb(variable, settings.space), shape=shape or variable.shape[-3:-1])
        )

    weights = regularizer_weights(settings)
    return {name: (weights[name], of_variable(term)) for name, term in summands.items()}


def compute_targets(
    network: VGG,
    content: _Picture,
    styles: Sequence[_Style],
    settings: Hyperparameters,
    *,
    layout: Layout | None = None,
    masks: Masks | None = None,
    style_masks: Sequence[StyleMasks] | None = None,
) -> Targets:
    """Compute what `make_targets` does, of several styles, with one compiled program for each size.

    The network is best one from `freeze`. With a layout it, the content and its masks lie on its
    devices, and so will the targets. Style images do not wrap; see `VGG.ends`.
    """
    layers = tuple(settings.content_layers), tuple(settings.style_layers)
    described = _describe(network, content, *layers, layout, masks)
    looks: list[Look] = []
    borderless = network if network.wrap == "none" else recast(network, ends="repeat")
    of_styles: Sequence[StyleMasks | None] = style_masks or [None] * len(styles)
    for style, mask in zip(styles, of_styles, strict=True):
        own = layout and layout.beside(style.shape)
        if layout:
            place = own.place if own else layout.replicate
            style, mask = place(style), mask if mask is None else place(mask)
        looks.append(_describe(borderless, style, *layers, own, mask).look)
    targets: Targets = _assemble(described, looks, settings)
    return targets


@functools.partial(CachedJit, static_argnames=("content_layers", "style_layers", "layout"))
def _describe(
    network: VGG,
    image: Float[Array, "*batch height width 3"],
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
    layout: Layout | None = None,
    masks: Masks | None = None,
) -> Description:
    """Compute all that is to know of an image, whether it is content or style.

    One program for both is one less to compile where they are of one size.
    """
    if layout:
        image = layout.crop(image)
        masks = None if masks is None else layout.crop(masks)
    maps = network(image, taps=content_layers + style_layers)
    found = describe(maps, content_layers=content_layers, style_layers=style_layers, masks=masks)
    if not layout:
        return found
    spread = functools.partial(jax.tree.map, layout.spread)
    return found._replace(maps=spread(found.maps), regions=spread(found.regions))


@jax.jit
def _assemble(content: Description, looks: list[Look], settings: Hyperparameters) -> Targets:
    return assemble_targets(
        content,
        looks,
        style_loss=settings.style_loss,
        style_blend=settings.style_blend,
        style_layer_blend=settings.style_layer_blend,
    )


@functools.partial(jax.jit, static_argnames="layout")
def start(picture: _Picture, settings: Hyperparameters, *, layout: Layout | None = None) -> State:
    """Return the state at a picture, sRGB, before any step.

    Under jit every leaf has a buffer of its own, so that the state can be donated.
    """
    state = make_minimizer(settings, variable_loss).init(to_variable(picture, settings.space))
    return layout.constrain(state) if layout else state


@functools.partial(CachedJit, static_argnames=("layout", "block"), donate_argnames=("state",))
def advance(
    state: State,
    steps: int | Int[Array, ""],
    inputs: StepInputs,
    *,
    layout: Layout | None = None,
    block: int = 1,
) -> tuple[State, Array, Losses]:
    """Make `steps` updates; return the state, the picture (not clipped) and the losses.

    With a layout the state and the picture have the rows that fill it up. The block is that of
    `Minimizer.run`.
    """
    settings = inputs.settings

    def loss(
        variable: Array, network: VGG, targets: Targets, anchor: Anchor | None
    ) -> tuple[Array, Losses]:
        if layout:
            variable = layout.crop(layout.constrain(variable))
            targets = _cropped(targets, variable, settings)
            anchor = jax.tree.map(layout.crop, anchor)
        return variable_loss(variable, network, targets, settings, anchor=anchor)

    minimizer = make_minimizer(settings, loss, block=block)
    args = inputs.network, inputs.targets, inputs.anchor
    state, record = run_steps(minimizer, state, steps, args, capacity=CAPACITY, block=block)
    picture = to_srgb(minimizer.read(state), settings.space)
    return (*(layout.constrain((state, picture)) if layout else (state, picture)), record.aux)


def _cropped(targets: Targets, variable: Array, settings: Hyperparameters) -> Targets:
    """Take away the rows of the content's maps, and of its masks there, that fill up a layout."""
    height, stride = variable.shape[-3], settings.architecture.stride

    def cropped(maps: Mapping[str, Array]) -> OrderedDict[str, Array]:
        rows = {name: height // stride(name) for name in maps}
        return OrderedDict((name, x[..., : rows[name], :, :]) for name, x in maps.items())

    regions = targets.regions and cropped(targets.regions)
    return dataclasses.replace(targets, content=cropped(targets.content), regions=regions)
