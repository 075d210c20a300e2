"""Read masks from image files: levels of gray, or regions in pure colors."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from nst_jax.errors import InputError
from nst_jax.io.decoding import Source, name_of
from nst_jax.io.images import load_image

# The colors of regions, in the order in which several styles take them.
COLORS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (1, 0, 0),
        "green": (0, 1, 0),
        "blue": (0, 0, 1),
        "yellow": (1, 1, 0),
        "magenta": (1, 0, 1),
        "cyan": (0, 1, 1),
        "white": (1, 1, 1),
    }
)
_BLACK = (0, 0, 0)  # no region
GRAY = "gray"  # the region of a mask without colors
# The least share of the pixels that makes a region: softened edges have colors of their own.
_LEAST = 0.005


def load_mask(
    source: Source, *, shape: tuple[int, int] | None = None
) -> Float[np.ndarray, "height width"]:
    """Load a mask: white is 1, black and transparent are 0, gray is between.

    Args:
      source: see `load_image`.
      shape: (height, width) in px of the result; by default the file's own.

    Raises:
      InputError: see `load_image`; or if the image has colors.
    """
    regions = _regions(load_image(source, shape=shape, background="black"))
    if GRAY not in regions:
        raise InputError(
            f"cannot take {name_of(source)} as a mask: it has colors; give levels of gray"
        )
    return regions[GRAY]


def load_color_map(source: Source) -> dict[str, Float[np.ndarray, "height width"]]:
    """Load the masks of an image's regions, each painted in one of `COLORS`; black is no region.

    Each pixel belongs to the nearest of the colors that at least one pixel in 200 is nearest to.

    Args:
      source: see `load_image`.

    Returns:
      The mask of each region by the name of its color, in the order of `COLORS`; none if the image
      is gray.

    Raises:
      InputError: see `load_image`.
    """
    return {name: mask for name, mask in load_regions(source).items() if name != GRAY}


def load_regions(source: Source) -> dict[str, Float[np.ndarray, "height width"]]:
    """Load what `load_color_map` does, or the one mask of `load_mask`, by the name `GRAY`.

    Args:
      source: see `load_image`.

    Raises:
      InputError: see `load_image`.
    """
    return _regions(load_image(source, background="black"))


def _regions(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mask of each region, by its color; of an image without colors its one mask."""
    if ((image.max(-1) - image.min(-1)) > 0.5).mean() < _LEAST:
        return {GRAY: image.mean(-1)}
    nearest = _nearest(image, [*COLORS.values(), _BLACK])
    share = np.bincount(nearest.ravel(), minlength=len(COLORS) + 1) / nearest.size
    found = [name for name, own in zip(COLORS, share, strict=False) if own >= _LEAST]
    nearest = _nearest(image, [*(COLORS[name] for name in found), _BLACK])
    return {name: (nearest == n).astype(np.float32) for n, name in enumerate(found)}


def _nearest(image: np.ndarray, colors: list[tuple[int, int, int]]) -> np.ndarray:
    """Return for each pixel the number of the color that is nearest to it."""
    # Row by row: the distances of a large image would take gigabytes.
    table = np.asarray(colors, np.float32)
    found = [((row[:, None] - table) ** 2).sum(-1).argmin(-1) for row in image]
    return np.stack(found)
