"""The rules by which the iterates become a picture: the last, an average, or the best one."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

Picture = Literal["last", "average", "best"]


class IterateRule(NamedTuple):
    """A rule that turns the iterates into one picture; its memory is a pytree.

    Attributes:
      init: takes the first variable to an empty memory.
      update: takes the memory, the variable before a step, its loss, and the variable after it.
      read: takes the memory and the last variable to the picture.
    """

    init: Callable[[PyTree[Array]], Any]
    update: Callable[[Any, PyTree[Array], Float[Array, ""], PyTree[Array]], Any]
    read: Callable[[Any, PyTree[Array]], PyTree[Array]]


def last() -> IterateRule:
    """Take the last iterate; remember nothing."""
    return IterateRule(lambda _: (), lambda kept, *_: kept, lambda _, variable: variable)


class Average(NamedTuple):
    """The memory of `average`: a weighted sum of iterates, and the sum of their weights."""

    sum: PyTree[Array]
    weight: Float[Array, ""]


def average(decay: float) -> IterateRule:
    """Take the moving average of the iterates, the first variable included.

    Adam's last iterates scatter around the minimum; their average lies nearer (Polyak and Juditsky,
    1992). crowsonkb/style-transfer-pytorch takes the picture so, with decay 0.99.

    Args:
      decay: in [0, 1): the average reaches back about 1 / (1 - decay) steps.
    """

    def init(variable: PyTree[Array]) -> Average:
        return Average(jax.tree.map(lambda x: (1 - decay) * x, variable), jnp.asarray(1 - decay))

    def update(kept: Average, _: Any, __: Any, after: PyTree[Array]) -> Average:
        summed = jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, kept.sum, after)
        return Average(summed, decay * kept.weight + (1 - decay))

    def read(kept: Average, _: Any) -> PyTree[Array]:
        return jax.tree.map(lambda a: a / kept.weight.astype(a.dtype), kept.sum)

    return IterateRule(init, update, read)


class Best(NamedTuple):
    """The memory of `best`: the iterate of the least loss so far, and that loss."""

    variable: PyTree[Array]
    loss: Float[Array, ""]


def best() -> IterateRule:
    """Take the iterate of the least loss; the last one has no loss yet and never counts."""

    def init(variable: PyTree[Array]) -> Best:
        kind = np.promote_types(jax.tree.leaves(variable)[0].dtype, np.float32)
        return Best(jax.tree.map(jnp.copy, variable), jnp.asarray(jnp.inf, kind))

    def update(kept: Best, before: PyTree[Array], loss: Float[Array, ""], _: Any) -> Best:
        loss = loss.astype(kept.loss.dtype)
        better = loss < kept.loss  # never, for what is not a number
        return Best(
            jax.tree.map(lambda old, new: jnp.where(better, new, old), kept.variable, before),
            jnp.where(better, loss, kept.loss),
        )

    return IterateRule(init, update, lambda kept, _: kept.variable)
