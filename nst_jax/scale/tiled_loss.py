"""The loss as a function of sums over a picture's positions, which windows of it add up.

All that the loss takes of the picture are such sums: of products of channels (Gram matrices), of
squared differences from the content's maps, of differences of neighbors.
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nst_jax.config import Space
from nst_jax.geometry import Shape, shape_of
from nst_jax.losses.objective import Losses
from nst_jax.losses.regions import RegionStatistics, coverage, region_loss_of, region_statistics
from nst_jax.losses.regularizers import Anchor, Summand, add_up
from nst_jax.losses.statistics import StyleStatistics, accumulator, gram_matrix
from nst_jax.losses.terms import StyleLoss, content_loss_of, shift_of, style_loss_of
from nst_jax.network.vgg import VGG
from nst_jax.scale.hyperparameters import Hyperparameters, to_normalized
from nst_jax.scale.step import losses_of_terms, regularizers
from nst_jax.scale.windows import Part

# Content maps of more bytes a pixel are computed anew at every step rather than kept.
KEPT_BYTES = 64
Maps = OrderedDict[str, Any]
Statistics = OrderedDict[str, StyleStatistics | RegionStatistics]


class TiledTargets(NamedTuple):
    """What the picture is pulled toward.

    Attributes:
      style: what `losses.style_target` makes of the styles, for each style layer.
      squares: the sum of the squares of each of the content's maps.
    """

    style: OrderedDict[str, PyTree[Array]]
    squares: tuple[Float[Array, ""], ...]


class Constants(NamedTuple):
    """What a window's gradient takes as known.

    Attributes:
      content: the derivative of the loss by each content layer's sum of squared differences.
      style: that by each style layer's Gram matrix and mean, or the regions' sums.
      settings: from `hyperparameters`.
    """

    content: tuple[Float[Array, ""], ...]
    style: dict[str, tuple[Array, Array]]
    settings: Hyperparameters


class Sums(NamedTuple):
    """What windows add up beside the gradient."""

    content: tuple[Float[Array, ""], ...]
    regularizers: OrderedDict[str, Float[Array, ""]]


@functools.partial(jax.jit, static_argnames="space")
def window_statistics(
    network: VGG,
    window: Float[Array, "height width 3"],
    part: Part,
    shift: Mapping[str, Array],
    settings: Hyperparameters,
    space: Space,
    *,
    masks: Float[Array, "height width r"] | None = None,
) -> Statistics:
    """Return the part's share of the statistics of an image in some space; masks: the window's."""
    maps = network.from_normalized(to_normalized(window, space), taps=tuple(settings.style_layers))
    return _part_statistics(maps, part, shift, settings, masks)


def _part_statistics(
    maps: Mapping[str, Array],
    part: Part,
    shift: Mapping[str, Array],
    settings: Hyperparameters,
    masks: Array | None,
) -> Statistics:
    """Return the part's share of the picture's statistics; the shares add up, their means too."""
    found: Statistics = OrderedDict()
    table = settings.architecture
    for name in settings.style_layers:
        if masks is not None:
            regions = coverage(masks, shape_of(maps[name]))
            own = part.own(regions, stride=table.stride(name))
            found[name] = region_statistics(maps[name], own, shift=shift.get(name))
            continue
        features, acc, stride = maps[name], accumulator(maps[name]), table.stride(name)
        if name in shift:
            features = features.astype(acc) - shift[name].reshape(1, 1, -1)
        own = part.own(features, stride=stride)
        count = part.inside(*features.shape[:2], stride=stride).sum()
        mean = own.astype(acc).sum((0, 1)) / float(table.positions(name, *part.shape))
        with jax.default_matmul_precision("highest" if name in shift else None):  # as wasserstein
            gram = gram_matrix(own)
        found[name] = StyleStatistics(gram, mean, count.astype(acc))
    return found


def shifts(target: Mapping[str, Any], kind: StyleLoss) -> dict[str, Array]:
    """Return what is taken off the maps before they are summed; see `losses.style_loss_of`."""
    found = {name: shift_of(each, kind) for name, each in target.items()}
    return {name: shift for name, shift in found.items() if shift is not None}


@jax.jit
def describe_content(
    network: VGG, window: Float[Array, "height width 3"], part: Part, settings: Hyperparameters
) -> tuple[Maps, tuple[Array, ...]]:
    """Return the content's maps, and the part's sums of their squares."""
    names = tuple(settings.content_layers)
    if not names:
        return OrderedDict(), ()
    maps, stride = network(window, taps=names), settings.architecture.stride
    squares = tuple(
        jnp.sum(part.own(maps[name].astype(accumulator(maps[name])) ** 2, stride=stride(name)))
        for name in names
    )
    return OrderedDict((name, maps[name]) for name in names), squares


@functools.partial(jax.jit, static_argnames="picture")
def differentiate(
    statistics: Statistics, targets: TiledTargets, settings: Hyperparameters, picture: Shape
) -> Constants:
    """Differentiate the loss by what the windows add up."""
    zero = tuple(jnp.zeros_like(square) for square in targets.squares)

    def loss(content: tuple[Array, ...], moments: dict[str, tuple[Array, Array]]) -> Array:
        whole = OrderedDict(
            (name, type(statistics[name])(*moments[name], statistics[name].positions))
            for name in settings.style_layers
        )
        sums = Sums(content, OrderedDict())
        losses: Losses = losses_of(whole, sums, targets, settings, picture)
        return losses.total

    moments = {name: each[:2] for name, each in statistics.items()}
    by_content, by_style = jax.grad(loss, argnums=(0, 1))(zero, moments)
    return Constants(by_content, by_style, settings)


@jax.jit
def window_gradient(
    network: VGG,
    window: Float[Array, "height width 3"],
    content: Any,
    part: Part,
    shift: Mapping[str, Array],
    constants: Constants,
    *,
    masks: Float[Array, "height width r"] | None = None,
    anchor: Anchor | None = None,
) -> tuple[Float[Array, "height width 3"], Sums]:
    """Return a window's part of the gradient, margins included, and its part of the sums.

    The content is the window's maps, or the window itself to compute them of; the masks and the
    anchor are the window's.
    """
    settings = constants.settings
    stride, names = settings.architecture.stride, tuple(settings.content_layers)
    if names and not isinstance(content, Mapping):
        content = network(content, taps=names)

    def of_part(summands: list[Summand]) -> Array:
        return add_up(x._replace(values=part.own(x.values, before=x.before)) for x in summands)

    terms = regularizers(settings, anchor=anchor, shape=part.shape, total=of_part)

    def loss(variable: Array) -> tuple[Array, Sums]:
        normalized = to_normalized(variable, settings.space)
        maps = network.from_normalized(normalized, taps=settings.taps)
        statistics = _part_statistics(maps, part, shift, settings, masks)
        squares = []
        for name in names:
            difference = maps[name].astype(accumulator(maps[name])) - content[name]
            squares.append(jnp.sum(part.own(difference**2, stride=stride(name))))
        others = OrderedDict((name, f(variable)) for name, (_, f) in terms.items())
        total: Any = sum(weight * others[name] for name, (weight, _) in terms.items())
        for factor, square in zip(constants.content, squares, strict=True):
            total += factor * square
        for name, derivatives in constants.style.items():
            for by, own in zip(derivatives, statistics[name], strict=False):
                total += jnp.vdot(by, own)
        return total, Sums(tuple(squares), others)

    gradient, sums = jax.grad(loss, has_aux=True)(window)
    return gradient, sums


@functools.partial(jax.jit, static_argnames="picture")
def losses_of(
    statistics: Statistics,
    sums: Sums,
    targets: TiledTargets,
    settings: Hyperparameters,
    picture: Shape,
) -> Losses:
    """Compute the loss and its parts from what the windows have added up."""
    table = settings.architecture
    content = OrderedDict(
        (
            name,
            content_loss_of(
                square,
                target_square,
                table.outputs(name) * table.positions(name, *picture),
                kind=settings.content_loss,
            ),
        )
        for name, square, target_square in zip(
            settings.content_layers, sums.content, targets.squares, strict=True
        )
    )

    def style_term(name: str) -> Array:
        own, target, kind = statistics[name], targets.style[name], settings.style_loss
        if isinstance(own, StyleStatistics):
            return style_loss_of(own, target, kind=kind)
        return region_loss_of(own, target, positions=table.positions(name, *picture), kind=kind)

    style = OrderedDict((name, style_term(name)) for name in settings.style_layers)
    return losses_of_terms(content, style, sums.regularizers, settings)


def content_bytes(settings: Hyperparameters) -> float:
    """Return the bytes of the content's maps for each pixel of the picture."""
    table, names = settings.architecture, settings.content_layers
    return sum((4 * table.outputs(name) / table.stride(name) ** 2 for name in names), 0.0)
