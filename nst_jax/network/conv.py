"""The network's one expensive operation: a 3x3 convolution with frozen weights and its gradient.

Two algorithms give the same map: the direct sum of products, and Winograd's, with a quarter of the
multiplications and half a digit less accuracy (`nst_jax.network.winograd`).
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.network import winograd

Convolution = Literal["direct", "winograd"]


class _Residuals(NamedTuple):
    x: Array
    kernel: Array
    bias: Array | None
    turned: Array | None
    transformed: winograd.TransformedKernel | None
    rectified: Array | None


def _correlate(x: Array, kernel: Array) -> Array:
    if x.shape[1] * x.shape[2] < kernel.shape[0] * kernel.shape[1]:
        return _multiply(x, kernel)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _multiply(x: Array, kernel: Array) -> Array:
    """Correlate a map with fewer positions than the kernel, by one matrix product.

    XLA's CPU backend computes such a convolution in nested loops, up to 100 times as slow.
    """
    _, height, width, inputs = x.shape
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    product: Array = jnp.concatenate(parts, axis=-1) @ kernel.reshape(9 * inputs, -1)
    return product


def pays_for(inputs: int, outputs: int) -> bool:
    """Say whether Winograd's algorithm can be faster for these numbers of channels.

    Measured on two cores with AVX-512 (docs/performance.md): with 64 channels on both sides the
    transforms cost what the products save.
    """
    return inputs * outputs >= 64 * 128


def turn(kernel: Float[Array, "3 3 inputs outputs"]) -> Float[Array, "3 3 outputs inputs"]:
    """Return the gradient's kernel: turned by 180°, with inputs and outputs exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def conv3x3(
    x: Float[Array, "n h w inputs"],
    kernel: Float[Array, "3 3 inputs outputs"],
    bias: Float[Array, " outputs"] | None = None,
    *,
    turned: Float[Array, "3 3 outputs inputs"] | None = None,
    transformed: winograd.TransformedKernel | None = None,
    rectify: bool = False,
) -> Float[Array, "n h w outputs"]:
    """Correlate a zero-padded map with a 3x3 kernel, as the convolutions of deep learning do.

    The gradient with respect to `x` is itself a convolution in the same layout, with the kernel
    turned by 180° and its channels exchanged. JAX's own rule has the kernel in another layout
    ("HWOI"), for which XLA's CPU backend has a fast form only outside of loops: inside a `while` or
    `scan` the step of this project took 2.5 to 4 times as long. With `rectify`, the map before the
    ReLU is not kept for the gradient. Reverse mode only, as `jax.custom_vjp` is.

    Args:
      x: the map.
      kernel: the kernel.
      bias: added to each position.
      turned: `turn(kernel)`, if it is already computed; it gets no gradient.
      transformed: `winograd.transform_kernel(kernel)`, to use Winograd's algorithm; it gets
        no gradient.
      rectify: apply a ReLU to the result, whose derivative at zero is zero.
    """
    return _conv3x3(x, kernel, bias, turned, transformed, rectify)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _conv3x3(
    x: Array,
    kernel: Array,
    bias: Array | None,
    turned: Array | None,
    transformed: winograd.TransformedKernel | None,
    rectify: bool,
) -> Array:
    if transformed is not None:
        fast: Array = winograd.convolve(x, transformed, bias, rectify=rectify)
        return fast
    out = _correlate(x, kernel)
    out = out if bias is None else out + bias.reshape(1, 1, 1, -1)
    return jax.nn.relu(out) if rectify else out


def _forward(
    x: Array,
    kernel: Array,
    bias: Array | None,
    turned: Array | None,
    transformed: winograd.TransformedKernel | None,
    rectify: bool,
) -> tuple[Array, _Residuals]:
    out = _conv3x3(x, kernel, bias, turned, transformed, rectify)
    return out, _Residuals(x, kernel, bias, turned, transformed, out if rectify else None)


def _backward(
    rectify: bool, saved: _Residuals, cotangent: Array
) -> tuple[Array, Array, Array | None, None, None]:
    if saved.rectified is not None:
        # XLA would rewrite `> 0` in terms of the map before the ReLU and keep both maps; on a GPU
        # it would then not fuse the ReLU into the convolution.
        cotangent = jnp.where(saved.rectified != 0, cotangent, 0)
    if saved.transformed is not None:
        to_x = winograd.convolve(cotangent, saved.transformed, turned=True)
    else:
        turned = turn(saved.kernel) if saved.turned is None else saved.turned
        to_x = _correlate(cotangent, turned)
    # The compiler drops these two gradients where they are unused, as in style transfer.
    by_kernel = jax.linear_transpose(lambda kernel: _correlate(saved.x, kernel), saved.kernel)
    (to_kernel,) = by_kernel(cotangent)
    to_bias = None if saved.bias is None else cotangent.sum((0, 1, 2))
    return to_x, to_kernel, to_bias, None, None


_conv3x3.defvjp(_forward, _backward)
