"""Every kind of file becomes the picture that a viewer shows, or one line that says why not.

What is expected is computed here with numpy, or follows from how the file was built; files that
Pillow cannot write (16-bit RGB, color keys, ICC profiles) are put together from bytes.
"""

import contextlib
import functools
import inspect
import io
import json
import os
import re
import struct
import sys
import threading
import zlib
from pathlib import Path
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from image_bytes import DARK_GREY, P3, SRGB, UPRIGHT, WIDE, icc_profile, icc_xyz, png
from nst_jax.errors import InputError
from nst_jax.io import colors, decoding
from nst_jax.io.colors import to_srgb
from nst_jax.io.formats import is_preview
from nst_jax.io.images import (
    WRITABLE_SUFFIXES,
    check_output,
    image_note,
    image_shape,
    load_image,
    save_image,
)

LOSSLESS = (".png", ".tif", ".tiff")


def noise(height=5, width=7, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def smooth(height=32, width=48):
    """Return a picture without detail that JPEG and WebP would lose: floats in [0, 1]."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([x, y, 1 - x * y], axis=-1).astype(np.float32)


def levels(path, **options):
    """Load an image and return its 8-bit levels, having checked what holds for every image."""
    image = load_image(path, **options)
    assert image.dtype == np.float32
    assert image.ndim == 3
    assert image.shape[2] == 3
    if not options:
        assert image_shape(path) == image.shape[:2]
    assert image.min() >= 0
    assert image.max() <= 1
    whole = np.rint(image * 255)
    np.testing.assert_array_equal(image, whole.astype(np.float32) / np.float32(255))
    return whole.astype(int)


def saved(tmp_path, image, suffix=".png", **options):
    path = tmp_path / f"picture{suffix}"
    image.save(path, **options)
    return path


def assert_close(actual, expected, tolerance):
    error = np.abs(np.asarray(actual).astype(float) - expected).max()
    assert error <= tolerance


def over_white(color, alpha):
    """Composite 8-bit levels over white in real numbers."""
    opacity = np.asarray(alpha, float) / 255
    return np.asarray(color, float) * opacity + 255 * (1 - opacity)


def refusal(function, path, *args, **kwargs):
    """Return the message of the InputError, which must be one line that names the path."""
    with pytest.raises(InputError) as caught:
        function(path, *args, **kwargs)
    assert_one_line(caught.value, path)
    return str(caught.value)


def assert_one_line(error, path):
    assert "\n" not in str(error)
    assert repr(os.fspath(path)) in str(error)


# Files from bytes


def tiff(data, shape, bits, photometric, order="<"):
    """Build an uncompressed TIFF of one strip, with the same number of bits for all channels."""
    height, width, channels = shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 200}
    tags |= {277: channels, 278: height, 279: len(data)}
    kinds = dict.fromkeys(tags, (4, 1))
    if channels > 1:  # several numbers of bits do not fit into the entry
        tags[258], kinds[258] = 192, (3, channels)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for tag, value in tags.items():
        head += struct.pack(order + "HHII", tag, *kinds[tag], value)
    head = head.ljust(192, b"\0") + struct.pack(order + "H", bits) * channels
    return head.ljust(200, b"\0") + data


def srgb_levels(xyz):
    """Encode XYZ (D50) as sRGB levels, in real numbers."""
    linear = np.clip(np.asarray(xyz) @ np.linalg.inv(SRGB).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def lab_levels(lightness, a, b):
    """Encode CIELAB (D50) as sRGB levels, in real numbers."""
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    return srgb_levels(
        np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    )


def cmyk_profile(cyan):
    """Build a CMYK profile in which full black is black and full cyan the given CIELAB color."""
    nodes = []
    for c, _, _, k in np.ndindex(2, 2, 2, 2):
        lab = (0, 0, 0) if k else cyan if c else (100, 0, 0)
        nodes.append((round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
    table = struct.pack(">4sI4B", b"mft1", 0, 4, 3, 2, 0) + matrix + ramp * 4
    table += bytes(np.array(nodes, np.uint8)) + ramp * 3
    return icc_profile(b"CMYK", b"prtr", {b"wtpt": icc_xyz((0.9642, 1, 0.8249)), b"A2B0": table})


# Modes


def test_saves_arrays_of_jax_as_those_of_numpy(tmp_path):
    for name, image in (("numpy.png", smooth()), ("jax.png", jnp.asarray(smooth()))):
        save_image(tmp_path / name, image)
    assert (tmp_path / "numpy.png").read_bytes() == (tmp_path / "jax.png").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".webp", ".ppm", ".tga"])
def test_rgb_comes_back_to_the_bit(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path, Image.fromarray(noise()), suffix, **options)
    np.testing.assert_array_equal(levels(path), noise())
    np.testing.assert_array_equal(levels(str(path)), noise())


def test_gray_and_black_and_white(tmp_path):
    gray = noise(channels=1)[..., 0]
    path = saved(tmp_path, Image.fromarray(gray))
    np.testing.assert_array_equal(levels(path), np.repeat(gray[..., None], 3, axis=2))
    path = saved(tmp_path, Image.fromarray(gray > 99))
    np.testing.assert_array_equal(levels(path), 255 * np.repeat(gray[..., None] > 99, 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_alpha_is_laid_over_white(tmp_path, suffix):
    rgba = noise(64, 64, 4)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    path = saved(tmp_path, Image.fromarray(rgba), suffix, **options)
    assert_close(levels(path), over_white(rgba[..., :3], rgba[..., 3:]), 0.51)


def test_gray_with_alpha_is_laid_over_white(tmp_path):
    gray, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    path = saved(tmp_path, Image.fromarray(np.stack([gray, alpha], axis=-1)))
    assert_close(levels(path), over_white(gray, alpha)[..., None], 0.51)


@pytest.mark.parametrize(("straight", "premultiplied"), [("LA", "La"), ("RGBA", "RGBa")])
def test_premultiplied_alpha(straight, premultiplied):
    channels = len(straight)
    pixels = noise(64, 64, channels)
    pixels[..., -1] |= 128  # below, 8 bits of color are not left after the multiplication
    image = Image.fromarray(pixels).convert(premultiplied)
    assert image.mode == premultiplied
    expected = over_white(pixels[..., :-1], pixels[..., -1:])
    assert_close(to_srgb(image, "name"), expected, 1.5)


def test_premultiplied_tiff(tmp_path):
    """A premultiplied half-transparent red (128, 0, 0, 128) is (255, 127, 127) over white."""
    path = saved(tmp_path, Image.new("RGBA", (3, 2), (128, 0, 0, 128)), ".tiff")
    straight, premultiplied = (struct.pack("<HHII", 338, 3, 1, kind) for kind in (2, 1))
    assert path.read_bytes().count(straight) == 1
    path.write_bytes(path.read_bytes().replace(straight, premultiplied))
    assert_close(levels(path), (255, 127, 127), 0)


def palette_image(mode="P"):
    image = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2)).convert("L")
    image = Image.frombytes("P", (2, 2), image.tobytes())
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 0, 255, 255, 255] + [7] * 3 * 252)
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(Image.frombytes("L", (2, 2), bytes([0, 255, 51, 255])))
    return image


COLORS = np.array([[[10, 20, 30], [200, 100, 0]], [[0, 0, 0], [255, 255, 255]]])


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tiff", ".bmp"])
def test_palette(tmp_path, suffix):
    np.testing.assert_array_equal(levels(saved(tmp_path, palette_image(), suffix)), COLORS)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_with_a_transparent_index(tmp_path, suffix):
    path = saved(tmp_path, palette_image(), suffix, transparency=1)
    expected = COLORS.copy()
    expected[0, 1] = 255
    np.testing.assert_array_equal(levels(path), expected)


def test_palette_with_alpha_bytes(tmp_path):
    alpha = [0, 255, 51, 128]
    path = saved(tmp_path, palette_image(), transparency=bytes(alpha))
    assert_close(levels(path), over_white(COLORS, np.reshape(alpha, (2, 2, 1))), 0.51)


def test_palette_with_alpha_channel():
    image = palette_image("PA")
    assert image.mode == "PA"
    expected = over_white(COLORS, np.reshape([0, 255, 51, 255], (2, 2, 1)))
    assert_close(to_srgb(image, "name"), expected, 0.51)


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, b"\xa0", 0, [255, 255, 255, 255]),  # 1 0 1 0, and 0 becomes white as well
        (1, b"\xa0", 1, [255, 0, 255, 0]),  # white over white: nothing changes
        (2, b"\x1b", 1, [0, 255, 170, 255]),  # 0 1 2 3
        (4, b"\x05\xaf", 10, [0, 85, 255, 255]),  # 0 5 10 15
        (8, b"\x00\x50\xa0\xff", 0x50, [0, 255, 160, 255]),
        (16, b"\x00\x00\x50\x50\x50\x51\xff\xff", 0x5050, [0, 255, 80, 255]),
    ],
)
def test_transparent_gray_level(tmp_path, depth, row, key, expected):
    path = tmp_path / "key.png"
    path.write_bytes(png([row], 4, depth, 0, (b"tRNS", struct.pack(">H", key))))
    np.testing.assert_array_equal(levels(path)[0], np.repeat(np.reshape(expected, (4, 1)), 3, 1))


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_color(tmp_path, depth):
    """The key of the first pixel, (16, 32, 64), makes it white and leaves the others alone."""
    pixels = np.array([[16, 32, 64], [16, 32, 65], [64, 32, 16]])
    scaled = pixels if depth == 8 else pixels * 256 + [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    kind = ">u1" if depth == 8 else ">u2"
    key = struct.pack(">3H", *scaled[0].tolist())
    path = tmp_path / "key.png"
    path.write_bytes(png([scaled.astype(kind).tobytes()], 3, depth, 2, (b"tRNS", key)))
    np.testing.assert_array_equal(levels(path)[0], [[255, 255, 255], *pixels[1:].tolist()])


def test_cmyk_without_a_profile(tmp_path):
    """Ink takes away light: R = 255 * (1 - C) (1 - K), and so on."""
    cmyk = noise(16, 16, 4)
    path = saved(tmp_path, Image.frombytes("CMYK", (16, 16), cmyk.tobytes()), ".tiff")
    left = 255 - cmyk.astype(float)
    assert_close(levels(path), left[..., :3] * left[..., 3:] / 255, 1)


def test_adobe_cmyk_jpeg(tmp_path):
    """Adobe's JPEGs hold inverted ink; Pillow writes and reads them so."""
    path = saved(tmp_path, Image.new("CMYK", (16, 16), (255, 0, 0, 0)), ".jpg", quality=100)
    assert b"Adobe" in path.read_bytes()
    assert_close(levels(path), (0, 255, 255), 3)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_other_color_spaces(mode):
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [128, 128, 128], [250, 240, 3]]], np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    assert image.mode == mode
    assert_close(to_srgb(image, "name"), pixels, 5)  # what 8 bits of hue lose


