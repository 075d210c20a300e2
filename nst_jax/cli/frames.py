"""What a frame of a film takes from the one before it: its result, moved as the things move."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nst_jax.cli.names import PictureFiles
from nst_jax.cli.options import FLOWS, JobOptions
from nst_jax.errors import InputError, check_installed
from nst_jax.io.flow import compute_flow, load_flow
from nst_jax.motion import resize_flow, seen_before, warp

_AUTO = FLOWS[0]


class Past(NamedTuple):
    """The nearest painted frame before a frame.

    Attributes:
      picture: its files.
      number: its place in the film, from 1.
      now: the place of the frame that follows.
    """

    picture: PictureFiles
    number: int
    now: int


def check_flow(options: JobOptions) -> None:
    """Raise InputError if --flow has no effect, or what it asks for is missing."""
    if not options.sequence:
        if options.flow:
            raise InputError(f"--flow is {options.flow}, which is for --sequence; add it")
        if "temporal_weight" in options.settings:
            raise InputError("--temporal-weight is for --sequence; add it, or leave both out")
        return
    match flow_of(options):
        case "auto":
            try:
                check_installed("--sequence", "cv2", extra="film")
            except InputError as error:
                raise InputError(f"{error}, or give --flow=none") from None
        case "none":
            if "temporal_weight" in options.settings:
                raise InputError("--temporal-weight is for a known motion; leave --flow=none out")
        case _ if not os.path.isdir(str(options.flow)):
            raise InputError(f"--flow is {options.flow!r}; allowed are auto, none, or a folder")


def flow_of(options: JobOptions) -> str:
    """Return where the optical flow comes from: auto, none or files."""
    given = options.flow or _AUTO
    return given if given in FLOWS else "files"


def moved(
    past: Past,
    result: np.ndarray,
    content: np.ndarray,
    content_before: np.ndarray,
    *,
    flow: str | None,
) -> tuple[Float[np.ndarray, "height width 3"], Float[np.ndarray, "height width"]]:
    """Return the result before as it lies in the new frame, and where it shows the same.

    Args:
      past: the frame before.
      result: its painted picture, at the size of the new one; sRGB.
      content: the new frame.
      content_before: the frame before.
      flow: --flow: auto or None, or a folder of files.

    Raises:
      InputError: if the optical flow cannot be computed, or a file of it cannot be read.
    """
    if flow in (None, _AUTO):
        flows = [compute_flow(content, content_before), compute_flow(content_before, content)]
    else:
        names = f"backward_{past.now}_{past.number}", f"forward_{past.number}_{past.now}"
        flows = [load_flow(Path(flow) / f"{name}.flo") for name in names]
    back, onward = (resize_flow(jnp.asarray(x), content.shape[:2]) for x in flows)
    picture: Any = warp(jnp.asarray(result), back)
    return np.asarray(picture), np.asarray(seen_before(back, onward))
