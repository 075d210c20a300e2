"""Image files that Pillow alone refuses or misreads: one function for each case."""

import contextlib
import io
import lzma
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, PngImagePlugin

from nst_jax.errors import InputError
from nst_jax.io.arrays import OVERSHOOT

INSTALL_COMMAND = "pip install '.[formats]'"
HEIC_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
File = io.BufferedReader | io.BytesIO
_PNG, _JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd9"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PROFILE = 2**26  # bytes
_MOST_SIDE = 10**6  # px; the weights of a filter for so long a side take 50 MB
_PIXEL_BYTES = 8  # of a TIFF file with as many pixels as Pillow allows: RGBA of 16 bits
_BLOCK = 2**22  # numbers that are computed with at once
# What decompresses the parts of a TIFF file, by the number of their compression.
_ENGINES: Mapping[int, Any] = MappingProxyType(
    {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
)


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self) -> bytes:
        """Return all remaining bytes."""


def readable_suffixes(wanted: Iterable[str]) -> set[str]:
    """Return the suffixes of files that can be read, in lower case with the dot.

    Args:
      wanted: the suffixes in question; pillow-heif is imported only if one is HEIC's.
    """
    if not set(wanted).isdisjoint(HEIC_SUFFIXES):
        learn_heic()
    formats = Image.registered_extensions()  # of what Pillow opens or writes
    return {suffix for suffix, name in formats.items() if name in Image.OPEN and name != "EPS"}