def test_lab(tmp_path):
    """CIELAB is stored as L * 2.55 and signed a and b, and is relative to D50."""
    colors = [(50, 40, -30), (100, 0, 0), (0, 0, 0), (70, -30, 20)]
    stored = [(round(color[0] * 2.55), color[1] & 255, color[2] & 255) for color in colors]
    image = Image.frombytes("LAB", (4, 1), bytes(np.array(stored, np.uint8)))
    expected = [lab_levels(*color) for color in colors]
    assert_close(levels(saved(tmp_path, image, ".tiff"))[0], expected, 1.5)


# More than 8 bits


RAMP = np.arange(65536).reshape(256, 256)


@pytest.mark.parametrize("kind", ["png", "tiff <", "tiff >", "tiff deflate", "pgm"])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path, kind):
    path = tmp_path / f"ramp.{kind.split()[-1]}"
    if kind == "png":
        path.write_bytes(png([row.astype(">u2").tobytes() for row in RAMP], 256, 16, 0))
    elif kind == "tiff <":
        Image.fromarray(RAMP.astype("<u2")).save(path, "TIFF")
    elif kind == "tiff >":
        image = Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes())
        image.save(path, "TIFF")
        assert path.read_bytes()[:2] == b"MM"
    elif kind == "tiff deflate":
        Image.fromarray(RAMP.astype("<u2")).save(path, "TIFF", compression="tiff_deflate")
    else:
        path.write_bytes(b"P5 256 256 65535\n" + RAMP.astype(">u2").tobytes())
    result = levels(path)
    assert (result == result[..., :1]).all()
    ramp = result[..., 0].ravel()
    assert (np.diff(ramp) >= 0).all()
    assert_close(ramp, RAMP.ravel() * 255 / 65535, 0.5)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_modes(mode):
    order = ">u2" if mode.endswith("B") else "<u2"
    image = Image.frombytes(mode, (256, 256), RAMP.astype(order).tobytes())
    assert_close(np.asarray(to_srgb(image, "name"))[..., 0], RAMP * 255 / 65535, 0.5)


