"""Images that come as arrays, of JAX, NumPy, PyTorch or any other library that knows DLPack."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from nst_jax.errors import InputError


@runtime_checkable
class SupportsDLPack(Protocol):
    """An array of another library, such as a tensor of PyTorch."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


ImageLike = ArrayLike | SupportsDLPack


def as_image(
    image: ImageLike, *, role: str, dtype: DTypeLike = jnp.float32
) -> Float[Array, "*batch height width 3"]:
    """Return an image as an array of JAX in `dtype`.

    Args:
      image: floats in [0, 1], HWC or NHWC, of any library. A later change of it changes nothing.
      role: what the errors call it.
      dtype: the result's type.

    Raises:
      InputError: if it has another shape or no floats, or PyTorch follows its gradient.
    """
    array = _imported(image, role)
    if (
        array.ndim in (3, 4)
        and array.shape[-1] == 3
        and array.size
        and jnp.issubdtype(array.dtype, jnp.floating)
    ):
        return array.astype(dtype)
    hint = ""
    if array.ndim in (3, 4) and array.shape[-3] == 3 != array.shape[-1]:
        hint = "; the channels come last here, not first"
    elif array.dtype == np.uint8:
        hint = "; divide levels by 255"
    raise InputError(
        f"the {role} image is {array.dtype}{list(array.shape)}; allowed are floats in [0, 1] "
        f"of shape (height, width, 3) or (n, height, width, 3){hint}"
    )


def _imported(image: Any, role: str) -> Array:
    if isinstance(image, jax.Array | np.ndarray) or not hasattr(image, "__dlpack__"):
        return jnp.asarray(image)
    try:
        return _copied(np.asarray(jax.dlpack.from_dlpack(image)))
    except (BufferError, RuntimeError) as error:
        try:  # NumPy knows strides that leave gaps, as those of slices
            return _copied(np.asarray(image))
        except (BufferError, RuntimeError, TypeError):
            reason = str(error).splitlines()[0]
            raise InputError(f"the {role} image cannot be taken over: {reason}") from None


def _copied(array: np.ndarray) -> Array:
    # PyTorch changes its tensors in place, and a run looks at them for minutes. By way of NumPy the
    # copy is not bound to a device: programs would be compiled once more for one that is.
    return jnp.array(array, copy=True)
