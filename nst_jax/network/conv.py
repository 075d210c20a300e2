"""The network's one expensive operation: a 3x3 convolution with frozen weights and its gradient.

Two algorithms give the same map: the direct sum of products, and Winograd's, with a quarter of the
multiplications and half a digit less accuracy (`nst_jax.network.winograd`).
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from nst_jax.linear import linear_call, vary_like
from nst_jax.network import winograd

Convolution = Literal["direct", "winograd"]


class _Kernel(NamedTuple):
    """The forms of one kernel. Derivatives are taken in the first alone."""

    plain: Array
    turned: Array | None
    transformed: winograd.TransformedKernel | None


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
    ReLU is not kept for the gradient.

    Args:
      x: the map.
      kernel: the kernel.
      bias: added to each position.
      turned: `turn(kernel)`, if it is already computed; it gets no gradient.
      transformed: `winograd.transform_kernel(kernel)`, to use Winograd's algorithm; it gets
        no gradient.
      rectify: apply a ReLU to the result, whose derivative at zero is zero.
    """
    return _convolve("along", rectify, x, bias, _Kernel(kernel, turned, transformed))


Direction = Literal["along", "back"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _convolve(
    direction: Direction, rectify: bool, x: Array, bias: Array | None, kernel: _Kernel
) -> Array:
    """Correlate with the kernel, or on the way back with the kernel that the gradient needs."""
    back = direction == "back"
    if kernel.transformed is not None:
        fast: Array = winograd.convolve(x, kernel.transformed, bias, turned=back, rectify=rectify)
        return fast
    if back:
        out = _correlate(x, turn(kernel.plain) if kernel.turned is None else kernel.turned)
    else:
        out = _correlate(x, kernel.plain)
    out = out if bias is None else out + bias.reshape(1, 1, 1, -1)
    return jax.nn.relu(out) if rectify else out


def _along(kernel: _Kernel, x: Array) -> Array:
    return _convolve("along", False, x, None, kernel)


def _back(kernel: _Kernel, x: Array) -> Array:
    return _convolve("back", False, x, None, kernel)


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(
    direction: Direction, rectify: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    x, bias, kernel = primals
    to_x, to_bias, (to_kernel, *_) = tangents
    out = _convolve(direction, rectify, x, bias, kernel)
    terms = []
    if not _is_zero(to_x):
        both = (_along, _back) if direction == "along" else (_back, _along)
        terms.append(linear_call(*both, kernel, to_x, like=out))
    if not _is_zero(to_kernel):
        to_kernel = to_kernel if direction == "along" else turn(to_kernel)
        terms.append(_correlate_with_change(x, to_kernel, jax.typeof(out).sharding))
    tangent = sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)
    if not _is_zero(to_bias):
        tangent = tangent + to_bias.reshape(1, 1, 1, -1)
    if rectify:
        # XLA would rewrite `> 0` in terms of the map before the ReLU and keep both maps; on a GPU
        # it would then not fuse the ReLU into the convolution.
        tangent = jnp.where(out != 0, tangent, 0)
    return out, vary_like(tangent, out)


def _correlate_with_change(x: Array, kernel: Array, sharding: jax.NamedSharding) -> Array:
    correlate = _correlate
    if explicit := sharding.mesh.explicit_axes:
        # The transpose sums over the batch. JAX does not say how that is sharded; XLA does.
        correlate = jax.sharding.auto_axes(_correlate, axes=explicit, out_sharding=sharding)
    return correlate(x, kernel)


def _is_zero(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)
