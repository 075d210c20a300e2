"""Read and write image files: path <-> float32 HWC sRGB in [0, 1].

The only module that knows files, bytes, EXIF, ICC, alpha and pixels. Pillow does the work; what is
here settles the questions it leaves open, so that every picture becomes what a viewer shows.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import (
    ExifTags,
    Image,
    ImageCms,
    ImageFile,
    ImageOps,
    PngImagePlugin,
    UnidentifiedImageError,
)

from nst_jax.errors import InputError
from nst_jax.geometry import Side, fit, side_of
from nst_jax.io.arrays import check_values
from nst_jax.io.files import atomic_write, check_writable
from nst_jax.io.formats import (
    INSTALL_COMMAND,
    File,
    Readable,
    gamma_levels,
    is_heic,
    is_preview,
    is_tiff,
    learn_heic,
    misreads,
    read_tiff,
    to_levels,
    whole_jpeg,
    within_limits,
)

StrPath = str | os.PathLike[str]
Source = StrPath | bytes | bytearray | memoryview | Readable

# No profile is embedded: without one, sRGB is what every reader assumes.
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
WRITABLE_SUFFIXES = tuple(_FORMATS)
_ROWS = 256
_NOTE = "nst_jax"  # keyword of a PNG file's text


def load_image(
    source: Source,
    *,
    size: int | None = None,
    side: Side = "longest",
    shape: tuple[int, int] | None = None,
    enlarge: bool = True,
) -> Float[np.ndarray, "height width 3"]:
    """Load an image of any format and mode that Pillow opens, as float32 sRGB in [0, 1].

    The EXIF orientation and the ICC profile, or the gamma of a PNG file, are applied, transparency
    is laid over white, and of an animation the first frame is taken. Without `size` and `shape` the
    image keeps its pixels. Of numbers of more than 8 bits the largest of their type is white, of
    floats 1. HEIC takes the package pillow-heif, TIFF files of wide colors tifffile (the extra
    `formats`).

    Args:
        source: The image file: its path, its bytes, or an open binary file, which is read on.
        size: Length in pixels of one side, up or down; the aspect ratio is kept.
        side: Which side that is.
        shape: Exact (height, width) in pixels instead; the aspect ratio is not kept.
        enlarge: Whether `size` may be more than the image has.

    Raises:
        InputError: The file cannot be read or is no sound image, has more pixels than Pillow's
            limit, or holds numbers without a known white; `size` and `shape` are both given, not
            whole, below 1, or too large.
    """
    name = _name(source)
    if size is not None and shape is not None:
        raise InputError(f"cannot load {name}: give size or shape, not both")
    if size is not None and not _is_side(size):
        raise InputError(f"cannot load {name}: size must be whole pixels, at least 1, not {size!r}")
    if shape is not None and not (len(shape) == 2 and all(map(_is_side, shape))):
        raise InputError(
            f"cannot load {name}: shape must be (height, width), both whole pixels, at least 1, "
            f"not {shape!r}"
        )
    image = _to_srgb(_read(source, name), name)
    if size is not None and not enlarge:
        size = min(size, side_of(image.size, side))
    pixels = _resized(image, size, side, shape, name)
    return np.asarray(pixels, dtype=np.float32) / 255


def image_shape(source: Source) -> tuple[int, int]:
    """Return the (height, width) in px of what `load_image` makes of a file as it is.

    Of most formats only the header is read, so that many files can be looked at before the work;
    damage behind it shows when the file is loaded.

    Raises:
        InputError: The file cannot be read, is no image, or has more pixels than Pillow's limit.
    """
    with _opened(source, _name(source)) as image:
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # corrupt EXIF data
            orientation = None
        width, height = image.size
    # Of a TIFF Pillow has turned the size already.
    turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
    return (width, height) if turned else (height, width)


def save_image(
    path: StrPath, image: Float[np.ndarray | Array, "height width 3"], *, note: str = ""
) -> None:
    """Save sRGB values, clipped to [0, 1] and rounded to 8 bits, in the format of the suffix.

    The file is replaced in one step: if anything fails, an earlier file at `path` stays intact.

    Args:
        path: The image file; its suffix is one of `WRITABLE_SUFFIXES`.
        image: sRGB in [0, 1], HWC.
        note: ASCII text for `image_note` to read; kept in a PNG file alone.

    Raises:
        InputError: `image` is not of this shape, not floating-point, empty, or has values that are
            not those of an image (see `arrays.check_values`); or `path` cannot be written, or its
            format cannot hold the image (too many pixels, say).
    """
    check_output(path)
    name = repr(os.fspath(path))
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0 or array.dtype.kind != "f":
        raise InputError(
            f"cannot save {name}: the image must be floats of shape (height, width, 3), "
            f"not {array.dtype} of shape {array.shape}"
        )
    check_values(array, name=f"cannot save {name}: the image")
    pixels: UInt8[np.ndarray, "height width 3"] = np.empty(array.shape, np.uint8)
    for first in range(0, len(array), _ROWS):  # copies of a large picture would be gigabytes
        rows = slice(first, first + _ROWS)
        pixels[rows] = np.rint(np.clip(array[rows], 0, 1) * 255)
    codec, options = _FORMATS[Path(path).suffix.lower()]
    if note and codec == "PNG":
        options = {**options, "pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_text(_NOTE, note)
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(pixels).save(temporary, format=codec, **options)
    except Exception as error:  # a full disk, more pixels than the format allows; codecs raise any
        raise InputError(
            f"cannot save {name} ({codec}, {array.shape[1]}x{array.shape[0]}): {_reason(error)}"
        ) from error


def image_note(path: StrPath) -> str:
    """Return the note that `save_image` has put into a PNG file; "" if there is none to read."""
    try:
        with _opened(path, _name(path)) as image:
            return str(image.info.get(_NOTE, ""))
    except InputError:
        return ""


def check_output(path: StrPath) -> None:
    """Raise an InputError if `save_image` could not write to `path`: meant for before the work."""
    if Path(path).name.lower() in _FORMATS:
        raise InputError(
            f"cannot write the image {os.fspath(path)!r}: that is a suffix alone; give a name "
            f"before it, as picture{Path(path).name}"
        )
    if Path(path).is_dir():
        raise InputError(
            f"cannot write the image {os.fspath(path)!r}: it is a folder; name a file in it, as "
            f"{os.fspath(Path(path) / 'picture.png')!r}"
        )
    if Path(path).suffix.lower() not in _FORMATS:
        raise InputError(
            f"cannot write the image {os.fspath(path)!r}: its name must end in one of "
            + ", ".join(WRITABLE_SUFFIXES)
        )
    check_writable(path, what="the image")


def _is_side(value: object) -> bool:
    return type(value) is int and value >= 1  # True is an int, but no length


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def _read(source: Source, name: str) -> Image.Image:
    """Decode a file in the mode that it has, upright; `name` is for messages."""
    with _opened(source, name) as image:
        if isinstance(image, ImageFile.ImageFile):
            image = _decoded(image)
        try:
            image.getexif()  # Pillow keeps it; without the bytes it writes nothing back,
            image.info.pop("exif", None)  # which fails for many an odd tag
            return ImageOps.exif_transpose(image)
        except Exception:  # corrupt EXIF data; a tilted picture is better than none
            return image.copy()


def _decoded(image: ImageFile.ImageFile) -> Image.Image:
    _fix_color_key(image)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode == "I;16" and tags.get(258) == (12,):
        raise ValueError("Pillow misreads 12-bit gray")
    try:
        image.load()
    except OSError:
        whole = whole_jpeg(image.fp) if image.format in ("JPEG", "MPO") and image.fp else None
        if whole is None:
            raise
        return whole
    if image.format == "TIFF" and image.mode in ("I", "F"):
        levels = Image.fromarray(to_levels(_numbers(image, tags)))
        levels.info |= image.info
        return levels
    return image


def _numbers(image: Image.Image, tags: Mapping[int, Any]) -> np.ndarray:
    """Return the numbers of a TIFF file as the file has them: Pillow makes all integers signed."""
    values = np.asarray(image)
    if image.mode == "F":
        return values
    (bits,), (kind,) = tags.get(258, (1,)), tags.get(339, (1,))
    return values.astype(f"{'int' if kind == 2 else 'uint'}{bits}")


@contextlib.contextmanager
def _opened(source: Source, name: str) -> Iterator[Image.Image]:
    """Open a file with Pillow; what goes wrong here or in the caller's block is an InputError."""
    # Big pictures are legitimate, and broken metadata is no reason to speak up.
    with _stream(source, name) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            start = file.read(12)
            if not start:
                raise EOFError("the file is empty")
            file.seek(0)
            if is_heic(start) and not learn_heic():
                raise InputError(f"HEIC takes pillow-heif: {INSTALL_COMMAND}")
            limited, profile = within_limits(file)
            opened: Image.Image
            try:
                opened = Image.open(limited)
                if is_tiff(start) and is_preview(opened, start):
                    raise InputError(
                        "a camera's raw file, of which a preview alone could be read; save it as "
                        "TIFF or JPEG with the camera's own program"
                    )
                if misreads(opened):
                    opened = read_tiff(file)
            except UnidentifiedImageError:
                if not is_tiff(start):
                    raise
                opened = read_tiff(file)
            with opened as image:
                if profile:
                    image.info["icc_profile"] = profile
                yield image
        except InputError as error:
            raise InputError(f"cannot load {name}: {error}") from None
        except Image.DecompressionBombError as error:
            raise InputError(f"cannot load {name}: {_reason(error)}; scale it down") from error
        except Exception as error:  # damaged files make the decoders raise nearly everything
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "no known image format" if unknown else _reason(error)
            raise InputError(
                f"cannot load {name}: not a readable image ({reason}); "
                "give a complete PNG, JPEG, WebP, TIFF, GIF or other file that Pillow opens"
            ) from error


