"""Files of 16 bits per color, which Pillow does not write."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16
from PIL import Image
from PIL.PngImagePlugin import putchunk

_ROWS = 256  # that are compressed at once


def write_png(
    path: Path, levels: UInt16[np.ndarray, "height width _"], options: dict[str, Any]
) -> None:
    """Write a PNG file; Pillow writes all of it but the pixels.

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
    path: Path, levels: UInt16[np.ndarray, "height width _"], options: dict[str, Any]
) -> None:
    """Write a TIFF file.

    Args:
      path: the file.
      levels: RGB or RGBA.
      options: what `PIL.Image.Image.save` takes for TIFF.
    """
    import tifffile

    texts = options.get("tiffinfo", {})
    tifffile.imwrite(
        path,
        levels,
        photometric="rgb",
        extrasamples=["unassalpha"] if levels.shape[2] == 4 else None,
        compression="zlib",
        rowsperstrip=_ROWS,
        iccprofile=options["icc_profile"],
        extratags=[(tag, "B", len(text), text, True) for tag, text in texts.items()],
        metadata=None,
        software=False,
    )
