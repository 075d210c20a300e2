"""Optical flow from files, and computed by OpenCV (the extra `film`)."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nst_jax.errors import InputError, check_installed
from nst_jax.io.arrays import rounded
from nst_jax.io.files import MOST_STREAM, open_input

_MAGIC, _HEADER = np.float32(202021.25).tobytes(), 12
_LEAST = 12  # px of a side, for OpenCV
_UNKNOWN = 1e9  # a larger number stands for a motion that is not known


def load_flow(path: str | Path) -> Float[np.ndarray, "height width 2"]:
    """Load a file .flo, the format of the Middlebury benchmark.

    Returns:
      x to the right and y down, in px.

    Raises:
      InputError: if the file cannot be read, or is none of the format; if a motion is unknown.
    """
    try:
        with open_input(path) as file:
            data = file.read(_HEADER)
            width, height = np.frombuffer(data[4:].ljust(8, b"\0"), "<i4").tolist()
            data += file.read(min(MOST_STREAM, 8 * max(0, width) * max(0, height)) + 1)
    except OSError as error:
        raise InputError(f"cannot read the flow {str(path)!r}: {error.strerror}") from None
    if data[:4] != _MAGIC or min(width, height) < 1 or len(data) != _HEADER + 8 * width * height:
        raise InputError(f"cannot read the flow {str(path)!r}: it is no whole file .flo")
    flow = np.frombuffer(data, "<f4", offset=_HEADER).reshape(height, width, 2)
    if not (abs(flow) < _UNKNOWN).all():
        raise InputError(f"the flow {str(path)!r} does not know all motion; fill it in first")
    return flow.astype(np.float32)


def compute_flow(
    image: Float[np.ndarray, "height width 3"], other: Float[np.ndarray, "height width 3"]
) -> Float[np.ndarray, "height width 2"]:
    """Find where the pixels of an image are in another one, by OpenCV's dense inverse search.

    Kroeger et al., arXiv 1603.03590.

    Args:
      image: sRGB in [0, 1].
      other: the same, of the same shape.

    Returns:
      Where each pixel is in `other`, less where it is in `image`: x to the right and y down, in px.

    Raises:
      InputError: if OpenCV is not installed, or a side has less than 12 px.
    """
    check_installed("optical flow", "cv2", extra="film")
    cv2: Any = importlib.import_module("cv2")  # its types lack what is used here
    if min(image.shape[:2]) < _LEAST:
        height, width = image.shape[:2]
        raise InputError(
            f"the images have {width}x{height} px; optical flow needs sides of at least {_LEAST}"
        )

    gray = [cv2.cvtColor(rounded(x), cv2.COLOR_RGB2GRAY) for x in (image, other)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow: np.ndarray = search.calc(*gray, None)
    return flow
