"""Images given as arrays of JAX, NumPy, PyTorch or any other library that supports DLPack."""

import hashlib
import math
import os
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, UInt

from nst_jax.errors import InputError


@runtime_checkable
class SupportsDLPack(Protocol):
    """An array of another library, such as a tensor of PyTorch."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


ImageLike = ArrayLike | SupportsDLPack

_ALLOWED = "floats in [0, 1] of shape (height, width, 3) or (n, height, width, 3)"
# How far outside [0, 1] a value may be, since sharp filters overshoot at edges.
OVERSHOOT = 0.5
_ROWS = 256  # that are rounded at once


def as_image(
    image: ImageLike, *, role: str, dtype: DTypeLike = jnp.float32
) -> Float[Array, "*batch height width 3"]:
    """Return an image as a JAX array in `dtype`.

    Args:
      image: floats in [0, 1], HWC or NHWC, of any library; copied unless it is a JAX array.
      role: what error messages call the image.
      dtype: the result's dtype.

    Raises:
      InputError: if the image has another shape, holds no floats, or is a PyTorch tensor that
        requires a gradient; or if `check_values` raises it.
    """
    array = _imported(image, f"{role} image", _ALLOWED)
    if (
        array.ndim in (3, 4)
        and array.shape[-1] == 3
        and array.size
        and jnp.issubdtype(array.dtype, jnp.floating)
    ):
        check_values(array, name=f"the {role} image")
        return array.astype(dtype)
    hint = ""
    if array.ndim in (3, 4) and array.shape[-3] == 3 != array.shape[-1]:
        hint = "; move the channels to the last axis"
    elif array.dtype == np.uint8:
        hint = "; divide levels by 255"
    raise InputError(
        f"the {role} image is {array.dtype}{list(array.shape)}; allowed are {_ALLOWED}{hint}"
    )


def as_mask(
    mask: ImageLike, *, role: str, shape: tuple[int, int], dtype: DTypeLike = jnp.float32
) -> Float[Array, "*batch height width r"]:
    """Return a mask, or masks of several regions, as a JAX array with an axis of regions.

    Args:
      mask: floats in [0, 1], (height, width) or (*batch, height, width, r), of any library.
      role: what error messages call the mask.
      shape: (height, width) of the image that it belongs to.
      dtype: the result's dtype.

    Raises:
      InputError: if the mask has another shape, or holds other values. While JAX traces, values are
        not checked.
    """
    height, width = shape
    allowed = f"floats of shape ({height}, {width}) or ({height}, {width}, regions), as its image"
    array = _imported(mask, role, allowed)
    masks = array[..., None] if array.ndim == 2 else array
    if masks.ndim not in (3, 4) or masks.shape[-3:-1] != shape or not masks.size:
        raise InputError(f"the {role} has the shape {list(array.shape)}; allowed are {allowed}")
    fine = bool(jnp.issubdtype(masks.dtype, jnp.floating))
    if fine and not isinstance(masks, jax.core.Tracer):
        fine = bool(((masks >= 0) & (masks <= 1)).all())
    if not fine:
        raise InputError(f"the {role} must be floats in [0, 1]; divide levels by 255")
    return masks.astype(dtype)


def check_values(image: Array | np.ndarray, *, name: str) -> None:
    """Check that the values are those of an sRGB image; nothing is checked while JAX traces.

    Args:
      image: floats.
      name: what the error message calls the image.

    Raises:
      InputError: if a value is not finite or more than `OVERSHOOT` outside [0, 1], as in levels
        of 0 to 255 or in an image normalized for a network.
    """
    if isinstance(image, jax.core.Tracer):
        return
    least, most = (float(x) for x in (image.min(), image.max()))  # NaN, if there is one
    if least >= -OVERSHOOT and most <= 1 + OVERSHOOT:
        return
    if not math.isfinite(most - least):
        what = "values that are infinite or not a number"
        advice = "find out where they come from"
    else:
        what = f"values from {least:g} to {most:g}"
        advice = "divide levels by 255" if least >= 0 else "undo the normalization"
    raise InputError(f"{name} has {what}; allowed are sRGB values in [0, 1]: {advice}")


def digest(tree: Any) -> str:
    """Return a digest of a pytree of arrays and of their places in it."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = (np.ascontiguousarray(leaf) for leaf in leaves)
    found = "".join([str(structure), *map(digest_array, arrays)])
    return hashlib.sha256(found.encode()).hexdigest()


def digest_array(array: np.ndarray) -> str:
    """Return a digest of the values, the type and the shape of an array that is contiguous."""
    found = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    found.update(array.view(np.uint8).data)
    return found.hexdigest()


def _imported(image: Any, name: str, allowed: str) -> Array:
    if isinstance(image, jax.Array) or hasattr(image, "__jax_array__"):  # immutable, so not copied
        return jnp.asarray(image)
    if isinstance(image, str | bytes | os.PathLike):
        kind = type(image).__name__
        raise InputError(f"the {name} is {image!r}, a {kind}; load it with load_image first")
    if isinstance(image, np.ndarray) or not hasattr(image, "__dlpack__"):
        try:
            return _copied(np.asarray(image))
        except (TypeError, ValueError):
            raise InputError(
                f"the {name} is a {type(image).__name__}; allowed are {allowed}"
            ) from None
    try:
        return _copied(np.asarray(jax.dlpack.from_dlpack(image)))
    except (BufferError, RuntimeError) as error:
        try:  # NumPy supports the strides of slices, which leave gaps
            return _copied(np.asarray(image))
        except (BufferError, RuntimeError, TypeError):
            reason = str(error).splitlines()[0]
            raise InputError(f"the {name} cannot be read as an array: {reason}") from None


def _copied(array: ArrayLike) -> Array:
    # The caller may change a NumPy or PyTorch array in place while a run still reads it. NumPy
    # makes the copy: one by JAX (0.10) still shows a change that follows at once. The result is
    # also not committed to a device; programs would be compiled again for a committed array.
    return jnp.asarray(np.array(array))


def rounded(
    image: Float[np.ndarray, "height width 3"], *, bits: int = 8
) -> UInt[np.ndarray, "height width 3"]:
    """Return sRGB values, clipped to [0, 1], as levels of 8 or of 16 bits."""
    white = 2**bits - 1
    levels: UInt[np.ndarray, "height width 3"] = np.empty(image.shape, f"u{bits // 8}")
    for first in range(0, len(image), _ROWS):  # whole copies could take gigabytes
        rows = slice(first, first + _ROWS)
        levels[rows] = np.rint(np.clip(image[rows], 0, 1) * white)
    return levels