@pytest.mark.parametrize("color_type", [2, 4, 6], ids=["RGB", "LA", "RGBA"])
def test_16_bit_color_png_is_right_to_a_level(tmp_path, color_type):
    """Pillow drops the low byte, so that a level is at most one too low."""
    channels = {2: 3, 4: 2, 6: 4}[color_type]
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 64, channels))
    path = tmp_path / "deep.png"
    path.write_bytes(png([row.astype(">u2").tobytes() for row in pixels], 64, 16, color_type))
    expected = pixels / 257
    if color_type != 2:
        expected = over_white(expected[..., :-1], expected[..., -1:])
    assert_close(levels(path), expected, 1 if color_type == 2 else 2.5)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_color_tiff_is_right_to_a_level(tmp_path, order):
    pixels = np.random.default_rng(0).integers(0, 65536, (4, 4, 3))
    path = tmp_path / "deep.tiff"
    path.write_bytes(tiff(pixels.astype(order + "u2").tobytes(), (4, 4, 3), 16, 2, order))
    assert_close(levels(path), pixels / 257, 1)


def test_12_bits_which_pillow_misreads_are_refused(tmp_path):
    path = tmp_path / "deep.tiff"
    path.write_bytes(tiff(bytes(12), (1, 8, 1), 12, 1))
    assert "12-bit gray" in refusal(load_image, path)


@pytest.mark.parametrize("bits", [8, 16])
def test_gray_of_which_0_is_white(tmp_path, bits, monkeypatch):
    pytest.importorskip("tifffile")
    path = tmp_path / "inverted.tiff"
    pixels = np.arange(8).astype(f"<u{bits // 8}")
    path.write_bytes(tiff(pixels.tobytes(), (1, 8, 1), bits, 0))
    expected = 255 * (1 - np.arange(8) / (2**bits - 1))
    assert_close(levels(path)[0, :, 0], expected, 0.5)
    monkeypatch.setitem(sys.modules, "tifffile", None)  # Pillow inverts 8 bits alone
    if bits == 16:
        assert "but tifffile may" in refusal(load_image, path)


WIDE_KINDS = [np.uint32, np.int32, np.float32, np.float64, np.int16, np.uint16]


@pytest.mark.parametrize("kind", WIDE_KINDS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"compression": "zlib"}])
def test_wide_tiff_has_its_largest_number_as_white(tmp_path, kind, channels, options):
    """Floats have 1. Pillow reads some kinds, tifffile the others."""
    tifffile = pytest.importorskip("tifffile")
    shares = np.random.default_rng(0).uniform(size=(6, 8, channels))
    white = 1 if np.issubdtype(kind, np.floating) else np.iinfo(kind).max
    values = (shares * white).astype(kind)
    if channels == 1:
        values = values[..., 0]
    elif options.get("planarconfig"):
        values = np.moveaxis(values, -1, 0)
    path = tmp_path / "wide.tiff"
    # The alpha is apart from the colors, as it is in all that Pillow writes.
    extra = {} if channels in (1, 3) else {"extrasamples": ["unassalpha"]}
    photometric = "rgb" if channels > 2 else "minisblack"
    tifffile.imwrite(path, values, photometric=photometric, **extra, **options)
    if channels in (2, 4):
        expected = over_white(shares[..., :-1] * 255, shares[..., -1:] * 255)
    else:
        expected = shares * 255
    assert image_shape(path) == (6, 8)
    assert_close(levels(path), np.broadcast_to(expected, (6, 8, 3)), 2.5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.int32([0, 65536]), "its numbers are 0 to 65536, and white is 2147483647, the largest"),
        (np.uint32([0, 255]), "its numbers are 0 to 255, and white is 4294967295"),
        (np.int32([-1, 2**31 - 1]), "its numbers are -1 to 2147483647"),
        (np.float32([0, 200]), "its numbers are 0 to 200, and white is 1 for floats: scale them"),
        (np.float32([-0.6, 1]), "its numbers are -0.6 to 1, and white is 1 for floats"),
        (np.float32([0, np.nan]), "its numbers are nan to nan"),
        (np.float64([0, np.inf]), "its numbers are 0 to inf"),
    ],
)
def test_wide_numbers_that_give_no_picture_are_refused(tmp_path, values, channels, said):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "wide.tiff"
    pixels = np.broadcast_to(values[None, :, None], (1, 2, channels))
    photometric = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(path, pixels if channels == 3 else pixels[..., 0], photometric=photometric)
    message = refusal(load_image, path)
    assert said in message
    assert "8 or 16 bits" in message


