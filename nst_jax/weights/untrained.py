"""A usable untrained network: drawn from a seed, and calibrated layer by layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.network.architecture import ARCHITECTURES, NetworkName
from nst_jax.network.conv import conv3x3
from nst_jax.network.vgg import normalize

# Side of the calibration image: block 5 still has 14 x 14 positions.
_SIDE = 224


def untrained_params(seed: int, network: NetworkName) -> dict[str, np.ndarray]:
    """Draw the parameters of a network at random, as float32 arrays by name.

    Kernels are Gaussian. Each layer is then scaled and shifted so that every channel has mean 0 and
    variance 1 before its ReLU on an image with the statistics of natural ones (a data-dependent
    initialization: Krähenbühl et al., arXiv 1511.06856). Without the calibration, the channels of
    deep layers become copies of each other, and Gram matrices say little. The calibration uses
    average pooling.

    Args:
      seed: determines the drawn kernels, and up to rounding the biases and scales.
      network: the network of the parameters.
    """
    rng = np.random.default_rng(seed)
    x = normalize(jnp.asarray(_natural_noise(rng)))
    params: dict[str, np.ndarray] = {}
    for conv in ARCHITECTURES[network].convs:
        kernel = rng.standard_normal((3, 3, conv.inputs, conv.outputs), np.float32)
        x, kernel, bias = _calibrate(x, jnp.asarray(kernel), pool=conv.pooled)
        params[f"{conv.name}.kernel"], params[f"{conv.name}.bias"] = map(np.asarray, (kernel, bias))
    return params


def _natural_noise(rng: np.random.Generator) -> Float[np.ndarray, "side side 3"]:
    """Make an image in [0, 1] whose amplitude falls as 1/f, as in natural images."""
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None, :])
    amplitude = 1 / np.maximum(frequency, 1 / _SIDE)[..., None]
    spectrum = np.fft.rfft2(rng.standard_normal((_SIDE, _SIDE, 3)), axes=(0, 1))
    noise = np.fft.irfft2(spectrum * amplitude, s=(_SIDE, _SIDE), axes=(0, 1))
    image: np.ndarray = np.clip(0.45 + 0.25 * noise / noise.std(), 0, 1).astype(np.float32)
    return image


@functools.partial(jax.jit, static_argnames="pool")
def _calibrate(
    x: Float[Array, "h w inputs"], kernel: Float[Array, "3 3 inputs outputs"], *, pool: bool
) -> tuple[Float[Array, "p q outputs"], Array, Float[Array, " outputs"]]:
    """Standardize one layer's channels over positions; return its output, kernel and bias."""
    if pool:
        height, width, channels = x.shape
        x = x.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))
    y = conv3x3(x[None], kernel)[0]
    mean, deviation = (f(y, axis=(0, 1), keepdims=True) for f in (jnp.mean, jnp.std))
    y = (y - mean) / deviation
    return jax.nn.relu(y), kernel / deviation[None], -(mean / deviation)[0, 0]
