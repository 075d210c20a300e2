"""Begin a scale as its size and the settings ask for: at once, or in tiles."""

from nst_jax.scale.interface import Scale, ScaleInputs
from nst_jax.scale.tiled import TiledScale
from nst_jax.scale.whole import WholeScale


def begin_scale(inputs: ScaleInputs) -> Scale:
    """Prepare a scale.

    Raises:
      InputError: for what cannot be computed in tiles; see `check_tiled`.
    """
    return TiledScale(inputs) if inputs.tiles else WholeScale(inputs)
