"""Read and write image files: path <-> float32 HWC sRGB in [0, 1].

Pillow does the work; this module and those that it calls decide what Pillow leaves open, so that
every picture loads as a viewer shows it.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float
from PIL import ExifTags, Image

from nst_jax.errors import InputError
from nst_jax.geometry import Side, Size, fit, plain_size
from nst_jax.io.arrays import check_values, rounded
from nst_jax.io.colors import check_color, to_srgb
from nst_jax.io.decoding import Source, StrPath, name_of, opened, read, reason_of
from nst_jax.io.encoding import CODECS, QUALITY, Bits, check_form, encode
from nst_jax.io.extras import Extras
from nst_jax.io.files import atomic_write, check_writable
from nst_jax.io.notes import find_note

WRITABLE_SUFFIXES = tuple(CODECS)


def load_image(
    source: Source,
    *,
    size: Size | None = None,
    side: Side = "longest",
    shape: tuple[int, int] | None = None,
    enlarge: bool = True,
    background: str = "white",
) -> Float[np.ndarray, "height width 3"]:
    """Load an image of any format and mode that Pillow opens, as float32 sRGB in [0, 1].

    The EXIF orientation and the ICC profile, or the gamma of a PNG file, are applied, transparency
    is laid over the background, and of an animation the first frame is taken. Without `size` and
    `shape` the image keeps its pixels. White is the largest number of an integer type, and 1 for
    floats. HEIC files need the package pillow-heif, and TIFF files with more than 8 bits per color
    tifffile (the extra `formats`).

    Args:
        source: The image file: its path, its bytes, or an open binary file, read from its position.
        size: Length of one side in pixels, or the pixels that the image fits into, as "1920x1080"
            (width and height) or "12MP" (megapixels); the aspect ratio is kept.
        side: Which side a length is that of.
        shape: Exact (height, width) in pixels instead; the aspect ratio is not kept.
        enlarge: Whether `size` may enlarge the image.
        background: The color that transparency is laid over: a name of CSS, or #rrggbb.

    Raises:
        InputError: The file cannot be read, is damaged or no image, has more pixels than Pillow's
            limit or a side of more than a million, or holds numbers without a known white; `size`
            and `shape` are both given, no size, not whole, below 1, or too large; or the background
            is no color.
    """
    check_color(background)
    name = name_of(source)
    if size is not None and shape is not None:
        raise InputError(f"cannot load {name}: give size or shape, not both")
    if shape is not None and not (len(shape) == 2 and all(map(_is_side, shape))):
        raise InputError(
            f"cannot load {name}: shape must be (height, width), both whole pixels, at least 1, "
            f"not {shape!r}"
        )
    image = to_srgb(read(source, name), name, background=background)
    if size is not None:
        try:
            shape = fit(image.height, image.width, plain_size(size), side=side)
        except InputError as error:
            raise InputError(f"cannot load {name}: {error}") from None
        shape = shape if enlarge else min(shape, (image.height, image.width))
    pixels = _resized(image, shape, name) if shape else image
    return np.asarray(pixels, dtype=np.float32) / 255


def image_shape(source: Source) -> tuple[int, int]:
    """Return (height, width) in px of the image that `load_image` returns without a size.

    For most formats only the header is read, so many files can be checked before the work; damage
    behind the header shows when the file is loaded.

    Raises:
        InputError: The file cannot be read, is no image, or has more pixels than Pillow's limit.
    """
    with opened(source, name_of(source)) as image:
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # corrupt EXIF data
            orientation = None
        width, height = image.size
    # Pillow has swapped the sides of a TIFF already.
    turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
    return (width, height) if turned else (height, width)


def save_image(
    path: StrPath,
    image: Float[np.ndarray | Array, "height width 3"],
    *,
    note: str = "",
    bits: Bits = 8,
    quality: int = QUALITY,
    extras: Extras | None = None,
) -> None:
    """Save sRGB values, clipped to [0, 1] and rounded once, in the format of the suffix.

    The ICC profile of the colors, mostly sRGB, is embedded. The file is replaced in one step: if
    anything fails, an earlier file at `path` stays intact.

    Args:
        path: The image file; its suffix is one of `WRITABLE_SUFFIXES`.
        image: sRGB in [0, 1], HWC.
        note: text for `image_note` to read.
        bits: bits per color; 16 for PNG and TIFF.
        quality: of JPEG, WebP and AVIF, from 1 to 100; the other formats lose nothing.
        extras: from ``load_extras``; the alpha is resized with LANCZOS, and JPEG files have none.
            Metadata that the format cannot hold are left out. Colors of 8 bits are converted to its
            profile.

    Raises:
        InputError: `image` is not of this shape, not floating-point, empty, or has values that are
            not those of an image (see `arrays.check_values`); or `path` cannot be written, or its
            format cannot hold the image (too many pixels, say).
    """
    check_output(path, bits=bits, quality=quality)
    name = repr(os.fspath(path))
    if bits == 16 and extras and extras.profile:
        raise InputError(f"cannot save {name}: another profile than sRGB is for 8 bits per color")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0 or array.dtype.kind != "f":
        raise InputError(
            f"cannot save {name}: the image must be floats of shape (height, width, 3), "
            f"not {array.dtype} of shape {array.shape}"
        )
    check_values(array, name=f"cannot save {name}: the image")
    levels, codec = rounded(array, bits=bits), CODECS[Path(path).suffix.lower()]
    try:
        with atomic_write(path) as temporary:
            encode(temporary, levels, codec=codec, note=note, quality=quality, extras=extras)
    except Exception as error:  # a full disk, more pixels than the format allows; codecs raise any
        raise InputError(
            f"cannot save {name} ({codec}, {array.shape[1]}x{array.shape[0]}): {reason_of(error)}"
        ) from error


def image_note(path: StrPath) -> str:
    """Return the note that `save_image` has put into a file; "" if there is none.

    Raises:
        InputError: The file cannot be read, or is no image.
    """
    with opened(path, name_of(path)) as image:
        return find_note(image)


def check_output(path: StrPath, *, bits: int = 8, quality: int = QUALITY) -> None:
    """Raise an InputError if `save_image` could not write to `path`; call it before the work."""
    if Path(path).name.lower() in CODECS:
        raise InputError(
            f"cannot write the image {os.fspath(path)!r}: this is only a suffix; give a name "
            f"before it, as in picture{Path(path).name}"
        )
    if os.path.isdir(path):
        raise InputError(
            f"cannot write the image {os.fspath(path)!r}: it is a folder; name a file in it, as "
            f"{os.fspath(Path(path) / 'picture.png')!r}"
        )
    if Path(path).suffix.lower() not in CODECS:
        raise InputError(
            f"cannot write the image {os.fspath(path)!r}: its name must end in one of "
            + ", ".join(WRITABLE_SUFFIXES)
        )
    try:
        check_form(Path(path).suffix.lower(), bits=bits, quality=quality)
    except InputError as error:
        raise InputError(f"cannot write the image {os.fspath(path)!r}: {error}") from None
    check_writable(path, what="the image")


def _is_side(value: object) -> bool:
    return type(value) is int and value >= 1  # True is an int, but no length


def draw_image(seed: int, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """Draw waves of many scales, directions and colors: sRGB in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for amplitude in np.geomspace(0.2, 0.02, 24):
        frequency, phase = 0.03 / amplitude * rng.normal(size=2), rng.uniform(0, 6, 3)
        wave = frequency[0] * x + frequency[1] * y
        image += amplitude * np.sin(wave[..., None] + phase)
    return np.clip(0.5 + image, 0, 1).astype(np.float32)


def _resized(image: Image.Image, shape: tuple[int, int], name: str) -> Image.Image:
    height, width = shape
    # The limit above which Pillow refuses to open an image.
    limit = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else width * height
    if width * height > limit:
        raise InputError(
            f"cannot load {name}: {width}x{height} pixels are too many; the limit is {limit}"
        )
    return image.resize((width, height), Image.Resampling.LANCZOS)
