"""What an image file carries beside its colors, from the content image to the picture."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from nst_jax.io.colors import alpha_of
from nst_jax.io.decoding import Source, name_of, opened, read


class Extras(NamedTuple):
    """What an image file carries beside its colors.

    Attributes:
      alpha: opacity from 0 to 255, of the picture's aspect ratio in any size; None: it is opaque.
    """

    alpha: UInt8[np.ndarray, "_ _"] | None = None


def load_extras(source: Source) -> Extras:
    """Return what an image file carries beside its colors.

    Args:
      source: see `load_image`; of a file without transparency only the header is read.

    Raises:
      InputError: if the file cannot be read, or is no image.
    """
    name = name_of(source)
    with opened(source, name) as image:
        transparent = image.has_transparency_data
    alpha = alpha_of(read(source, name), name) if transparent else None
    return Extras(None if alpha is None else np.asarray(alpha))
