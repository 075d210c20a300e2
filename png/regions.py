"""Masks of the content picture: its regions in pure colors, and the village in white.

In the map of regions the sky is red, the village, the boat and the pier are green, the water is
black.
"""

import numpy as np
from PIL import Image, ImageDraw

from tools import Array

# Corners in px of the picture, from the left.
SKYLINE = (
    *((0, 222), (60, 216), (120, 212), (165, 208), (190, 204), (212, 196), (240, 182), (264, 186)),
    *((276, 168), (300, 148), (340, 138), (362, 150), (384, 64), (406, 150), (430, 108)),
    *((470, 98), (500, 80), (540, 74), (580, 80), (640, 94)),
)
SHORE = ((640, 306), (186, 306), (182, 276), (0, 274))
BOAT = ((138, 185), (66, 322), (68, 342), (190, 338), (194, 320))
PIER = ((412, 330), (412, 358), (520, 468), (580, 480), (640, 480), (640, 396), (500, 336))


def regions() -> Array:
    """Draw the map at twice the size, so that its edges are soft."""
    image = Image.new("RGB", (1280, 960), "black")
    draw = ImageDraw.Draw(image)
    for corners, color in (
        (((0, 0), *SKYLINE, (640, 0)), (255, 0, 0)),
        ((*SKYLINE, *SHORE), (0, 255, 0)),
        (BOAT, (0, 255, 0)),
        (PIER, (0, 255, 0)),
    ):
        draw.polygon([(2 * x, 2 * y) for x, y in corners], color)
    return np.asarray(image.resize((640, 480), Image.Resampling.BOX)) / 255


def village() -> Array:
    """Take the mask of the village from the map."""
    return regions()[..., 1]
