"""What a picture's file holds beside 8 bits per color, against readers that are not Pillow."""

import json

import numpy as np
import pytest
from PIL import Image, ImageCms

from image_bytes import DARK_GREY, P3, SRGB, WIDE
from nst_jax.errors import InputError
from nst_jax.io.extras import Extras, load_extras
from nst_jax.io.images import WRITABLE_SUFFIXES, check_output, image_note, load_image, save_image


def noise(height, width, *, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def decoded(path):
    """Decode a file with FFmpeg, in its own number of bits."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray()


# Profiles


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
@pytest.mark.parametrize("bits", [8, 16])
def test_the_profile_of_srgb_is_in_the_file(tmp_path, suffix, bits):
    if bits == 16 and suffix not in (".png", ".tif"):
        return
    save_image(tmp_path / f"a{suffix}", noise(5, 4), bits=bits)
    with Image.open(tmp_path / f"a{suffix}") as image:
        data = image.info["icc_profile"]
    with (tmp_path / "a.icc").open("wb") as file:
        file.write(data)
    found = ImageCms.getOpenProfile(str(tmp_path / "a.icc")).profile
    assert "sRGB" in found.profile_description
    assert found.creation_date.year == 2000  # not today's: the same picture has the same bytes
    # IEC 61966-2-1, adapted to D50.
    red, green, blue = found.red_colorant, found.green_colorant, found.blue_colorant
    wanted = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)]
    np.testing.assert_allclose([red[0], green[0], blue[0]], wanted, atol=2e-4)


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_the_profile_of_the_content_comes_back(tmp_path, suffix):
    """Colors go through linear light to the primaries and the curve of the profile."""
    Image.new("RGB", (3, 2)).save(tmp_path / "content.png", icc_profile=WIDE)
    extras = load_extras(tmp_path / "content.png", profile="input")
    image = np.kron(noise(3, 4), np.ones((16, 16, 1), np.float32))  # flat blocks survive JPEG
    save_image(tmp_path / f"a{suffix}", image, extras=extras)
    with Image.open(tmp_path / f"a{suffix}") as found:
        assert found.info["icc_profile"] == WIDE
        levels = np.asarray(found.convert("RGB"), float)
    linear = np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    expected = 255 * np.sqrt(np.clip(linear @ (np.linalg.inv(P3) @ SRGB).T, 0, 1))
    assert np.abs(expected - 255 * image).max() > 15
    inner = np.s_[8::16, 8::16]
    tolerance = 1.5 if suffix in (".png", ".tif", ".tiff") else 5
    np.testing.assert_allclose(levels[inner], expected[inner], atol=tolerance)
    np.testing.assert_allclose(load_image(tmp_path / f"a{suffix}")[inner], image[inner], atol=0.06)


@pytest.mark.parametrize("profile", [b"nonsense", WIDE[:200], DARK_GREY, None])
def test_a_profile_of_no_rgb_colors_is_no_profile_for_a_picture(tmp_path, profile):
    Image.new("RGB", (3, 2)).save(tmp_path / "content.png", icc_profile=profile)
    assert load_extras(tmp_path / "content.png", profile="input") == Extras()


def test_another_profile_has_8_bits(tmp_path):
    with pytest.raises(InputError, match="another profile than sRGB is for 8 bits per color"):
        save_image(tmp_path / "a.png", noise(2, 3), bits=16, extras=Extras(profile=WIDE))


# 16 bits


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (255, 2), (256, 3), (257, 5), (600, 70)], ids=str
)
def test_16_bits_are_rounded_once(tmp_path, suffix, shape):
    image = noise(*shape) * 1.2 - 0.1
    save_image(tmp_path / f"a{suffix}", image, bits=16, note="é & <b>")
    wanted = np.clip(image.astype(np.float64), 0, 1) * 65535
    found = decoded(tmp_path / f"a{suffix}")
    assert found.dtype == np.uint16
    np.testing.assert_allclose(found, wanted, atol=0.51)
    assert image_note(tmp_path / f"a{suffix}") == "é & <b>"
    # Pillow drops the low byte of a PNG file.
    np.testing.assert_allclose(load_image(tmp_path / f"a{suffix}") * 255, wanted / 257, atol=1)


def test_16_bits_where_they_cannot_be(tmp_path):
    for suffix in (".jpg", ".jpeg", ".webp", ".avif"):
        with pytest.raises(InputError, match=f"a file {suffix} has 8 bits per color, not 16"):
            check_output(tmp_path / f"a{suffix}", bits=16)
    with pytest.raises(InputError, match="bits is 12; allowed are 8 and 16"):
        check_output(tmp_path / "a.png", bits=12)
    assert not [*tmp_path.iterdir()]


def test_a_long_note_stands_beside_16_bits(tmp_path):
    for suffix in (".png", ".tif"):
        note = json.dumps({"IDAT": ["IDAT" * 9, "x" * 5000]})
        save_image(tmp_path / f"a{suffix}", noise(3, 4), bits=16, note=note)
        assert image_note(tmp_path / f"a{suffix}") == note


# Quality


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_a_lower_quality_takes_fewer_bytes_and_is_less_exact(tmp_path, suffix):
    image, sizes, errors = noise(40, 48), [], []
    for quality in (10, 60, 100):
        save_image(tmp_path / f"a{suffix}", image, quality=quality)
        sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        errors.append(np.abs(load_image(tmp_path / f"a{suffix}") - image).mean())
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True)
    save_image(tmp_path / f"a{suffix}", image)
    save_image(tmp_path / f"b{suffix}", image, quality=95)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("quality", [0, 101, -3, True])
def test_a_quality_that_is_none(tmp_path, quality):
    with pytest.raises(InputError, match="allowed are whole numbers from 1 to 100"):
        check_output(tmp_path / "a.jpg", quality=quality)


# Transparency


def soft_alpha(height=40, width=56):
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(255 * x * (1 - y)).astype(np.uint8)


def transparent_file(path, mode, alpha):
    """Write a file with this opacity; the alpha of a palette is of its colors."""
    gray = Image.fromarray(alpha)
    if mode == "P":  # color i has the opacity i
        image = Image.frombytes("P", gray.size, gray.tobytes())
        image.putpalette(np.repeat(np.arange(256), 3).tolist())
        image.save(path, transparency=bytes(range(256)))
    else:
        image = gray.convert(mode)
        image.putalpha(gray)
        image.save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_alpha_comes_back_in_the_size_of_the_picture(tmp_path, suffix, mode):
    extras = load_extras(transparent_file(tmp_path / "content.png", mode, soft_alpha()))
    np.testing.assert_array_equal(extras.alpha, soft_alpha())
    image = noise(20, 28)
    save_image(tmp_path / f"a{suffix}", image, extras=extras)
    with Image.open(tmp_path / f"a{suffix}") as found:
        assert found.mode == "RGBA"
        got = np.asarray(found).astype(float)
    tolerance = 3 if suffix == ".avif" else 0.51
    halves = soft_alpha().reshape(20, 2, 28, 2).mean((1, 3))
    np.testing.assert_allclose(got[..., 3], halves, atol=tolerance + 1.5)  # LANCZOS is no mean
    if suffix in (".png", ".tif"):
        np.testing.assert_allclose(got[..., :3], image * 255, atol=0.51)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_have_an_alpha_too(tmp_path, suffix):
    extras, image = Extras(alpha=soft_alpha(300, 9)), noise(300, 9)
    save_image(tmp_path / f"a{suffix}", image, bits=16, extras=extras, note="x")
    found = decoded(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(found[..., :3], image * 65535.0, atol=0.51)
    np.testing.assert_array_equal(found[..., 3], extras.alpha * 257.0)
    np.testing.assert_array_equal(load_extras(tmp_path / f"a{suffix}").alpha, extras.alpha)
    assert image_note(tmp_path / f"a{suffix}") == "x"


def test_what_is_opaque_has_no_alpha(tmp_path):
    opaque = np.full((5, 4), 255, np.uint8)
    extras = load_extras(transparent_file(tmp_path / "content.png", "RGBA", opaque))
    assert extras.alpha is None
    save_image(tmp_path / "a.png", noise(5, 4), extras=extras)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "RGB"
    save_image(tmp_path / "a.jpg", noise(40, 56), extras=Extras(alpha=soft_alpha()))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize(
    ("background", "color"),
    [
        ("white", 255),
        ("gray", 128),
        ("#204080", (32, 64, 128)),
        ("#f00", (255, 0, 0)),
    ],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_the_background(tmp_path, mode, background, color):
    path = transparent_file(tmp_path / "content.png", mode, soft_alpha())
    opacity = soft_alpha()[..., None] / 255
    expected = opacity * soft_alpha()[..., None] + (1 - opacity) * np.broadcast_to(color, 3)
    found = load_image(path, background=background) * 255
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize("background", ["whitish", "", "#12", "12"])
def test_a_background_that_is_no_color(tmp_path, background):
    with pytest.raises(InputError, match=f"'{background}' is no color; allowed are names of CSS"):
        load_image(tmp_path / "absent.png", background=background)
