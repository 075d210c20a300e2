"""Encode image files: what the formats can hold, and how each is written."""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image, PngImagePlugin, TiffImagePlugin

from nst_jax.errors import InputError
from nst_jax.io.colors import from_srgb, srgb_profile
from nst_jax.io.extras import Extras
from nst_jax.io.metadata import tags_of
from nst_jax.io.notes import KEYWORD, with_note
from nst_jax.io.writers import write_png, write_tiff

Bits = Literal[8, 16]
CODECS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"subsampling": 0},
    "WEBP": {},
    "AVIF": {"subsampling": "4:4:4"},
    "TIFF": {},
}
LOSSY = ("JPEG", "WEBP", "AVIF")
QUALITY = 95
_DEEP = ("PNG", "TIFF")  # 16 bits


def check_form(suffix: str, *, bits: int, quality: int) -> None:
    """Raise an InputError if a file cannot be written in this form.

    Args:
      suffix: one of `CODECS`, in lower case.
      bits: bits per color.
      quality: see `save_image`.
    """
    if type(quality) is not int or not 1 <= quality <= 100:
        raise InputError(f"quality is {quality!r}; allowed are whole numbers from 1 to 100")
    if type(bits) is not int or bits not in get_args(Bits):
        raise InputError(f"bits is {bits!r}; allowed are 8 and 16")
    if bits == 16 and CODECS[suffix] not in _DEEP:
        raise InputError(
            f"a file {suffix} has 8 bits per color, not 16; for 16 bits write .png or .tif"
        )


def encode(
    path: Path,
    levels: UInt[np.ndarray, "height width 3"],
    *,
    codec: str,
    note: str = "",
    quality: int = QUALITY,
    extras: Extras | None = None,
) -> None:
    """Write an image file.

    Args:
      path: the file.
      levels: sRGB, of 8 or of 16 bits.
      codec: Pillow's name of the format.
      note: see `save_image`.
      quality: see `save_image`.
      extras: see `save_image`; metadata that the format cannot hold are left out.
    """
    extras = extras or Extras()
    if extras.profile:
        levels = np.asarray(from_srgb(Image.fromarray(levels), extras.profile))
    if extras.alpha is not None and codec != "JPEG":
        levels = np.dstack([levels, _scaled(extras.alpha, levels)])
    try:
        _write(path, levels, codec, _options(codec, note, quality, extras))
    except Exception:
        bare = extras._replace(exif=b"", xmp=b"", dpi=None)
        if bare == extras:
            raise
        _write(path, levels, codec, _options(codec, note, quality, bare))


def _write(
    path: Path, levels: UInt[np.ndarray, "height width _"], codec: str, options: dict[str, Any]
) -> None:
    if codec == "TIFF":
        write_tiff(path, levels, options)
    elif levels.dtype == np.uint16:
        write_png(path, levels, options)
    else:
        Image.fromarray(levels).save(path, format=codec, **options)


def _options(codec: str, note: str, quality: int, extras: Extras) -> dict[str, Any]:
    """Return the keywords of `PIL.Image.Image.save`."""
    # Into PNG files, too, goes the profile, and not the chunk sRGB in its place: editors read the
    # profile, browsers read either, and who reads neither takes the colors for sRGB.
    options = _OPTIONS[codec] | {"icc_profile": extras.profile or srgb_profile()}
    if codec in LOSSY:
        options["quality"] = quality
    if extras.dpi:
        options["dpi"] = extras.dpi
    if extras.exif:
        options["exif"] = extras.exif
    if codec == "PNG":
        options["pnginfo"] = chunks = PngImagePlugin.PngInfo()
        if note:
            chunks.add_itxt(KEYWORD, note)
        if extras.xmp:
            chunks.add_itxt("XML:com.adobe.xmp", extras.xmp.decode())
        return options
    packet = with_note(extras.xmp, note)
    if codec == "TIFF":
        texts = {TiffImagePlugin.XMP: packet} if packet else {}
        options["tiffinfo"] = tags_of(extras.exif) | texts
    elif packet:
        options["xmp"] = packet
    return options


def _scaled(
    alpha: UInt8[np.ndarray, "_ _"], levels: UInt[np.ndarray, "height width 3"]
) -> UInt[np.ndarray, "height width"]:
    """Return the opacity in the size and the bits of the levels."""
    height, width, _ = levels.shape
    resized = Image.fromarray(alpha).resize((width, height), Image.Resampling.LANCZOS)
    scaled: UInt[np.ndarray, "height width"] = np.asarray(resized).astype(levels.dtype)
    scaled *= np.iinfo(levels.dtype).max // 255
    return scaled
