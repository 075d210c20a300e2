"""The terms of style transfer: pure functions of feature maps, each with its normalizer cited.

All of them sum in float32 at least, whatever the feature maps are stored in: Gram sums overflow
float16, and bfloat16 would lose them. Leading batch dimensions are kept, so each image of a batch
has its own value.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def accumulator(x: Array) -> np.dtype:
    """Return the type to sum in: float32, or that of `x` if it is wider."""
    return x.dtype if x.dtype.itemsize > 4 else np.dtype(np.float32)


@jax.custom_vjp
def gram_matrix(features: Float[Array, "*batch h w c"]) -> Float[Array, "*batch c c"]:
    """Sum over positions of the products of channels, G = F Fᵀ with F the C x (H W) map.

    Gatys et al., arXiv 1508.06576, eq. 3. It is not divided by anything here; the losses that use
    it name their own normalizer. The gradient is (S + Sᵀ) F for a cotangent S, one product in the
    layout of the map; JAX's own rule makes two in another layout and transposes them. Reverse mode
    only, as `jax.custom_vjp` is.
    """
    return jnp.einsum(
        "...hwc,...hwd->...cd", features, features, preferred_element_type=accumulator(features)
    )


def _gram_forward(features: Array) -> tuple[Array, Array]:
    return gram_matrix(features), features


def _gram_backward(features: Array, cotangent: Array) -> tuple[Array]:
    both = (cotangent + cotangent.swapaxes(-1, -2)).astype(features.dtype)
    return (jnp.einsum("...hwc,...cd->...hwd", features, both),)


gram_matrix.defvjp(_gram_forward, _gram_backward)


def content_loss(
    features: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch"]:
    """Mean squared difference of two feature maps over channels and positions.

    Gatys et al., arXiv 1508.06576, eq. 1, has half the sum instead of the mean.
    """
    acc = accumulator(features)
    return jnp.mean((features.astype(acc) - target.astype(acc)) ** 2, axis=(-3, -2, -1))


def style_loss(
    features: Float[Array, "*batch h w c"], target: Float[Array, "*batch c c"]
) -> Float[Array, "*batch"]:
    """Mean squared difference between the features' Gram matrix and `target`, over C H W.

    The normalizer of the PyTorch program that this project reimplements: mean over the C x C
    entries, divided by C H W of the *target image's* map. Gatys et al., arXiv 1508.06576, eq. 4,
    divide the sum by 4 C² (H W)² instead. Not independent of the image's size: G grows with H W, so
    this term grows in proportion to H W.
    """
    height, width, channels = features.shape[-3:]
    difference = gram_matrix(features) - target
    return jnp.mean(difference**2, axis=(-2, -1)) / (channels * height * width)
