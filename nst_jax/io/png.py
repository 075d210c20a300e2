"""A picture as a PNG file in memory, as notebooks show it."""

import io
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from nst_jax.io.arrays import rounded


def png(image: Float[Any, "*batch height width 3"]) -> bytes:
    """Return a picture as a PNG file; a batch side by side.

    Args:
      image: sRGB in [0, 1].
    """
    array = np.asarray(image)
    pictures = array.reshape(-1, *array.shape[-3:])
    file = io.BytesIO()
    Image.fromarray(rounded(np.concatenate(list(pictures), axis=1))).save(file, "PNG")
    return file.getvalue()
