"""The network's one expensive operation: a 3x3 convolution with frozen weights and its gradient.

Two algorithms give the same map: the direct sum of products, and Winograd's with a quarter of the
multiplications and half a digit less (`nst_jax.network.winograd`).
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
    """Correlate a map of fewer positions than the kernel has, by one product of matrices.

    XLA's CPU backend has only nested loops for those, which take up to 100 times as long.
    """
    _, height, width, inputs = x.shape
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    product: Array = jnp.concatenate(parts, axis=-1) @ kernel.reshape(9 * inputs, -1)
    return product


def pays_for(inputs: int, outputs: int) -> bool:
    """Say whether Winograd's algorithm can be the faster one between these numbers of channels.

    Measured on two cores with AVX-512 (docs/performance.md): with 64 channels on both sides the
    transforms cost what the products save.
    """
    return inputs * outputs >= 64 * 128


def turn(kernel: Float[Array, "3 3 inputs outputs"]) -> Float[Array, "3 3 outputs inputs"]:
    """Return the kernel of the gradient: turned around, with inputs and outputs exchanged."""
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
      turned: `turn(kernel)`, if it is at hand; it has no gradient of its own.
      transformed: `winograd.transform_kernel(kernel)`, to compute by that algorithm; it has no
        gradient of its own either.
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
        # Of `> 0` XLA sees that it holds for the map before the ReLU too; then it keeps both maps,
        # and on a GPU the ReLU is no part of the convolution.
        cotangent = jnp.where(saved.rectified != 0, cotangent, 0)
    if saved.transformed is not None:
        to_x = winograd.convolve(cotangent, saved.transformed, turned=True)
    else:
        turned = turn(saved.kernel) if saved.turned is None else saved.turned
        to_x = _correlate(cotangent, turned)
    # These two are dropped by the compiler where nobody asks for them, as in style transfer.
    by_kernel = jax.linear_transpose(lambda kernel: _correlate(saved.x, kernel), saved.kernel)
    (to_kernel,) = by_kernel(cotangent)
    to_bias = None if saved.bias is None else cotangent.sum((0, 1, 2))
    return to_x, to_kernel, to_bias, None, None


_conv3x3.defvjp(_forward, _backward)
