"""What an image file carries beside its colors, from the content image to the picture."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from nst_jax.io.colors import alpha_of
from nst_jax.io.decoding import Source, name_of, opened, read
from nst_jax.io.metadata import Dpi, dpi_of, exif_of, xmp_of


class Extras(NamedTuple):
    """What an image file carries beside its colors.

    Attributes:
      alpha: opacity from 0 to 255, of the picture's aspect ratio in any size; None: it is opaque.
      exif: EXIF data; may be empty.
      xmp: an XMP packet; may be empty.
      dpi: dots per inch, horizontal and vertical.
    """

    alpha: UInt8[np.ndarray, "_ _"] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    dpi: Dpi | None = None


def load_extras(source: Source, *, metadata: bool = True) -> Extras:
    """Return what an image file carries beside its colors, for a picture of any size.

    Damaged metadata are left out, and so is what describes the pixels of the file.

    Args:
      source: see `load_image`; of most files without transparency only the header is read.
      metadata: whether to read the metadata.

    Raises:
      InputError: if the file cannot be read, or is no image.
    """
    name, found = name_of(source), Extras()
    with opened(source, name) as image:
        if metadata:
            found = Extras(exif=exif_of(image), xmp=xmp_of(image), dpi=dpi_of(image))
        transparent = image.has_transparency_data
    alpha = alpha_of(read(source, name), name) if transparent else None
    return found if alpha is None else found._replace(alpha=np.asarray(alpha))