def test_a_wide_tiff_has_its_profile_and_stands_upright(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels, path = noise(6, 8), tmp_path / "wide.tiff"
    tags = [(274, "H", 1, 6, True), (34675, "B", len(WIDE), WIDE, True)]
    tifffile.imwrite(path, pixels.astype(np.float32) / 255, photometric="rgb", extratags=tags)
    narrow = saved(tmp_path, Image.fromarray(pixels), exif=orientation(6), icc_profile=WIDE)
    np.testing.assert_array_equal(levels(path), levels(narrow))
    assert image_shape(path) == image_shape(narrow) == (8, 6)


def test_black_floats_and_integers_are_black(tmp_path):
    for kind in (np.float32, np.int32, np.uint32):
        Image.fromarray(np.zeros((2, 3), kind if kind is not np.uint32 else np.int32)).save(
            tmp_path / "black.tiff"
        )
        assert load_image(tmp_path / "black.tiff").max() == 0


def test_without_tifffile_it_is_named(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "wide.tiff"
    tifffile.imwrite(path, np.zeros((6, 8, 3), np.float32), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert "but tifffile may: pip install '.[formats]'" in refusal(load_image, path)
    tifffile.imwrite(path, np.ones((6, 8), np.float32))  # Pillow's own
    assert load_image(path).min() == 1


def test_a_cameras_raw_file_is_not_its_preview(tmp_path):
    """As DNG, NEF and ARW have it; those of Canon say so at their start."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "photo.dng"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(16, 24), photometric="rgb", subfiletype=1, subifds=1)
        writer.write(np.zeros((160, 240), np.uint16), photometric="cfa", subfiletype=0)
    assert "a camera's raw file, of which only a preview" in refusal(load_image, path)
    assert is_preview(Image.new("RGB", (3, 4)), b"II*\0\x10\0\0\0CR\2\0")
    assert not is_preview(Image.new("RGB", (3, 4)), b"II*\0\x10\0\0\0\0\0\0\0")


# Other formats


def heic(folder, image, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return saved(folder, image, ".heic", quality=-1, chroma=444, **options)


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    path = heic(tmp_path, Image.fromarray((smooth() * 255).astype(np.uint8)), exif=orientation(6))
    # What the package writes stands upright already.
    assert image_shape(path) == levels(path).shape[:2] == (32, 48)
    assert_close(levels(path), smooth() * 255, 4)


def test_without_the_package_for_heic_it_is_named(tmp_path, monkeypatch):
    path = heic(tmp_path, Image.fromarray(noise(64, 64)))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "HEIC takes pillow-heif: pip install '.[formats]'" in refusal(load_image, path)


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "quality": 30}])
def test_a_jpeg_without_its_end_is_whole(tmp_path, missing, mode, options):
    """Two bytes say that a JPEG file ends; cameras that run out of power leave them away."""
    data = encoded(Image.fromarray(noise(40, 56)).convert(mode), format="JPEG", **options)
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(data[:-missing])
    np.testing.assert_array_equal(levels(tmp_path / "cut.jpg"), levels(tmp_path / "whole.jpg"))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_lacks_rows_is_refused(tmp_path, options):
    data, path = (
        encoded(Image.fromarray(noise(40, 56)), format="JPEG", **options),
        tmp_path / "a.jpg",
    )
    for length in range(len(data) // 2, len(data) - 8, 41):
        path.write_bytes(data[:length])
        assert re.search("truncated|broken data stream", refusal(load_image, path))


def test_what_other_formats_may_lack_at_their_end(tmp_path):
    image = Image.fromarray(noise(40, 56))
    for codec, missing in (("PNG", 12), ("GIF", 1), ("WEBP", 0), ("BMP", 0)):
        data, path = encoded(image, format=codec), tmp_path / "a"
        path.write_bytes(data)
        whole = levels(path)
        path.write_bytes(data[: len(data) - missing])
        np.testing.assert_array_equal(levels(path), whole)


LONG = b"x" * (2**20 + 1)


@functools.cache
def text_chunks():
    small = zlib.compress(LONG)
    return {
        "zTXt": (b"zTXt", b"Comment\0\0" + small),
        "iTXt": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + small),
        "iTXt as it is": (b"iTXt", b"XML:com.adobe.xmp\0\0\0en\0Titel\0" + LONG),
        "tEXt": (b"tEXt", b"Comment\0" + LONG),
        "bomb": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**28))),
        "iCCP": (b"iCCP", b"wide\0\0" + zlib.compress(WIDE + bytes(2**20))),
        "damaged": (b"zTXt", b"Comment\0\0" + small[:700] + bytes(700)),
    }


@pytest.mark.parametrize("kind", text_chunks())
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_png_may_have_texts_of_any_length(tmp_path, kind, place):
    plain, path = encoded(Image.fromarray(noise()), format="PNG"), tmp_path / "a.png"
    name, body = text_chunks()[kind]
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    if place == "after":
        if kind == "iCCP":
            return  # a profile comes before the pixels
        path.write_bytes(plain[:-12] + chunk + plain[-12:])
    else:
        path.write_bytes(plain[:33] + chunk + plain[33:])
    image = Image.fromarray(noise())
    if kind == "iCCP":
        image = colors._apply_profile(image, WIDE)
    if kind == "damaged" and place == "before":
        with contextlib.suppress(InputError):
            levels(path)
        return
    np.testing.assert_array_equal(levels(path), np.asarray(image))
    assert image_shape(path) == (5, 7)


def test_many_texts_are_no_obstacle(tmp_path):
    """Pillow takes 64 MB of them together."""
    plain, path = encoded(Image.fromarray(noise()), format="PNG"), tmp_path / "a.png"
    body = b"Comment\0\0" + zlib.compress(b"x" * 2**20)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + body))
    path.write_bytes(plain[:33] + 70 * chunk + plain[33:])
    np.testing.assert_array_equal(levels(path), noise())


@pytest.mark.parametrize("gamma", [1.0, 0.55556, 0.8, 0.3])
@pytest.mark.parametrize("color_type", [0, 2, 4, 6], ids=["L", "RGB", "LA", "RGBA"])
def test_a_pngs_gamma_is_applied(tmp_path, gamma, color_type):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    pixels, path = noise(4, 64, channels), tmp_path / "a.png"
    chunk = b"gAMA", struct.pack(">I", round(gamma * 100_000))
    path.write_bytes(png([row.tobytes() for row in pixels], 64, 8, color_type, chunk))
    colors = pixels if channels in (1, 3) else pixels[..., :-1]
    linear = np.broadcast_to((colors / 255) ** (1 / gamma), (4, 64, 3))
    expected = srgb_levels(linear @ SRGB.T)
    if channels in (2, 4):
        expected = over_white(np.rint(expected), pixels[..., -1:])
    assert_close(levels(path), expected, 1)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"gAMA", struct.pack(">I", 0))],
        [(b"gAMA", struct.pack(">I", 2**31 - 1))],
        [(b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")],
    ],
    ids=["that of sRGB", "none", "absurd", "beside sRGB"],
)
def test_a_gamma_that_means_nothing(tmp_path, chunks):
    pixels, path = noise(4, 64), tmp_path / "a.png"
    path.write_bytes(png([row.tobytes() for row in pixels], 64, 8, 2, *chunks))
    np.testing.assert_array_equal(levels(path), pixels)


# Sources


def test_bytes_and_open_files_are_images_too(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(20, 30)), exif=orientation(6))
    data, wanted = path.read_bytes(), levels(path)
    with path.open("rb") as file:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            np.testing.assert_allclose(load_image(source) * 255, wanted, atol=1e-4)
    assert load_image(data, size=10).shape == (10, 7, 3)
    with path.open("rb") as file:
        assert image_shape(file) == (30, 20)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "cannot load 0 bytes: not a readable image (the file is empty)"),
        (b"no image", "cannot load 8 bytes: not a readable image (no known image format)"),
        (io.StringIO("text"), "it is open as text; open it with 'rb'"),
        (io.BytesIO(), "the file is empty"),
    ],
)
def test_sources_that_are_no_images_are_refused_in_one_line(source, said):
    with pytest.raises(InputError) as caught:
        inspect.unwrap(load_image)(source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_read_as_a_whole(tmp_path):
    data = encoded(Image.fromarray(noise(200, 300)), format="PNG")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True)
    writer.start()
    found = load_image(tmp_path / "pipe")
    np.testing.assert_allclose(found * 255, noise(200, 300), atol=1e-4)
    writer.join()


# Profiles


def test_rgb_profile_is_applied(tmp_path):
    pixels = noise(32, 32)
    path = saved(tmp_path, Image.fromarray(pixels), icc_profile=WIDE)
    expected = srgb_levels((pixels / 255) ** 2 @ P3.T)
    assert np.abs(expected - pixels).max() > 50
    # Where sRGB clips, it is not said how; inside, both computations agree.
    inside = ((expected > 0) & (expected < 255)).all(axis=-1)
    assert inside.sum() > 300
    assert_close(levels(path)[inside], expected[inside], 1.5)


def test_profile_applies_to_colors_before_transparency(tmp_path):
    """Transparent pixels are white, whatever the profile makes of their color."""
    pixels = noise(32, 32, 4)
    pixels[..., 3] = np.where(pixels[..., 3] > 99, 255, 0)
    path = saved(tmp_path, Image.fromarray(pixels), icc_profile=WIDE)
    opaque = saved(tmp_path, Image.fromarray(pixels[..., :3]), ".tiff", icc_profile=WIDE)
    expected = np.where(pixels[..., 3:] == 255, levels(opaque), 255)
    np.testing.assert_array_equal(levels(path), expected)


def test_profile_of_a_palette_image(tmp_path):
    path = saved(tmp_path, palette_image(), icc_profile=WIDE)
    flat = saved(tmp_path, Image.fromarray(COLORS.astype(np.uint8)), ".tiff", icc_profile=WIDE)
    np.testing.assert_array_equal(levels(path), levels(flat))
    assert (levels(path) != COLORS).any()


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_profile_is_applied(tmp_path, mode):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(ramp).convert(mode)
    path = saved(tmp_path, image, icc_profile=DARK_GREY)
    expected = srgb_levels((ramp / 255)[..., None] ** 1.75 * [0.9642, 1, 0.8249])
    assert_close(levels(path), expected, 1.5)


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_cmyk_profile_is_applied(tmp_path, suffix):
    cyan = (50, 20, -30)
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    inks[255, 0, 0, 0] = lab_levels(*cyan)
    for ink, expected in inks.items():
        image = Image.new("CMYK", (16, 16), ink)
        path = saved(tmp_path, image, suffix, icc_profile=cmyk_profile(cyan))
        assert_close(levels(path), expected, 3)


def test_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path, Image.fromarray(noise(64, 64)), icc_profile=profile)
    assert_close(levels(path), noise(64, 64), 1)


@pytest.mark.parametrize(
    "profile",
    [b"nonsense", WIDE[:200], WIDE[:128] + b"\xff" * 200, DARK_GREY, cmyk_profile((50, 0, 0))],
    ids=["nonsense", "truncated", "broken tags", "for gray", "for CMYK"],
)
def test_useless_profile_is_ignored(tmp_path, profile):
    path = saved(tmp_path, Image.fromarray(noise()), icc_profile=profile)
    np.testing.assert_array_equal(levels(path), noise())


# Orientation


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("value", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp", ".jpg"])
def test_exif_orientation(tmp_path, value, suffix):
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}
    stored = np.kron(noise(2, 3), np.ones((8, 8, 1), np.uint8))  # flat blocks survive JPEG
    image = Image.fromarray(stored)
    path = saved(tmp_path, image, suffix, exif=orientation(value), **options.get(suffix, {}))
    assert_close(levels(path), UPRIGHT[value](stored).astype(int), 3 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("mode", ["P", "LA", "I;16"])
def test_orientation_of_other_modes(tmp_path, mode):
    stored = noise(2, 3, 1)[..., 0]
    image = Image.fromarray(stored).convert(mode)
    if mode == "I;16":
        image = Image.fromarray(stored.astype(np.uint16) * 257)
    path = saved(tmp_path, image, exif=orientation(6))
    np.testing.assert_array_equal(levels(path)[..., 0], np.rot90(stored, -1))


def test_orientation_comes_before_the_size(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (30, 10)), exif=orientation(6))
    assert load_image(path, size=60).shape == (60, 20, 3)


@pytest.mark.parametrize("entry", [(305, 2, 99, 5000), (284, 2, 2, 65)], ids=["place", "type"])
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_orientation_is_found_next_to_broken_metadata(tmp_path, entry, suffix):
    """Pillow warns of a text outside the data, and fails to rewrite a number that is a text."""
    entries = struct.pack("<HHII", 274, 3, 1, 6) + struct.pack("<HHII", *entry)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0"
    path = saved(tmp_path, Image.fromarray(noise()), suffix, exif=exif, lossless=True)
    np.testing.assert_array_equal(levels(path), np.rot90(noise(), -1))


@pytest.mark.parametrize("exif", [b"nonsense", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II"])
def test_broken_exif_is_ignored(tmp_path, exif):
    path = saved(tmp_path, Image.fromarray(noise()), exif=exif)
    np.testing.assert_array_equal(levels(path), noise())


def test_orientation_that_pillow_cannot_remove_is_ignored(tmp_path, monkeypatch):
    def exif_transpose(image, **_):
        raise SyntaxError("corrupt EXIF data")

    monkeypatch.setattr(decoding.ImageOps, "exif_transpose", exif_transpose)
    path = saved(tmp_path, Image.fromarray(noise()))
    np.testing.assert_array_equal(levels(path), noise())


# Animations


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff"])
def test_first_frame(tmp_path, suffix):
    first, second = (Image.new("RGB", (8, 8), color) for color in ("#ff0000", "#0000ff"))
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path, first, suffix, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(levels(path), np.full((8, 8, 3), [255, 0, 0]))


# Sizes


@given(
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    size=st.integers(1, 80),
)
@settings(max_examples=60, deadline=None)
def test_longest_side_is_exact_and_the_aspect_kept(tmp_path_factory, width, height, size):
    path = tmp_path_factory.getbasetemp() / "sizes.png"
    Image.fromarray(noise(height, width)).save(path)
    result = load_image(path, size=size)
    assert max(result.shape[:2]) == size
    longest = max(width, height)
    for actual, original in zip(result.shape[:2], (height, width), strict=True):
        assert actual >= 1
        assert abs(actual - original * size / longest) <= 0.5 or actual == 1


@given(height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_shape_is_exact_and_the_filter_pillows_lanczos(tmp_path_factory, height, width):
    path = tmp_path_factory.getbasetemp() / "shapes.png"
    image = Image.fromarray(noise(13, 17))
    image.save(path)
    expected = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(levels(path, shape=(height, width)), expected)


def test_pixels_become_rgb_before_they_are_resized(tmp_path):
    """As in the PyTorch program; a palette could not be interpolated at all."""
    path = saved(tmp_path, palette_image())
    rgb = Image.fromarray(COLORS.astype(np.uint8))
    expected = np.asarray(rgb.resize((9, 9), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(levels(path, size=9), expected)


def test_enlarged_only_where_that_is_allowed(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(9, 21)))
    np.testing.assert_array_equal(load_image(path, size=40, enlarge=False), load_image(path))
    assert load_image(path, size=40).shape == (17, 40, 3)
    assert load_image(path, size=7, enlarge=False).shape == (3, 7, 3)
    assert load_image(path, size=6, side="shortest").shape == (6, 14, 3)
    assert load_image(path, size=6, side="shortest", enlarge=False).shape == (6, 14, 3)
    natural = load_image(path)
    assert load_image(path, size=90, side="shortest", enlarge=False).shape == natural.shape


def test_own_size_changes_nothing(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(9, 21)))
    np.testing.assert_array_equal(load_image(path, size=21), load_image(path))
    np.testing.assert_array_equal(load_image(path, shape=(9, 21)), load_image(path))


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": -5},
        {"size": True},
        {"size": 2.5},
        {"size": "64px"},
        {"size": "0x64"},
        {"size": "max"},
        {"size": 10**400},
        {"size": 20_000},
        {"shape": (0, 5)},
        {"shape": (5, -1)},
        {"shape": (5, 2.0)},
        {"shape": (5,)},
        {"shape": (5, 5, 3)},
        {"shape": (20_000, 20_000)},
        {"size": 5, "shape": (5, 5)},
    ],
    ids=str,
)
def test_wrong_sizes_are_refused(tmp_path, options):
    path = saved(tmp_path, Image.fromarray(noise()))
    unchecked = inspect.unwrap(load_image)  # without the type checker that the tests add
    message = refusal(unchecked, path, **options)
    assert "size" in message or "shape" in message or "limit" in message


# Files that are no images


def test_an_address_and_a_folder_are_told_as_such(tmp_path):
    assert "--content=<(curl ADDRESS)" in refusal(load_image, "https://localhost/a.jpg")
    said = f"it is a folder; name a file in it, as '{tmp_path / 'picture.png'}'"
    assert said in refusal(check_output, tmp_path)


def test_unreadable_paths_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture\n" * 99)
    (tmp_path / "two\nlines.png").write_text("no picture")
    assert "No such file" in refusal(load_image, tmp_path / "missing.png")
    assert "No such file" in refusal(load_image, "")
    assert "No such file" in refusal(load_image, "two\nlines.png")
    assert "directory" in refusal(load_image, tmp_path)
    assert "directory" in refusal(load_image, tmp_path / "text.png" / "picture.png")
    assert "too long" in refusal(load_image, tmp_path / ("x" * 300))
    assert "null" in refusal(load_image, "a\0b.png")
    assert "file is empty" in refusal(load_image, tmp_path / "empty.png")
    assert "no known image format" in refusal(load_image, tmp_path / "text.png")
    assert "no known image format" in refusal(load_image, tmp_path / "two\nlines.png")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_read_error_is_refused_even_for_root():
    assert "Input/output error" in refusal(load_image, "/proc/self/mem")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file_is_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise()))
    path.chmod(0)
    assert "Permission denied" in refusal(load_image, path)


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("codec", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_image_is_refused(tmp_path, codec):
    data = encoded(Image.fromarray(noise(40, 40)), format=codec)
    path = tmp_path / "half.img"
    path.write_bytes(data[: len(data) // 2])
    assert "not a readable image" in refusal(load_image, path)


def test_pixel_limit_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (20, 15)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert load_image(path).shape == (15, 20, 3)  # above the warning, below the limit
    assert load_image(path, shape=(20, 20)).shape == (20, 20, 3)
    assert "400" in refusal(load_image, path, size=50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "200" in refusal(load_image, path)
    assert "scale it down" in refusal(load_image, path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path, size=50).shape == (38, 50, 3)


def test_reasons_of_several_lines_become_one(tmp_path, monkeypatch):
    def fail(file):
        raise RuntimeError("first line\n  second line.")

    path = saved(tmp_path, Image.fromarray(noise()))
    monkeypatch.setattr(Image, "open", fail)
    assert "(first line second line)" in refusal(load_image, path)


def sound_files():
    rgb = Image.fromarray(noise(11, 9))
    alpha = Image.fromarray(noise(11, 9, 4))
    palette = rgb.quantize(16)
    exif = orientation(6)
    return {
        "png": encoded(rgb, format="PNG", exif=exif, icc_profile=WIDE),
        "png palette": encoded(palette, format="PNG", transparency=bytes(range(16))),
        "png key": png([b"\x1b\x2d"] * 4, 8, 2, 0, (b"tRNS", b"\0\1")),
        "png gray": png([b"\0\1\2\3"] * 4, 2, 16, 0, (b"tRNS", b"\0\1"), (b"gAMA", b"\0\0\1\0")),
        "jpeg": encoded(rgb, format="JPEG", exif=exif, icc_profile=WIDE),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), format="JPEG", progressive=True),
        "tiff": encoded(alpha, format="TIFF", exif=exif, icc_profile=WIDE),
        "tiff deflate": encoded(rgb, format="TIFF", compression="tiff_deflate"),
        "tiff jpeg": encoded(rgb, format="TIFF", compression="jpeg"),
        "webp": encoded(rgb, format="WEBP", exif=exif.tobytes(), icc_profile=WIDE),
        "webp lossless": encoded(alpha, format="WEBP", lossless=True),
        "gif": encoded(palette, format="GIF", transparency=3, save_all=True, append_images=[rgb]),
    }


SOUND = sound_files()


@contextlib.contextmanager
def pixel_limit(limit):
    """Keep damaged headers from asking for gigabytes; monkeypatch and hypothesis do not mix."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@pytest.mark.parametrize("kind", SOUND)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_loaded_or_refused(tmp_path_factory, kind, data):
    content = bytearray(SOUND[kind])
    place = st.integers(0, len(content) - 1) | st.integers(0, min(len(content) - 1, 100))
    for position, byte in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        content[position] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.just(len(content)) | place)])
    with pixel_limit(100_000):
        try:
            levels(path)
        except InputError as error:
            assert_one_line(error, path)


