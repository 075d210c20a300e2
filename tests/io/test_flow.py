"""Optical flow from files, and by OpenCV."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from nst_jax import InputError, compute_flow, load_flow

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install '.[film]'")


def test_a_file_that_another_program_has_written(tmp_path):
    flow = np.random.default_rng(0).normal(0, 9, (5, 7, 2)).astype(np.float32)
    path = tmp_path / "a.flo"
    assert cv2.writeOpticalFlow(str(path), flow)
    np.testing.assert_array_equal(load_flow(path), flow)


HEADER = struct.pack("<fii", 202021.25, 3, 2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no whole file .flo"),
        (HEADER[:9], "is no whole file .flo"),
        (HEADER + bytes(47), "is no whole file .flo"),
        (HEADER + bytes(49), "is no whole file .flo"),
        (b"PNG!" + HEADER[4:] + bytes(48), "is no whole file .flo"),
        (struct.pack("<fii", 202021.25, -3, -2) + bytes(48), "is no whole file .flo"),
        (struct.pack("<fii", 202021.25, 2**30, 2**30), "is no whole file .flo"),
        (HEADER + struct.pack("<12f", 1e10, *[0] * 11), "does not know all motion"),
        (HEADER + struct.pack("<12f", *[0] * 11, float("nan")), "does not know all motion"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, data, said):
    path = tmp_path / "a.flo"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        load_flow(path)
    assert str(caught.value).count("\n") == 0


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match=r"cannot read the flow 'absent\.flo': No such file"):
        load_flow(Path("absent.flo"))


def test_the_motion_of_a_picture_is_found():
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(70, 90, 3)), (2, 2, 0))
    texture = np.float32((texture - texture.min()) / np.ptp(texture))
    image, other = texture[4:-4, 4:-4], texture[2:-6, 7:-1]  # 3 px to the left, 2 px down
    flow = compute_flow(image, other)[8:-8, 8:-8]
    assert np.abs(flow - (-3, 2)).mean() < 0.1
    assert compute_flow(image[:12, :12], other[:12, :12]).shape == (12, 12, 2)


def test_what_is_missing_is_named(monkeypatch):
    image = np.zeros((11, 20, 3), np.float32)
    with pytest.raises(InputError, match=r"have 20x11 px; optical flow needs sides of at least 12"):
        compute_flow(image, image)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"optical flow needs cv2.*pip install '\.\[film\]'"):
        compute_flow(image, image)
