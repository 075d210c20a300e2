"""Masks from image files."""

import numpy as np
import pytest
from PIL import Image

from nst_jax import InputError, load_color_map, load_mask
from nst_jax.io.masks import COLORS


def save(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def test_levels_of_gray_and_transparency(tmp_path):
    gray = save(tmp_path / "gray.png", [[0, 51, 255]])
    np.testing.assert_allclose(load_mask(gray), [[0, 0.2, 1]], atol=1e-6)
    clear = save(tmp_path / "clear.png", [[[255, 255, 255, 255], [255, 255, 255, 0]]])
    np.testing.assert_array_equal(load_mask(clear), [[1, 0]])
    assert load_mask(gray, shape=(4, 6)).shape == (4, 6)


def test_a_map_without_colors_has_no_regions(tmp_path):
    ramp = np.arange(256)[None].repeat(9, 0)
    assert load_color_map(save(tmp_path / "gray.png", ramp)) == {}
    tinted = np.stack([ramp, ramp, np.minimum(255, ramp + 20)], -1)  # of a warm scan, say
    assert load_color_map(save(tmp_path / "tinted.png", tinted)) == {}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_regions_in_their_order_whatever_the_edges(tmp_path, suffix):
    wanted = ["red", "blue", "yellow", "white"]
    bands = np.zeros((40, 200, 3))
    for n, name in enumerate(reversed(wanted)):
        bands[:, 40 * n : 40 * (n + 1)] = 255 * np.asarray(COLORS[name])
    image = Image.fromarray(bands.astype(np.uint8))
    # Twice as large, with edges through colors such as orange and pink.
    image.resize((400, 80), Image.Resampling.BICUBIC).save(tmp_path / f"map{suffix}")
    found = load_color_map(tmp_path / f"map{suffix}")
    assert list(found) == wanted
    for n, name in enumerate(reversed(wanted)):
        mask = found[name]
        assert mask[:, 80 * n + 8 : 80 * (n + 1) - 8].all()
        assert not mask[:, : max(0, 80 * n - 8)].any()
        assert not mask[:, 80 * (n + 1) + 8 :].any()
    assert sum(found.values()).max() == 1


def test_a_mask_has_no_colors(tmp_path):
    red = save(tmp_path / "red.png", [[[255, 0, 0]] * 5] * 4)
    with pytest.raises(InputError, match=r"red.png' as a mask: it has colors; give levels of gray"):
        load_mask(red)


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(InputError, match="not a readable image"):
        load_color_map(tmp_path / "a.png")