@given(
    positions=st.lists(st.tuples(st.integers(0, len(WIDE) - 1), st.integers(0, 255)), max_size=4)
)
@settings(max_examples=60, deadline=None)
def test_damaged_profiles_do_no_harm(tmp_path_factory, positions):
    profile = bytearray(WIDE)
    for position, byte in positions:
        profile[position] = byte
    path = tmp_path_factory.getbasetemp() / "profile.png"
    Image.fromarray(noise()).save(path, icc_profile=bytes(profile))
    assert levels(path).shape == noise().shape


# Saving


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_round_trip_is_exact(tmp_path, suffix):
    every_level = np.arange(768).reshape(16, 16, 3) % 256
    path = tmp_path / f"out{suffix}"
    save_image(path, every_level.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(levels(path), every_level)
    again = tmp_path / f"again{suffix}"
    save_image(again, load_image(path))
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".jpg", 5), (".jpeg", 5), (".webp", 8), (".avif", 8)]
)
def test_lossy_round_trip_is_close(tmp_path, suffix, tolerance):
    path = tmp_path / f"out{suffix}"
    save_image(path, smooth())
    assert_close(levels(path), smooth() * 255, tolerance)


@pytest.mark.parametrize("suffix", [".jpg", ".avif"])
def test_the_full_resolution_of_color_is_kept(tmp_path, suffix):
    """Stripes of pure red and blue, one pixel wide, would turn gray under chroma subsampling."""
    stripes = np.zeros((16, 16, 3), np.float32)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 1
    save_image(tmp_path / f"out{suffix}", stripes)
    assert_close(levels(tmp_path / f"out{suffix}"), stripes * 255, 12)


