"""Formats times modes, bits, orientations and profiles: each file is the picture it should be.

What is expected is computed in real numbers from what was put into the file.
"""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from image_bytes import DARK_GREY, P3, SRGB, UPRIGHT, WIDE, png
from nst_jax.io.extras import Extras, load_extras
from nst_jax.io.images import WRITABLE_SUFFIXES, image_shape, load_image, save_image

BACKGROUND, BACKGROUND_LEVELS = "#4060a0", np.array([64, 96, 160])
PRODUCT = [*itertools.product(range(1, 9), (False, True))]  # orientations, with or without profile


def pale(channels, *, seed=0):
    """Draw shares of white that lie inside sRGB whatever the profile; the last may be an alpha."""
    rng = np.random.default_rng(seed)
    color = rng.uniform(0.4, 0.75, (3, 5, 1)) + rng.uniform(-0.1, 0.1, (3, 5, channels))
    if channels in (2, 4):
        color[..., -1] = rng.uniform(0, 1, (3, 5))
    return color


def exif(orientation):
    return b"II*\0" + struct.pack("<IHHHIII", 8, 1, 274, 3, 1, orientation, 0)


def displayed(shares, orientation, *, profile):
    """Return what a viewer shows, in real levels: shares of white, upright and over the color."""
    channels = shares.shape[-1]
    color, alpha = (shares, 1) if channels in (1, 3) else (shares[..., :-1], shares[..., -1:])
    if profile and color.shape[-1] == 3:
        linear = color**2 @ P3.T @ np.linalg.inv(SRGB).T
    elif profile:
        linear = color**1.75
    if profile:
        color = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    over = 255 * color * alpha + (1 - np.asarray(alpha)) * BACKGROUND_LEVELS
    return UPRIGHT[orientation](np.broadcast_to(over, (*over.shape[:2], 3)))


def check(data, shares, orientation, *, profile, tolerance):
    expected = displayed(shares, orientation, profile=profile)
    assert image_shape(data) == expected.shape[:2]
    found = load_image(data, background=BACKGROUND) * 255
    np.testing.assert_allclose(found, expected, atol=tolerance)
    alpha = load_extras(data).alpha
    if shares.shape[-1] in (1, 3):
        assert alpha is None
    else:
        opacity = UPRIGHT[orientation](shares[..., -1:])[..., 0]
        np.testing.assert_allclose(alpha, opacity * 255, atol=1.01)


def rounded(shares, bits):
    return np.rint(shares * (2**bits - 1)) / (2**bits - 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color_type", [0, 2, 4, 6])
def test_png(bits, color_type):
    """8 times 2 files of each kind that there is."""
    if bits < 8 and color_type:
        return
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    for orientation, profile in PRODUCT:
        shares = rounded(pale(channels, seed=orientation), bits)
        levels = np.rint(shares * (2**bits - 1)).astype(f">u{max(1, bits // 8)}")
        if bits < 8:
            digits = (levels[..., 0, None] >> np.arange(bits)[::-1]) & 1
            rows = [np.packbits(row).tobytes() for row in digits.reshape(3, -1)]
        else:
            rows = [row.tobytes() for row in levels]
        chunks = [(b"eXIf", exif(orientation))]
        if profile:
            icc = DARK_GREY if channels < 3 else WIDE
            chunks.insert(0, (b"iCCP", b"x\0\0" + zlib.compress(icc)))
        data = png(rows, 5, bits, color_type, *chunks)
        check(data, shares, orientation, profile=profile, tolerance=2.6)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff(kind, channels):
    tifffile = pytest.importorskip("tifffile")
    for orientation, profile in PRODUCT:
        shares = pale(channels, seed=orientation)
        white = 1 if kind == "f4" else np.iinfo(kind).max
        values = (shares * white).astype(kind)
        icc = DARK_GREY if channels == 1 else WIDE
        file = io.BytesIO()
        tifffile.imwrite(
            file,
            values if channels > 1 else values[..., 0],
            photometric="rgb" if channels > 1 else "minisblack",
            extrasamples=["unassalpha"] if channels == 4 else None,
            extratags=[(274, "H", 1, orientation, True)],
            iccprofile=icc if profile else None,
        )
        check(file.getvalue(), shares, orientation, profile=profile, tolerance=2.6)


@pytest.mark.parametrize("codec", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_others(codec, mode):
    """JPEG and AVIF in flat blocks, as they lose details."""
    if (mode == "RGBA" and codec == "JPEG") or (mode in ("L", "CMYK") and codec != "JPEG"):
        return
    channels = {"CMYK": 3}.get(mode, len(mode))
    for orientation, profile in PRODUCT:
        if profile and mode == "CMYK":
            continue
        shares = np.kron(rounded(pale(channels, seed=orientation), 8), np.ones((8, 8, 1)))
        levels = np.rint(shares * 255).astype(np.uint8)
        image = Image.fromarray(levels[..., 0] if channels == 1 else levels)
        if mode == "CMYK":
            image = image.convert("CMYK")
        options = {"lossless": True, "exact": True} if codec == "WEBP" else {"quality": 100}
        options |= {"subsampling": "4:4:4"} if codec != "WEBP" else {}
        options |= {"exif": b"Exif\0\0" + exif(orientation)}
        if profile:
            options["icc_profile"] = DARK_GREY if channels == 1 else WIDE
        file = io.BytesIO()
        image.save(file, codec, **options)
        check(file.getvalue(), shares, orientation, profile=profile, tolerance=5)


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_what_is_saved_is_loaded_again(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    deep = suffix in (".png", ".tif", ".tiff")
    cases = itertools.product((8, 16), (b"", WIDE), (False, True), ("", "note"))
    for number, (bits, profile, transparent, note) in enumerate(cases):
        if bits == 16 and (profile or not deep):
            continue
        shares = np.kron(pale(4, seed=number), np.ones((8, 8, 1)))
        color, alpha = shares[..., :3].astype(np.float32), np.rint(shares[..., 3] * 255)
        extras = Extras(alpha=alpha.astype(np.uint8) if transparent else None, profile=profile)
        save_image(path, color, bits=bits, note=note, extras=extras)
        opacity = alpha[..., None] / 255 if transparent and "jp" not in suffix else 1
        expected = 255 * color * opacity + (1 - opacity) * BACKGROUND_LEVELS
        found = load_image(path, background=BACKGROUND) * 255
        inner = np.s_[4::8, 4::8]  # codecs that lose details do so at edges
        np.testing.assert_allclose(found[inner], expected[inner], atol=2.6 if deep else 6)
