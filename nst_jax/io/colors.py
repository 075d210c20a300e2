"""Turn images of any mode, with profile, gamma and transparency, into 8-bit sRGB."""

import functools
import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageColor

from nst_jax.errors import InputError
from nst_jax.io.formats import gamma_levels, to_levels

_CMS_ERRORS = (ImageCms.PyCMSError, OSError, TypeError, ValueError)
_DATE = struct.pack(">6H", 2000, 12, 1, 0, 0, 0)


@functools.cache
def srgb_profile() -> bytes:
    """Return the ICC profile of sRGB; its date is fixed, so that files are the same every day."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + _DATE + profile[36:]


def to_srgb(image: Image.Image, name: str, *, background: str = "white") -> Image.Image:
    """Turn an image of any mode into 8-bit sRGB (mode RGB).

    Args:
      image: the image.
      name: its name in messages.
      background: the color that transparency is laid over; see `check_color`.

    Raises:
      InputError: if the image holds numbers without a known white.
    """
    profile, gamma = image.info.get("icc_profile"), gamma_levels(image.info)
    image = _with_alpha(image, name)
    # Separate the alpha; the profile applies to the colors alone.
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    gray = image.mode in ("1", "L", "LA")
    if image.mode not in ("CMYK", "LAB"):
        image = image.convert("L" if gray else "RGB")
    image = _apply_profile(image, profile) if profile else image.convert("RGB")
    if gamma and not profile:
        image = image.point(gamma * 3)
    if alpha is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, background), alpha)


def alpha_of(image: Image.Image, name: str) -> Image.Image | None:
    """Return the opacity of an image (mode L); None if it is opaque everywhere.

    Args:
      image: of any mode.
      name: see `to_srgb`.
    """
    image = _with_alpha(image, name)
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    return None if alpha is None or alpha.getextrema() == (255, 255) else alpha


def check_color(text: str) -> str:
    """Return a color as it is: a name of CSS, #rrggbb, or what else `PIL.ImageColor` knows.

    Raises:
      InputError: if it is no color.
    """
    try:
        ImageColor.getcolor(text, "RGB")
    except (AttributeError, TypeError, ValueError):  # no text, or none that is known
        raise InputError(
            f"{text!r} is no color; allowed are names of CSS, as gray, and #rrggbb, as #808080"
        ) from None
    return text


def _with_alpha(image: Image.Image, name: str) -> Image.Image:
    """Bring an image with any kind of transparency to LA or RGBA, and many bits to 8."""
    if image.mode[0] in "IF":
        image = _gray8(image, name)
    if image.mode == "La":
        image = image.convert("LA")  # the only conversion that Pillow has for it
    if not image.has_transparency_data:
        return image
    return image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")


def usable_profile(image: Image.Image) -> bytes:
    """Return the ICC profile of a file if pictures can be converted to it; empty if not."""
    profile = image.info.get("icc_profile") or b""
    try:
        from_srgb(Image.new("RGB", (1, 1)), profile)
    except _CMS_ERRORS:  # broken, or for gray or CMYK
        return b""
    return profile


def from_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert 8-bit sRGB (mode RGB) to the colors of a profile.

    Args:
      image: the image.
      profile: from `usable_profile`.
    """
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return _converted(image, ImageCms.createProfile("sRGB"), target)


def _gray8(image: Image.Image, name: str) -> Image.Image:
    """Scale gray of more bits to 8 (L, or LA if one value is transparent): Pillow would clip it."""
    values = np.asarray(image)
    if image.mode != "F":
        values = values.astype(np.uint16)  # only TIFF has more bits
    try:
        gray = Image.fromarray(to_levels(values))
    except ValueError as error:
        raise InputError(f"cannot load {name}: {error}") from None
    if "transparency" in image.info:
        opaque = values != image.info["transparency"]
        gray.putalpha(Image.fromarray(opaque.astype(np.uint8) * np.uint8(255)))
    return gray


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert to sRGB (mode RGB) through the ICC profile, or without one that is unusable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return _converted(image, source, ImageCms.createProfile("sRGB"))
    except _CMS_ERRORS:  # broken, or for another mode
        return image.convert("RGB")


def _converted(image: Image.Image, source: Any, target: Any) -> Image.Image:
    fine = ImageCms.Flags.HIGHRESPRECALC  # matters in the shadows of gray
    converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB", flags=fine)
    assert converted is not None  # as it is no conversion in place
    return converted
