"""Open and decode image files of any format; Pillow does the work, errors name the file."""

import contextlib
import errno
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from nst_jax.errors import InputError
from nst_jax.io.files import MOST_STREAM, open_input
from nst_jax.io.formats import (
    INSTALL_COMMAND,
    File,
    Readable,
    check_harmless,
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


def name_of(source: Source) -> str:
    """Return the name of a source in messages."""
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    return repr(getattr(source, "name", source))


def reason_of(error: BaseException) -> str:
    """Return what an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def read(source: Source, name: str) -> Image.Image:
    """Decode a file in its own mode, upright; `name` is for messages."""
    with opened(source, name) as image:
        if isinstance(image, ImageFile.ImageFile):
            image = _decoded(image)
        try:
            # Keep the parsed tags alone: Pillow would write their bytes back, failing for odd tags.
            image.getexif()
            image.info.pop("exif", None)
            return ImageOps.exif_transpose(image)
        except Exception:  # corrupt EXIF data; a tilted picture is better than none
            return image.copy()


def _decoded(image: ImageFile.ImageFile) -> Image.Image:
    _fix_color_key(image)
    gray = image.format == "PNG" and image.tile[0].args == "LA;16B"
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
    # Pillow makes colors of it, to which a profile for gray would not apply.
    return image.convert("LA") if gray else image


def _numbers(image: Image.Image, tags: Mapping[int, Any]) -> np.ndarray:
    """Return the numbers of a TIFF file in the file's type: Pillow makes all integers signed."""
    values = np.asarray(image)
    if image.mode == "F":
        return values
    (bits,), (kind,) = tags.get(258, (1,)), tags.get(339, (1,))
    return values.astype(f"{'int' if kind == 2 else 'uint'}{bits}")


@contextlib.contextmanager
def opened(source: Source, name: str) -> Iterator[Image.Image]:
    """Open a file with Pillow; any error here or in the caller's block becomes an InputError.

    Raises:
        InputError: The file cannot be read or decoded, or is empty (an EOFError inside).
    """
    # Big pictures and broken metadata need no warning.
    with _stream(source, name) as file, warnings.catch_warnings(), _quiet():
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
            found: Image.Image
            try:
                found = Image.open(limited)
                if is_tiff(start) and is_preview(found, start):
                    raise InputError(
                        "a camera's raw file, of which only a preview can be read; save it as "
                        "TIFF or JPEG with the camera's own program"
                    )
                if misreads(found):
                    found = read_tiff(file)
            except UnidentifiedImageError:
                if not is_tiff(start):
                    raise
                found = read_tiff(file)
            check_harmless(found)
            with found as image:
                if profile:
                    image.info["icc_profile"] = profile
                yield image
        except InputError as error:
            raise InputError(f"cannot load {name}: {error}") from None
        except Image.DecompressionBombError as error:
            raise InputError(f"cannot load {name}: {reason_of(error)}; scale it down") from error
        except Exception as error:  # damaged files make the decoders raise nearly everything
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "no known image format" if unknown else reason_of(error)
            raise InputError(
                f"cannot load {name}: not a readable image ({reason}); "
                "give a complete PNG, JPEG, WebP, TIFF, GIF or other file that Pillow opens"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Pillow and tifffile log about damage: the InputError says it in one line."""
    loggers = [logging.getLogger(name) for name in ("PIL", "tifffile")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _stream(source: Source, name: str) -> File:
    """Open a source; one that cannot seek, such as a pipe, is read into memory."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    try:
        if isinstance(source, str | os.PathLike):
            file = open_input(source)
            if isinstance(file, io.BufferedReader) and file.seekable():
                return file
            with file:
                data = file.read(MOST_STREAM + 1)
            if len(data) > MOST_STREAM:
                raise OSError(errno.EFBIG, f"it has more than {MOST_STREAM // 2**30} GiB")
            return io.BytesIO(data)
        data = source.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        advice = "give a readable image file"
        if "://" in name:
            advice = "that is an address; download it, or give --content=<(curl ADDRESS)"
        raise InputError(f"cannot load {name}: {reason_of(error)}; {advice}") from error
    if not isinstance(data, bytes):
        raise InputError(f"cannot load {name}: it is open as text; open it with 'rb'")
    return io.BytesIO(data)


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
