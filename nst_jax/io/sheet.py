"""A contact sheet: pictures with their titles in rows."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from nst_jax.io.arrays import rounded

_GAP, _LINE = 6, 14  # px
Cell = tuple[Float[np.ndarray, "_ _ 3"], str] | None  # a picture and its title, or nothing


def contact_sheet(rows: Sequence[Sequence[Cell]]) -> Float[np.ndarray, "height width 3"]:
    """Lay pictures out in rows on white, each below its title.

    Args:
      rows: pictures, sRGB in [0, 1], with their titles; None leaves a cell empty.

    Returns:
      sRGB in [0, 1]. Every cell has the size of the largest picture.
    """
    cells = [cell for row in rows for cell in row if cell]
    height = max(picture.shape[0] for picture, _ in cells) + _LINE
    width = max(picture.shape[1] for picture, _ in cells)
    columns = max(map(len, rows))
    whole = Image.new(
        "RGB", (columns * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP), "white"
    )
    draw = ImageDraw.Draw(whole)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if not cell:
                continue
            (picture, title), left, top = cell, j * (width + _GAP), i * (height + _GAP)
            draw.text((left, top), title, fill="black")
            whole.paste(Image.fromarray(rounded(picture)), (left, top + _LINE))
    return np.asarray(whole, np.float32) / 255
