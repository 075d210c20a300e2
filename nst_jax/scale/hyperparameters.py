"""The settings of a run as its compiled programs take them, and what follows from them."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nst_jax.config import Config, Optimizer, Space
from nst_jax.geometry import Wrap
from nst_jax.losses.regularizers import TotalVariation
from nst_jax.losses.terms import ContentLoss, StyleLoss
from nst_jax.network.architecture import ARCHITECTURES, Architecture, NetworkName
from nst_jax.network.vgg import denormalize, normalize
from nst_jax.optimizers import averaging
from nst_jax.optimizers.adam import torch_adam
from nst_jax.optimizers.lbfgs import torch_lbfgs
from nst_jax.optimizers.minimize import Minimizer, unchanged

Number = Any  # a float, a scalar array, or what JAX puts in its place


def _static() -> Any:
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The settings of a run, a pytree: its leaves are numbers, and changing one compiles nothing.

    The other fields are static; another value is another program. All decays are static too: as
    float32 numbers that are known only at run time, 1 - 0.999 would lose half its digits. A
    regularizer without weight is no part of the program.

    Attributes:
      step_factor: by which steps are shorter than the settings say; see `Config.on_nan`.
    """

    learning_rate: Number
    step_factor: Number
    content_weight: Number
    style_weight: Number
    tv_weight: Number
    range_weight: Number
    temporal_weight: Number
    content_layers: OrderedDict[str, Number]
    style_layers: OrderedDict[str, Number]
    style_blend: tuple[Number, ...]
    style_layer_blend: OrderedDict[str, tuple[Number, ...]]
    network: NetworkName = _static()
    taps: tuple[str, ...] = _static()
    content_loss: ContentLoss = _static()
    style_loss: StyleLoss = _static()
    tv_loss: TotalVariation | None = _static()
    has_range: bool = _static()
    wrap: Wrap = _static()
    space: Space = _static()
    clamp: bool = _static()
    optimizer: Optimizer = _static()
    memory_size: int = _static()
    beta1: float = _static()
    beta2: float = _static()
    picture: averaging.Picture = _static()
    average_decay: float = _static()

    @property
    def architecture(self) -> Architecture:
        """The network's table."""
        return ARCHITECTURES[self.network]


def hyperparameters(config: Config) -> Hyperparameters:
    """Take from the settings what the compiled programs of a run need.

    Raises:
      InputError: if there is no layer at all.
    """
    names = [field.name for field in dataclasses.fields(Hyperparameters)]
    same = {name: getattr(config, name) for name in names if hasattr(config, name)}
    own = {
        "content_layers": OrderedDict(config.content_layers),
        "style_layers": OrderedDict(config.style_layers),
        "style_layer_blend": OrderedDict(config.style_layer_blend),
        "step_factor": 1.0,
        "tv_loss": config.tv_loss if config.tv_weight else None,
        "has_range": config.range_weight > 0,
    }
    return Hyperparameters(**(same | own))


def make_minimizer(
    settings: Hyperparameters, loss: Callable[..., Any], *, block: int = 1
) -> Minimizer:
    """Return the minimizer that the settings describe.

    Args:
      settings: from `hyperparameters`.
      loss: takes the variable and further arguments to the loss and its parts.
      block: that of `torch_lbfgs`.
    """
    return Minimizer(
        loss,
        _optimizer(settings, block),
        has_aux=True,
        project=_projection(settings),
        iterates=_iterate_rule(settings),
    )


def _optimizer(settings: Hyperparameters, block: int) -> optax.GradientTransformation:
    match settings.optimizer:
        case "adam":
            rate = settings.learning_rate * settings.step_factor
            return torch_adam(rate, b1=settings.beta1, b2=settings.beta2)
        case "lbfgs":
            return optax.lbfgs(memory_size=settings.memory_size)
        case "lbfgs-torch":
            rate = settings.step_factor
            return torch_lbfgs(rate, memory_size=settings.memory_size, block=block)


def _iterate_rule(settings: Hyperparameters) -> averaging.IterateRule:
    match settings.picture:
        case "last":
            return averaging.last()
        case "average":
            return averaging.average(settings.average_decay)
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


def _projection(settings: Hyperparameters) -> Callable[[Array], Array]:
    def shown(variable: Array) -> Array:
        return to_variable(jnp.clip(to_srgb(variable, settings.space), 0, 1), settings.space)

    return shown if settings.clamp else unchanged