@pytest.mark.parametrize("suffix", [*WRITABLE_SUFFIXES, ".PNG", ".JpG"])
def test_format_follows_the_suffix(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    save_image(path, smooth())
    formats = {"p": "PNG", "j": "JPEG", "w": "WEBP", "t": "TIFF", "a": "AVIF"}
    with Image.open(path) as image:
        assert image.format == formats[suffix[1].lower()]
        assert image.mode == "RGB"
        assert image.format != "TIFF" or image.info["compression"] == "tiff_adobe_deflate"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_are_clipped_and_rounded_to_the_nearest_level(tmp_path, dtype):
    values = np.array([-0.5, -0.2, -0.001, 0.4 / 255, 0.6 / 255, 0.5, 1, 1.001, 1.5], dtype)
    save_image(tmp_path / "out.png", values.reshape(3, 1, 3))
    result = levels(tmp_path / "out.png").ravel()
    np.testing.assert_array_equal(result, [0, 0, 0, 0, 1, 128, 255, 255, 255])


@pytest.mark.parametrize("suffix", [*WRITABLE_SUFFIXES, ".PNG"])
def test_a_note_is_kept(tmp_path, suffix):
    image = np.full((5, 4, 3), 0.5, np.float32)
    path = tmp_path / f"a{suffix}"
    for note in (json.dumps({"a": "\u20ac \n", "b": [1, "x" * 5000]}), "<a & b> \u20ac ]]>", "-"):
        save_image(path, image, note=note)
        assert image_note(path) == note
        np.testing.assert_allclose(load_image(path), image, atol=0.51 / 255)
    save_image(path, image)
    assert image_note(path) == ""


def test_the_xmp_of_a_note_is_xml(tmp_path):
    """Other programs read it with a parser of XML."""
    save_image(tmp_path / "a.jpg", np.zeros((5, 4, 3), np.float32), note="<a & b> \u20ac")
    with Image.open(tmp_path / "a.jpg") as image:
        root = ElementTree.fromstring(image.info["xmp"])
    assert [x.text for x in root.iter("{urn:nst_jax}note")] == ["<a & b> \u20ac"]


def test_a_note_of_no_picture_is_an_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        image_note(tmp_path / "missing.png")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 1), np.float32),
        np.zeros((4, 4, 4), np.float32),
        np.zeros((3, 4, 4), np.float32),
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), complex),
        None,
        "text",
    ],
    ids=lambda image: f"{getattr(image, 'dtype', '')}{getattr(image, 'shape', image)}",
)
def test_what_is_no_image_is_refused(tmp_path, image):
    unchecked = inspect.unwrap(save_image)  # without the type checker that the tests add
    assert "(height, width, 3)" in refusal(unchecked, tmp_path / "out.png", image)
    assert os.listdir(tmp_path) == []


