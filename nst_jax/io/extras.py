"""What an image file carries beside its colors, from the content image to the picture."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from nst_jax.io.colors import alpha_of, usable_profile
from nst_jax.io.decoding import Source, name_of, opened, read
from nst_jax.io.metadata import Dpi, dpi_of, exif_of, xmp_of

Profile = Literal["srgb", "input"]


class Extras(NamedTuple):
    """What an image file carries beside its colors.

    Attributes:
      alpha: opacity from 0 to 255, of the picture's aspect ratio in any size; None: it is opaque.
      exif: EXIF data; may be empty.
      xmp: an XMP packet; may be empty.
      dpi: dots per inch, horizontal and vertical.
      profile: ICC profile for the picture's colors; empty: they are sRGB.
    """

    alpha: UInt8[np.ndarray, "_ _"] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    dpi: Dpi | None = None
    profile: bytes = b""


def load_extras(source: Source, *, metadata: bool = True, profile: Profile = "srgb") -> Extras:
    """Return what an image file carries beside its colors, for a picture of any size.

    Damaged metadata are left out, and so is what describes the pixels of the file.

    Args:
      source: see `load_image`; of most files without transparency only the header is read.
      metadata: whether to read the metadata.
      profile: input: also the profile, if pictures can be converted to it.

    Raises:
      InputError: if the file cannot be read, or is no image.
    """
    name, found = name_of(source), Extras()
    with opened(source, name) as image:
        if metadata:
            found = Extras(exif=exif_of(image), xmp=xmp_of(image), dpi=dpi_of(image))
        if profile == "input":
            found = found._replace(profile=usable_profile(image))
        transparent = image.has_transparency_data
    alpha = alpha_of(read(source, name), name) if transparent else None
    return found if alpha is None else found._replace(alpha=np.asarray(alpha))
