"""Neural style transfer in JAX: `stylize` is the whole job, the rest are its pure parts."""

from nst_jax.config import Config as Config
from nst_jax.config import Layer as Layer
from nst_jax.config import layers as layers
from nst_jax.errors import InputError as InputError
from nst_jax.images import load_image as load_image
from nst_jax.images import save_image as save_image
from nst_jax.losses import content_loss as content_loss
from nst_jax.losses import style_loss as style_loss
from nst_jax.losses import style_target as style_target
from nst_jax.moments import StyleStatistics as StyleStatistics
from nst_jax.moments import gram_matrix as gram_matrix
from nst_jax.moments import style_statistics as style_statistics
from nst_jax.objective import Losses as Losses
from nst_jax.objective import Targets as Targets
from nst_jax.objective import make_targets as make_targets
from nst_jax.objective import style_transfer_loss as style_transfer_loss
from nst_jax.presets import PRESETS as PRESETS
from nst_jax.presets import preset as preset
from nst_jax.transfer import Snapshot as Snapshot
from nst_jax.transfer import stylize as stylize
from nst_jax.vgg import VGG19 as VGG19
from nst_jax.vgg import build_vgg19 as build_vgg19
from nst_jax.weights import load_vgg19 as load_vgg19

__version__ = "0.1.0"