def _stream(source: Source, name: str) -> File:
    """Open a source; what can be read only once, as a pipe, is read as a whole."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    try:
        if isinstance(source, str | os.PathLike):
            file = open(source, "rb")  # noqa: SIM115 (the caller closes it)
            if file.seekable():
                return file
            with file:
                return io.BytesIO(file.read())
        data = source.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        advice = "give a readable image file"
        if "://" in name:
            advice = "that is an address; download it, or give --content=<(curl ADDRESS)"
        raise InputError(f"cannot load {name}: {_reason(error)}; {advice}") from error
    if not isinstance(data, bytes):
        raise InputError(f"cannot load {name}: it is open as text; open it with 'rb'")
    return io.BytesIO(data)


def _name(source: Source) -> str:
    """Return what messages call a source."""
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    return repr(getattr(source, "name", source))


def _fix_color_key(image: ImageFile.ImageFile) -> None:
    """Bring the color that a PNG declares transparent from the file's bit depth to 8 bits.

    Pillow converts the pixels but not this key, and then finds no pixel that equals it.
    """
    if image.format != "PNG" or "transparency" not in image.info:
        return
    key, rawmode = image.info["transparency"], image.tile[0].args
    if rawmode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif rawmode in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[rawmode]


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    """Turn an image of any mode into 8-bit sRGB over white (mode RGB); `name` is for messages."""
    profile, gamma = image.info.get("icc_profile"), gamma_levels(image.info)
    if image.mode[0] in "IF":
        image = _gray8(image, name)
    if image.mode == "La":
        image = image.convert("LA")  # the only conversion that Pillow has for it
    # The color apart from the alpha, in the color space to which a profile applies.
    alpha = None
    gray = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("LA" if gray else "RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("CMYK", "LAB"):
        image = image.convert("L" if gray else "RGB")
    image = _apply_profile(image, profile) if profile else image.convert("RGB")
    if gamma and not profile:
        image = image.point(gamma * 3)
    if alpha is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


def _gray8(image: Image.Image, name: str) -> Image.Image:
    """Scale wide gray to 8 bits (L, or LA if one value is transparent): Pillow would clip it."""
    values = np.asarray(image)
    if image.mode != "F":
        values = values.astype(np.uint16)  # the most that other formats than TIFF have
    try:
        gray = Image.fromarray(to_levels(values))
    except ValueError as error:
        raise InputError(f"cannot load {name}: {error}") from None
    if "transparency" in image.info:
        opaque = values != image.info["transparency"]
        gray.putalpha(Image.fromarray(opaque.astype(np.uint8) * np.uint8(255)))
    return gray


def draw_image(seed: int, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """Draw waves of all scales in all directions, with colors that differ: sRGB in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for amplitude in np.geomspace(0.2, 0.02, 24):
        frequency, phase = 0.03 / amplitude * rng.normal(size=2), rng.uniform(0, 6, 3)
        wave = frequency[0] * x + frequency[1] * y
        image += amplitude * np.sin(wave[..., None] + phase)
    return np.clip(0.5 + image, 0, 1).astype(np.float32)


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert to sRGB (mode RGB) through the ICC profile, or without it if it is of no use."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        fine = ImageCms.Flags.HIGHRESPRECALC  # matters in the shadows of gray
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB", flags=fine)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # broken, or for another mode
        converted = None
    return converted or image.convert("RGB")


def _resized(
    image: Image.Image, size: int | None, side: Side, shape: tuple[int, int] | None, name: str
) -> Image.Image:
    """Resize to exactly `shape`, or to a side of `size`, or not at all."""
    if shape is not None:
        height, width = shape
    elif size is not None:
        height, width = fit(image.height, image.width, size, side=side)
    else:
        return image
    # What Pillow refuses to open makes no sense to create either.
    limit = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else width * height
    if width * height > limit:
        raise InputError(
            f"cannot load {name}: {width}x{height} pixels are too many; the limit is {limit}"
        )
    return image.resize((width, height), Image.Resampling.LANCZOS)