def learn_heic() -> bool:
    """Let Pillow read HEIC, if the package pillow-heif is installed; say whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def is_heic(start: bytes) -> bool:
    """Say whether a file with this start is HEIC; AVIF, of the same family, is not."""
    return start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf")


def is_tiff(start: bytes) -> bool:
    """Say whether a file with this start is a TIFF file."""
    return start[:4] in _TIFF


def check_harmless(image: Image.Image) -> None:
    """Raise InputError if an image is a program, or so long that resizing it takes gigabytes.

    Args:
      image: opened by Pillow, and not decoded yet.
    """
    if image.format == "EPS":  # Pillow would have Ghostscript run it
        raise InputError("a program in PostScript, which is not run; save it as PNG or JPEG")
    if max(image.size) > _MOST_SIDE:
        raise InputError(
            f"it has {image.width}x{image.height} px; allowed are {_MOST_SIDE} px for a side"
        )


def is_preview(image: Image.Image, start: bytes) -> bool:
    """Say whether an image is only the preview in a camera's raw file, which is a kind of TIFF.

    Args:
      image: opened by Pillow.
      start: the first bytes of the file.
    """
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(254, 0) & 1 and 330 in tags) or start[8:10] == b"CR"


def misreads(image: Image.Image) -> bool:
    """Say whether Pillow misreads a TIFF file that it opens.

    Pillow does not invert 16-bit gray where 0 is white, and mixes up separate 16-bit color planes.
    """
    tags = getattr(image, "tag_v2", {})
    wide = tags.get(258, (8,))[0] == 16
    return wide and (tags.get(262) == 0 or (tags.get(284) == 2 and tags.get(277, 1) > 1))


def within_limits(file: File) -> tuple[File, bytes]:
    """Remove texts and profiles from a PNG file that are so long that Pillow would refuse it.

    Args:
      file: of any format, at its start.

    Returns:
      The file without texts and profiles beyond Pillow's limit, and the ICC profile if it was
      removed (else empty). Mostly nothing is removed.
    """
    spans, profile, kept = [], b"", 0
    if file.read(8) == _PNG:
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in (b"iCCP", b"iTXt", b"tEXt", b"zTXt"):
                text = _inflated(kind, file.read(length))
                kept += len(text)
                if max(len(text), kept // 2) > PngImagePlugin.MAX_TEXT_CHUNK:
                    kept -= len(text)
                    spans.append((file.tell() - length - 8, file.tell() + 4))
                    profile = text if kind == b"iCCP" else profile
                length = 0
            file.seek(length + 4, io.SEEK_CUR)
    file.seek(0)
    if not spans:
        return file, b""
    data, edges = file.read(), [0, *(edge for span in spans for edge in span), None]
    kept_parts = (data[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))
    return io.BytesIO(b"".join(kept_parts)), profile


def _inflated(kind: bytes, body: bytes) -> bytes:
    """Return the text or the profile of a PNG chunk, decompressed as far as its length matters."""
    if kind == b"tEXt":
        return body
    _, _, rest = body.partition(b"\0")
    compressed = rest[1:]
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return rest
        _, _, compressed = rest[2:].partition(b"\0")[2].partition(b"\0")
    most = _MOST_PROFILE if kind == b"iCCP" else PngImagePlugin.MAX_TEXT_CHUNK + 1
    try:
        return zlib.decompressobj().decompress(compressed, most)
    except zlib.error:
        return b""  # damaged; Pillow decides


def gamma_levels(info: Mapping[Any, Any]) -> list[int] | None:
    """Return the sRGB level of each level if a PNG file declares another gamma, else None.

    As in libpng, a gamma within a twentieth of sRGB's 1/2.2 is sRGB.

    Args:
      info: `info` of a Pillow image without an ICC profile.
    """
    gamma = info.get("gamma", 0)
    if "srgb" in info or not 0.01 < gamma < 100 or abs(2.2 * gamma - 1) < 0.05:
        return None
    linear = (np.arange(256) / 255) ** (1 / gamma)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    found: list[int] = np.rint(255 * srgb).astype(int).tolist()
    return found


def whole_jpeg(file: IO[bytes]) -> Image.Image | None:
    """Return the picture of a JPEG file that lacks only its end marker; None if rows are missing.

    If all rows are there, the picture does not depend on the bytes that follow.

    Args:
      file: the file; it is read from its start.
    """
    file.seek(0)
    data = file.read().rstrip(b"\xff")
    first, *others = (
        Image.open(io.BytesIO(data + more + _JPEG_END))
        for more in (b"", b"\xaa" * 64, b"\x55" * 64)
    )
    pixels = first.tobytes()
    return first if all(other.tobytes() == pixels for other in others) else None


def to_levels(values: Num[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Turn numbers into 8-bit levels; white is 1 for floats and the type's largest for integers.

    Raises:
      ValueError: for negative integers, 32-bit integers that would all be black, and floats far
        from [0, 1].
    """
    least, most = values.min(), values.max()
    if values.dtype.kind == "f":
        if not -OVERSHOOT <= least <= most <= 1 + OVERSHOOT:
            raise ValueError(
                f"its numbers are {least:g} to {most:g}, and white is 1 for floats: scale them, or "
                "convert the image to 8 or 16 bits"
            )
        white = 1
    else:
        white = np.iinfo(values.dtype).max
        if least < 0 or (white > 65535 and 0 < most < white // 256):
            raise ValueError(
                f"its numbers are {least} to {most}, and white is {white}, the largest of "
                f"{values.dtype}: scale them, or convert the image to 8 or 16 bits"
            )
    levels = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK * len(values) // values.size)
    for start in range(0, len(values), rows):  # in float64, which takes 8 times the memory
        part = slice(start, start + rows)
        levels[part] = np.rint(np.clip(values[part] / white, 0, 1) * 255)
    return levels


def read_tiff(file: File) -> Image.Image:
    """Read a TIFF file that Pillow does not open, as 8-bit L, LA, RGB or RGBA.

    Raises:
      InputError: if the package tifffile is not installed.
      ValueError: if the file has another number of channels, or `to_levels` raises it.
    """
    try:
        import tifffile
    except ImportError:
        raise InputError(
            f"Pillow does not read this kind of TIFF file, but tifffile may: {INSTALL_COMMAND}"
        ) from None
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        _check_size(page, file)
        values = page.asarray()
        if page.axes == "SYX":
            values = np.moveaxis(values, 0, -1)
        tags = {code: page.tags[code].value for code in (262, 274, 34675) if code in page.tags}
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
        raise ValueError(f"it has the shape {list(values.shape)}")
    levels = to_levels(values)
    image = Image.fromarray(255 - levels if tags.get(262) == 0 else levels)
    image.getexif()[274] = tags.get(274, 1)
    if 34675 in tags:
        image.info["icc_profile"] = tags[34675]
    return image


def _check_size(page: Any, file: File) -> None:
    """Raise DecompressionBombError if a page of a TIFF file, or a part of it, is too large."""
    pixels, most = page.imagewidth * page.imagelength, Image.MAX_IMAGE_PIXELS
    if most and pixels > 2 * most:
        raise Image.DecompressionBombError(f"{pixels} pixels are more than {2 * most}")
    part = math.prod(page.chunks) * page.dtype.itemsize
    found = max(page.nbytes, part)
    if most and found > 2 * most * _PIXEL_BYTES:
        raise Image.DecompressionBombError(
            f"{found} bytes of pixels are more than {2 * most * _PIXEL_BYTES}"
        )
    engine = _ENGINES.get(page.compression)
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        if engine is None:
            break
        file.seek(start)
        # tifffile would take whatever comes out; what is damaged it refuses itself.
        with contextlib.suppress(zlib.error, lzma.LZMAError):
            if len(engine().decompress(file.read(length), part + 1)) > part:
                raise Image.DecompressionBombError(f"a part has more than its {part} bytes")
