"""Colors as one sees them, and the colors of one image moved to those of another."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.errors import InputError

ColorMatch = Literal["symmetric", "cholesky", "pca"]
_Moments = tuple[Float[np.ndarray, "*batch 1 1 3"], Float[np.ndarray, "*batch 3 3"]]

# Björn Ottosson, "A perceptual color space for image processing" (2020): linear sRGB to the cones'
# responses, and their cube roots to lightness and the two opponent colors.
_CONES = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
_OPPONENT = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)
# Added to the variances of both images, so that a gray or constant one has a root: that of a
# deviation of 0.01.
_LEAST = 1e-4


def to_oklab(srgb: Float[Array | np.ndarray, "*image 3"]) -> Float[Array, "*image 3"]:
    """Take sRGB in [0, 1] to Oklab, whose distances are about as seen.

    Returns:
      Lightness in [0, 1], and two opponent colors, which are 0 for gray.
    """
    color = jnp.asarray(srgb)
    linear = jnp.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return _times(jnp.cbrt(_times(linear, _CONES)), _OPPONENT)


def from_oklab(lab: Float[Array, "*image 3"]) -> Float[Array, "*image 3"]:
    """Invert `to_oklab`; colors that sRGB lacks are clipped to [0, 1]."""
    cones = _times(lab, np.linalg.inv(_OPPONENT)) ** 3
    linear = jnp.clip(_times(cones, np.linalg.inv(_CONES)), 0, 1)
    return jnp.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@jax.jit
def gray(image: Float[Array, "*image 3"]) -> Float[Array, "*image 3"]:
    """Return the image without its colors, but with its lightness."""
    lab = to_oklab(image)
    return from_oklab(lab.at[..., 1:].set(0))


@jax.jit
def gray_like(
    style: Float[Array, "*batch _ _ 3"], content: Float[Array, "*content _ _ 3"]
) -> Float[Array, "*both _ _ 3"]:
    """Return a style image without its colors; its lightness has the mean and deviation of another.

    Source: Gatys et al., arXiv 1606.05897, section 4.
    """
    style, content = _aligned(style, content)
    light, wanted = to_oklab(style)[..., :1], to_oklab(content)[..., :1]
    mean, deviation = (f(light, (-3, -2), keepdims=True) for f in (jnp.mean, jnp.std))
    goal, spread = (f(wanted, (-3, -2), keepdims=True) for f in (jnp.mean, jnp.std))
    light = jnp.clip((light - mean) * spread / jnp.maximum(deviation, _LEAST**0.5) + goal, 0, 1)
    return from_oklab(jnp.concatenate([light, jnp.zeros_like(light), jnp.zeros_like(light)], -1))


@jax.jit
def with_colors(
    picture: Float[Array, "*image 3"], colors: Float[Array, "*image 3"]
) -> Float[Array, "*image 3"]:
    """Return an image with the lightness of a picture and the colors of another of its shape."""
    lightness = to_oklab(picture)[..., :1]
    return from_oklab(jnp.concatenate([lightness, to_oklab(colors)[..., 1:]], -1))


def match_colors(
    image: Float[Array | np.ndarray, "*batch _ _ 3"],
    like: Float[Array | np.ndarray, "*_ _ _ 3"] | Sequence[Float[Array | np.ndarray, "*_ _ _ 3"]],
    *,
    shares: Sequence[float] = (),
    how: ColorMatch = "symmetric",
) -> Float[Array, "*both _ _ 3"]:
    """Move the colors of an image linearly, so that their mean and covariance are those of another.

    x ↦ A (x - μ) + ν with A Σ Aᵀ = Φ, where μ, Σ are of the image and ν, Φ of the other.

    Args:
      image: sRGB in [0, 1].
      like: sRGB in [0, 1], of any size; each of a batch is for its own image, or for the only one.
        A list or a tuple of images stands for the mixture of their colors, as in a collage.
      shares: of the images in the mixture, one for each; equal if not given.
      how: which root. symmetric: A = Φ^½ Σ^-½; cholesky: A = L M⁻¹ with Φ = L Lᵀ, Σ = M Mᵀ; pca: A
        maps the principal axes of Σ to those of Φ, in the order of their variances, and in the
        direction that turns them less.

    Returns:
      sRGB, clipped to [0, 1].

    Raises:
      InputError: if the shares are not one for each image.

    Source: Gatys et al., arXiv 1606.05897, section 3 (symmetric and cholesky there); also arXiv
    1611.07865. Deviation: to both covariances 1e-4 is added on the diagonal.
    """
    others: list[Any] = list(like) if isinstance(like, list | tuple) else [like]
    if shares and len(shares) != len(others):
        raise InputError(
            f"there are {len(shares)} shares for {len(others)} images; give one for each"
        )
    moved, *others = _aligned(jnp.asarray(image), *others)
    mean, covariance = _moments(moved)
    goal, wanted = _mixed(list(map(_moments, others)), shares or [1.0] * len(others))
    root, new_root = _root(covariance, how), _root(wanted, how)
    if how == "pca":  # an axis has two directions; the one is taken that turns colors less
        new_root *= np.where((root * new_root).sum(-2, keepdims=True) < 0, -1, 1)
    transform = new_root @ np.linalg.inv(root)
    moved = moved - jnp.asarray(mean, moved.dtype)
    moved = _times(moved, np.swapaxes(transform, -1, -2)[..., None, :, :])
    return jnp.clip(moved + jnp.asarray(goal, moved.dtype), 0, 1)


def _times(
    colors: Float[Array, "*image 3"], matrix: Float[np.ndarray, "*batch 3 3"]
) -> Float[Array, "*both 3"]:
    """Return colors times a matrix, in the colors' type; accelerators would round more."""
    return jnp.matmul(colors, jnp.asarray(matrix, colors.dtype), precision="highest")


def _aligned(*images: Float[Array | np.ndarray, "*_ _ _ 3"]) -> list[Any]:
    """Return all with as many axes, so that one image goes with each of a batch."""
    axes = max(image.ndim for image in images)
    return [image[(None,) * (axes - image.ndim)] for image in images]


def _moments(image: Float[Array | np.ndarray, "*batch height width 3"]) -> _Moments:
    """Return the mean and the covariance of an image's colors, in float64."""
    pixels = np.asarray(image, np.float64)
    mean = pixels.mean((-3, -2), keepdims=True)
    flat = (pixels - mean).reshape(*pixels.shape[:-3], -1, 3)
    covariance = np.swapaxes(flat, -1, -2) @ flat / flat.shape[-2]
    return mean, covariance + _LEAST * np.eye(3)


def _mixed(moments: Sequence[_Moments], shares: Sequence[float]) -> _Moments:
    """Return the mean and the covariance of the mixture of several images' colors."""
    parts = [share / sum(shares) for share in shares]
    mean: Any = sum(part * own for part, (own, _) in zip(parts, moments, strict=True))
    covariance: Any = 0.0
    for part, (own, around) in zip(parts, moments, strict=True):
        apart = (own - mean)[..., 0, :, :]
        covariance = covariance + part * (around + np.swapaxes(apart, -1, -2) @ apart)
    return mean, covariance


def _root(
    covariance: Float[np.ndarray, "*batch 3 3"], how: ColorMatch
) -> Float[np.ndarray, "*batch 3 3"]:
    """Return R with R Rᵀ = covariance."""
    root: np.ndarray
    if how == "cholesky":
        root = np.linalg.cholesky(covariance)
        return root
    variances, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(variances)[..., None, :]
    return root if how == "pca" else root @ np.swapaxes(axes, -1, -2)