def test_nan_is_refused(tmp_path):
    image = smooth()
    image[3, 4, 1] = np.nan
    assert "infinite or not a number" in refusal(save_image, tmp_path / "out.png", image)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("suffix", "length"), [(".webp", 16384), (".jpg", 65536)])
def test_picture_too_large_for_its_format_leaves_the_old_file(tmp_path, suffix, length):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")
    message = refusal(save_image, path, np.zeros((1, length, 3), np.float32))
    assert str(length) in message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("encoder error -2"), KeyboardInterrupt()],
)
def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch, error):
    def save(self, path, **_):
        path.write_bytes(b"half")
        raise error

    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", save)
    if isinstance(error, Exception):
        assert error.args[-1] in refusal(save_image, path, smooth())
    else:
        with pytest.raises(KeyboardInterrupt):
            save_image(path, smooth())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.png"]


@pytest.mark.parametrize("check", [check_output, lambda path: save_image(path, smooth())])
def test_wrong_outputs_are_refused(tmp_path, check):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert "this is only a suffix; give a name before it, as in picture.png" in refusal(
        check, tmp_path / ".png"
    )
    for name in ("out.gif", "out", "out.", "out.png.txt"):
        message = refusal(check, tmp_path / name)
        assert all(suffix in message for suffix in WRITABLE_SUFFIXES)
    refusal(check, "")
    assert "folder" in refusal(check, tmp_path / "folder.png")
    assert "folder" in refusal(check, tmp_path / "missing" / "out.png")
    assert "folder" in refusal(check, tmp_path / "file" / "out.png")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_good_outputs_are_accepted(tmp_path):
    (tmp_path / "old.png").write_bytes(b"old")
    check_output(tmp_path / "old.png")
    for suffix in WRITABLE_SUFFIXES:
        check_output(str(tmp_path / f"new{suffix}"))
        check_output(tmp_path / f"NEW{suffix.upper()}")
    assert os.listdir(tmp_path) == ["old.png"]
