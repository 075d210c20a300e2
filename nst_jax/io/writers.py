"""Writers where Pillow has none: of 16 bits per color, and of TIFF files with EXIF data."""

import io
import struct
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt, UInt16
from PIL import Image, TiffTags
from PIL.PngImagePlugin import putchunk
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    EXTRASAMPLES,
    ICCPROFILE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    ImageFileDirectory_v2,
)

_ROWS = 256  # that are compressed at once


def write_png(
    path: Path, levels: UInt16[np.ndarray, "height width _"], options: dict[str, Any]
) -> None:
    """Write a PNG file of 16 bits; Pillow writes all of it but the pixels.

    Args:
      path: the file.
      levels: RGB or RGBA.
      options: what `PIL.Image.Image.save` takes for PNG.
    """
    height, width, channels = levels.shape
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG", **options)
    data = small.getvalue()  # signature, header, what stands beside the pixels, and pixels
    beside = data[33 : data.rindex(b"IDAT") - 4]
    kind = 2 if channels == 3 else 6
    with path.open("wb") as file:
        file.write(data[:8])
        putchunk(file, b"IHDR", struct.pack(">2I5B", width, height, 16, kind, 0, 0, 0))
        file.write(beside)
        pack, before = zlib.compressobj(), np.zeros((1, width * channels * 2), np.uint8)
        for first in range(0, height, _ROWS):
            some = levels[first : first + _ROWS].astype(">u2")
            rows = some.reshape(len(some), -1).view(np.uint8)
            changes = np.diff(rows, axis=0, prepend=before)
            filtered = np.insert(changes, 0, 2, axis=1)  # filter 2 takes the row above away
            putchunk(file, b"IDAT", pack.compress(filtered.tobytes()))
            before = rows[-1:]
        putchunk(file, b"IDAT", pack.flush())
        putchunk(file, b"IEND", b"")


def write_tiff(
    path: Path, levels: UInt[np.ndarray, "height width _"], options: dict[str, Any]
) -> None:
    """Write a TIFF file of 8 or 16 bits; Pillow writes all of it but the pixels.

    Args:
      path: the file.
      levels: RGB or RGBA.
      options: what `PIL.Image.Image.save` takes for TIFF.
    """
    height, width, channels = levels.shape
    size = levels.dtype.itemsize
    parts = (levels[first : first + _ROWS] for first in range(0, height, _ROWS))
    strips = [zlib.compress(part.astype(f"<u{size}").tobytes()) for part in parts]
    sizes = [len(strip) for strip in strips]
    tags = ImageFileDirectory_v2()
    tags.update(options["tiffinfo"])
    tags.update(
        {
            IMAGEWIDTH: width,
            IMAGELENGTH: height,
            BITSPERSAMPLE: (8 * size,) * channels,
            COMPRESSION: 8,  # of Adobe: zlib
            PHOTOMETRIC_INTERPRETATION: 2,  # RGB
            SAMPLESPERPIXEL: channels,
            ROWSPERSTRIP: _ROWS,
            STRIPBYTECOUNTS: tuple(sizes),
            STRIPOFFSETS: tuple(accumulate(sizes[:-1], initial=0)),  # behind the tags
            ICCPROFILE: options["icc_profile"],
        }
    )
    if channels == 4:
        tags[EXTRASAMPLES] = 2  # an opacity that the colors are not multiplied with
    tags.tagtype[STRIPOFFSETS] = tags.tagtype[STRIPBYTECOUNTS] = TiffTags.LONG
    with path.open("wb") as file:
        tags.save(file)
        file.writelines(strips)
