"""The settings of a run taken apart: what its compiled program is told, and what it is."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nst_jax.config import Config, Optimizer, Space
from nst_jax.losses.regularizers import TotalVariation
from nst_jax.losses.terms import ContentLoss, StyleLoss
from nst_jax.network.architecture import ARCHITECTURES, Architecture, NetworkName
from nst_jax.network.vgg import denormalize, normalize
from nst_jax.optimizers import averaging, minimize
from nst_jax.optimizers.adam import torch_adam
from nst_jax.optimizers.lbfgs import torch_lbfgs


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

    network: NetworkName
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
    picture: averaging.Picture
    average_decay: float

    @property
    def architecture(self) -> Architecture:
        """The network's table."""
        return ARCHITECTURES[self.network]


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
            network=config.network,
            taps=config.taps,
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


def keeper(program: Program) -> averaging.Keeper:
    """Return the rule by which the iterates become a picture."""
    match program.picture:
        case "last":
            return averaging.last()
        case "average":
            return averaging.average(program.average_decay)
        case "best":
            return averaging.best()


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

    return shown if program.clamp else minimize.unchanged
