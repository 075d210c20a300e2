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
from jaxtyping import Array, Float, Int, PyTree

from nst_jax.config import Space
from nst_jax.geometry import Shape
from nst_jax.losses.objective import Losses
from nst_jax.losses.statistics import StyleStatistics, accumulator, gram_matrix
from nst_jax.losses.terms import StyleLoss, content_loss_of, style_loss_of
from nst_jax.network.vgg import VGG
from nst_jax.scale.hyperparameters import Numbers, Program, to_normalized
from nst_jax.scale.step import regularizers, weigh
from nst_jax.scale.windows import Part

# Content maps of more bytes a pixel are computed anew at every step rather than kept.
KEPT_BYTES = 64
Maps = OrderedDict[str, Any]
Statistics = OrderedDict[str, StyleStatistics]


class Targets(NamedTuple):
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
      style: that by each style layer's Gram matrix and mean.
      numbers: the settings.
    """

    content: tuple[Float[Array, ""], ...]
    style: dict[str, tuple[Array, Array]]
    numbers: Numbers


class Sums(NamedTuple):
    """What windows add up beside the gradient."""

    content: tuple[Float[Array, ""], ...]
    regularizers: OrderedDict[str, Float[Array, ""]]


@functools.partial(jax.jit, static_argnames=("program", "picture", "space"))
def measure(
    network: VGG,
    window: Float[Array, "height width 3"],
    bounds: Int[Array, "4"],
    shift: Mapping[str, Array],
    program: Program,
    picture: Shape,
    space: Space,
) -> Statistics:
    """Return the part's share of the statistics of an image in some space."""
    maps = network.from_normalized(to_normalized(window, space), taps=program.style_layers)
    return _part_statistics(maps, Part(bounds, picture), shift, program)


def _part_statistics(
    maps: Mapping[str, Array], part: Part, shift: Mapping[str, Array], program: Program
) -> Statistics:
    """Return the part's share of the picture's statistics; the shares add up, their means too."""
    found: Statistics = OrderedDict()
    table = program.architecture
    for name in program.style_layers:
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
    if kind not in ("wasserstein", "relative-wasserstein"):
        return {}
    return {name: gaussian.mean for name, gaussian in target.items()}


@functools.partial(jax.jit, static_argnames=("program", "picture"))
def describe_content(
    network: VGG,
    window: Float[Array, "height width 3"],
    bounds: Int[Array, "4"],
    program: Program,
    picture: Shape,
) -> tuple[Maps, tuple[Array, ...]]:
    """Return the content's maps, and the part's sums of their squares."""
    if not program.content_layers:
        return OrderedDict(), ()
    maps = network(window, taps=program.content_layers)
    part, stride = Part(bounds, picture), program.architecture.stride
    squares = tuple(
        jnp.sum(part.own(maps[name].astype(accumulator(maps[name])) ** 2, stride=stride(name)))
        for name in program.content_layers
    )
    return OrderedDict((name, maps[name]) for name in program.content_layers), squares


@functools.partial(jax.jit, static_argnames=("program", "picture"))
def differentiate(
    statistics: Statistics, targets: Targets, numbers: Numbers, program: Program, picture: Shape
) -> Constants:
    """Differentiate the loss by what the windows add up."""
    zero = tuple(jnp.zeros_like(square) for square in targets.squares)

    def loss(content: tuple[Array, ...], moments: dict[str, tuple[Array, Array]]) -> Array:
        whole = OrderedDict(
            (name, StyleStatistics(*moments[name], statistics[name].positions))
            for name in program.style_layers
        )
        sums = Sums(content, OrderedDict())
        losses: Losses = losses_of(whole, sums, targets, numbers, program, picture)
        return losses.total

    moments = {name: (each.gram, each.mean) for name, each in statistics.items()}
    by_content, by_style = jax.grad(loss, argnums=(0, 1))(zero, moments)
    return Constants(by_content, by_style, numbers)


@functools.partial(jax.jit, static_argnames=("program", "picture"))
def pull(
    network: VGG,
    window: Float[Array, "height width 3"],
    content: Any,
    bounds: Int[Array, "4"],
    shift: Mapping[str, Array],
    constants: Constants,
    program: Program,
    picture: Shape,
) -> tuple[Float[Array, "height width 3"], Sums]:
    """Return a window's part of the gradient, margins included, and its part of the sums.

    The content is the window's maps, or the window itself to compute them of.
    """
    part, stride = Part(bounds, picture), program.architecture.stride
    if program.content_layers and not isinstance(content, Mapping):
        content = network(content, taps=program.content_layers)
    terms = regularizers(constants.numbers, program, part=part)

    def loss(variable: Array) -> tuple[Array, Sums]:
        maps = network.from_normalized(to_normalized(variable, program.space), taps=program.taps)
        statistics = _part_statistics(maps, part, shift, program)
        squares = []
        for name in program.content_layers:
            difference = maps[name].astype(accumulator(maps[name])) - content[name]
            squares.append(jnp.sum(part.own(difference**2, stride=stride(name))))
        others = OrderedDict((name, f(variable)) for name, (_, f) in terms.items())
        total: Any = sum(weight * others[name] for name, (weight, _) in terms.items())
        for factor, square in zip(constants.content, squares, strict=True):
            total += factor * square
        for name, (by_gram, by_mean) in constants.style.items():
            total += jnp.vdot(by_gram, statistics[name].gram)
            total += jnp.vdot(by_mean, statistics[name].mean)
        return total, Sums(tuple(squares), others)

    gradient, sums = jax.grad(loss, has_aux=True)(window)
    return gradient, sums


@functools.partial(jax.jit, static_argnames=("program", "picture"))
def losses_of(
    statistics: Statistics,
    sums: Sums,
    targets: Targets,
    numbers: Numbers,
    program: Program,
    picture: Shape,
) -> Losses:
    """Compute the loss and its parts from what the windows have added up."""
    table = program.architecture
    content = OrderedDict(
        (
            name,
            content_loss_of(
                square,
                target_square,
                table.outputs(name) * table.positions(name, *picture),
                kind=program.content_loss,
            ),
        )
        for name, square, target_square in zip(
            program.content_layers, sums.content, targets.squares, strict=True
        )
    )
    style = OrderedDict(
        (name, style_loss_of(statistics[name], targets.style[name], kind=program.style_loss))
        for name in program.style_layers
    )
    return weigh(content, style, sums.regularizers, numbers, program)


def content_bytes(program: Program) -> float:
    """Return the bytes of the content's maps for each pixel of the picture."""
    table, names = program.architecture, program.content_layers
    return sum((4 * table.outputs(name) / table.stride(name) ** 2 for name in names), 0.0)
