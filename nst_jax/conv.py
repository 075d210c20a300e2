"""The network's one expensive operation: a 3x3 convolution with frozen weights and its gradient.

Two algorithms give the same map: the direct sum of products, and Winograd's with a quarter of the
multiplications and a few digits less (`nst_jax.winograd`).
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax import winograd

Convolution = Literal["direct", "winograd"]
_Residuals = tuple[Array, Array, Array | None, Array | None, Array | None]


def _correlate(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pays_for(inputs: int, outputs: int) -> bool:
    """Say whether Winograd's algorithm can be the faster one between these numbers of channels."""
    return min(inputs, outputs) >= 32


def pays(shape: tuple[int, ...], outputs: int) -> bool:
    """Say whether Winograd's algorithm is the faster one for a map (n, h, w, inputs).

    Measured on two cores with AVX-512 (docs/performance.md): from 64 channels on it always is,
    except for maps of a few tiles, whose time goes into reading the four times larger kernels.
    """
    batch, height, width, inputs = shape
    tiles = batch * -(-height // winograd.TILE) * -(-width // winograd.TILE)
    return pays_for(inputs, outputs) and tiles >= 4


def conv3x3(
    x: Float[Array, "n h w inputs"],
    kernel: Float[Array, "3 3 inputs outputs"],
    bias: Float[Array, " outputs"] | None = None,
    *,
    transformed: Float[Array, "36 inputs outputs"] | None = None,
    rectify: bool = False,
) -> Float[Array, "n h w outputs"]:
    """Correlate a zero-padded map with a 3x3 kernel, as every deep-learning library's convolution.

    The gradient with respect to `x` is itself a convolution in the same layout, with the kernel
    turned around and its channels exchanged. JAX's own rule asks for it in another layout ("HWOI"),
    which XLA's CPU backend brings into its fast form only outside of loops: inside a `while` or
    `scan` the step of this project took 2.5 to 4 times as long. Of a rectified map only the result
    is kept for the gradient. Reverse mode only, as `jax.custom_vjp` is.

    Args:
      x: the map.
      kernel: the kernel.
      bias: added to each position.
      transformed: `winograd.transform_kernel(kernel)` where that algorithm is wanted; it is used
        where it pays. It has no gradient of its own.
      rectify: apply a ReLU to the result, whose derivative at zero is zero.
    """
    if transformed is not None and not pays(x.shape, kernel.shape[-1]):
        transformed = None
    return _conv3x3(x, kernel, bias, transformed, rectify)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _conv3x3(
    x: Array, kernel: Array, bias: Array | None, transformed: Array | None, rectify: bool
) -> Array:
    if transformed is not None:
        fast: Array = winograd.convolve(x, transformed, bias, rectify=rectify)
        return fast
    out = _correlate(x, kernel)
    out = out if bias is None else out + bias.reshape(1, 1, 1, -1)
    return jax.nn.relu(out) if rectify else out


def _forward(
    x: Array, kernel: Array, bias: Array | None, transformed: Array | None, rectify: bool
) -> tuple[Array, _Residuals]:
    out = _conv3x3(x, kernel, bias, transformed, rectify)
    return out, (x, kernel, bias, transformed, out if rectify else None)


def _backward(
    rectify: bool, residuals: _Residuals, cotangent: Array
) -> tuple[Array, Array, Array | None, None]:
    x, kernel, bias, transformed, out = residuals
    if out is not None:
        cotangent = jnp.where(out > 0, cotangent, 0)
    if transformed is not None:
        to_x = winograd.convolve(cotangent, transformed, turned=True)
    else:
        to_x = _correlate(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))
    # These two are dropped by the compiler where nobody asks for them, as in style transfer.
    (to_kernel,) = jax.linear_transpose(lambda k: _correlate(x, k), kernel)(cotangent)
    to_bias = None if bias is None else cotangent.sum((0, 1, 2))
    return to_x, to_kernel, to_bias, None


_conv3x3.defvjp(_forward, _backward)
