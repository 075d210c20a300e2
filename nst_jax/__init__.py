"""Neural style transfer in JAX: `stylize` is the whole job, the rest are its pure parts.

What reads files and weights is imported when it is first asked for, so that those who need the pure
parts alone wait for nothing else.
"""

import importlib
import typing

from nst_jax.color import match_colors as match_colors
from nst_jax.config import Config as Config
from nst_jax.config import Layer as Layer
from nst_jax.config import layers as layers
from nst_jax.devices.executable_cache import cached_executables as cached_executables
from nst_jax.errors import InputError as InputError
from nst_jax.geometry import resample as resample
from nst_jax.geometry import scales as scales
from nst_jax.losses.objective import Losses as Losses
from nst_jax.losses.objective import Targets as Targets
from nst_jax.losses.objective import make_targets as make_targets
from nst_jax.losses.objective import style_transfer_loss as style_transfer_loss
from nst_jax.losses.perceptual import describe_style as describe_style
from nst_jax.losses.perceptual import perceptual_loss as perceptual_loss
from nst_jax.losses.regularizers import temporal_loss as temporal_loss
from nst_jax.losses.regularizers import total_variation as total_variation
from nst_jax.losses.statistics import StyleStatistics as StyleStatistics
from nst_jax.losses.statistics import gram_matrix as gram_matrix
from nst_jax.losses.statistics import style_statistics as style_statistics
from nst_jax.losses.terms import StyleFormula as StyleFormula
from nst_jax.losses.terms import content_loss as content_loss
from nst_jax.losses.terms import style_loss as style_loss
from nst_jax.losses.terms import style_target as style_target
from nst_jax.motion import seen_before as seen_before
from nst_jax.motion import warp as warp
from nst_jax.network.activations import match_activations as match_activations
from nst_jax.network.architecture import ARCHITECTURES as ARCHITECTURES
from nst_jax.network.vgg import VGG as VGG
from nst_jax.network.vgg import VGG16 as VGG16
from nst_jax.network.vgg import VGG19 as VGG19
from nst_jax.network.vgg import Features as Features
from nst_jax.network.vgg import FrozenParam as FrozenParam
from nst_jax.network.vgg import build_vgg16 as build_vgg16
from nst_jax.network.vgg import build_vgg19 as build_vgg19
from nst_jax.network.vgg import freeze as freeze
from nst_jax.network.vgg import parameters as parameters
from nst_jax.optimizers.averaging import average as average
from nst_jax.optimizers.averaging import best as best
from nst_jax.optimizers.averaging import last as last
from nst_jax.optimizers.minimize import Minimizer as Minimizer
from nst_jax.optimizers.minimize import Record as Record
from nst_jax.optimizers.minimize import State as State
from nst_jax.presets import PRESETS as PRESETS
from nst_jax.presets import preset as preset
from nst_jax.scale.warm_start import resize_state as resize_state
from nst_jax.transfer.estimate import estimate_memory as estimate_memory
from nst_jax.transfer.multiscale import Snapshot as Snapshot
from nst_jax.transfer.problem import Problem as Problem
from nst_jax.transfer.problem import run_scales as run_scales
from nst_jax.transfer.stylize import stylize as stylize

if typing.TYPE_CHECKING:
    from nst_jax.io.checkpoint import CheckpointStore as CheckpointStore
    from nst_jax.io.flow import compute_flow as compute_flow
    from nst_jax.io.flow import load_flow as load_flow
    from nst_jax.io.images import load_image as load_image
    from nst_jax.io.images import save_image as save_image
    from nst_jax.io.masks import load_color_map as load_color_map
    from nst_jax.io.masks import load_mask as load_mask
    from nst_jax.weights.activations import mean_activations as mean_activations
    from nst_jax.weights.sources import cached_weights as cached_weights
    from nst_jax.weights.sources import load_network as load_network
    from nst_jax.weights.sources import load_vgg16 as load_vgg16
    from nst_jax.weights.sources import load_vgg19 as load_vgg19

__version__ = "0.2.0"

_LATER = {
    "CheckpointStore": "nst_jax.io.checkpoint",
    "cached_weights": "nst_jax.weights.sources",
    "compute_flow": "nst_jax.io.flow",
    "load_color_map": "nst_jax.io.masks",
    "load_flow": "nst_jax.io.flow",
    "load_image": "nst_jax.io.images",
    "load_mask": "nst_jax.io.masks",
    "mean_activations": "nst_jax.weights.activations",
    "save_image": "nst_jax.io.images",
    "load_network": "nst_jax.weights.sources",
    "load_vgg16": "nst_jax.weights.sources",
    "load_vgg19": "nst_jax.weights.sources",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
