"""Terms that look at the picture alone: pure functions of sRGB images, one value for each image."""

from typing import Literal, Protocol, assert_never, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TotalVariation = Literal["nine-point", "l2", "l1"]

_AXES = (-3, -2, -1)


@runtime_checkable
class Part(Protocol):
    """The part of a picture that a window of it answers for; see `nst_jax.scale.windows.Part`."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the whole picture."""

    def own(self, x: Array, *, before: int = 0) -> Array:
        """Set to zero what is not the part's."""


def total_variation(
    image: Float[Array, "*batch h w 3"],
    *,
    kind: TotalVariation = "nine-point",
    part: Part | None = None,
) -> Float[Array, "*batch"]:
    """Sum up how much neighboring pixels differ.

    Args:
      image: sRGB in [0, 1]; in other units a value grows with their square ("l1": with them).
      kind: "nine-point": mean squares of the differences to all eight neighbors, the diagonal ones
        with a quarter of the others' weight; the border is repeated once. It does not depend on the
        picture's size for equal slopes. crowsonkb/style-transfer-pytorch, `TVLoss`.
        "l2": half the sum of the squared differences to the right and lower neighbors, without the
        last row and column. jcjohnson/neural-style, `TVLoss`, which knows only its gradient; there
        in units of 256.
        "l1": the sum of the absolute differences to the right and lower neighbors.
        ProGamerGov/neural-style-pt, `TVLoss`; there in units of 256.
      part: the image is a window of a larger one; the values of all parts add up to the whole's.

    Returns:
      One value of at least 0 for each image of the batch.

    Examples:
      >>> import jax.numpy as jnp
      >>> from nst_jax import total_variation
      >>> flat = jnp.full((4, 6, 3), 0.5)
      >>> float(total_variation(flat))
      0.0
      >>> edge = flat.at[:, 3:].add(0.25)  # 4 rows of 3 colors
      >>> float(total_variation(edge, kind="l1"))
      3.0
    """
    match kind:
        case "nine-point":
            edges = [(0, 0)] * (image.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
            x = jnp.pad(image, edges, mode="edge")
            inner = x[..., 1:-1, 1:-1, :]
            straight = [x[..., 1:-1, 2:, :] - inner, x[..., 2:, 1:-1, :] - inner]
            diagonal = [
                x[..., 1:, 1:, :] - x[..., :-1, :-1, :],
                x[..., 1:, :-1, :] - x[..., :-1, 1:, :],
            ]
            # Their product can be more than an int32.
            height, width = map(float, part.shape if part else image.shape[-3:-1])
            along, across = straight[0] ** 2 + straight[1] ** 2, diagonal[0] ** 2 + diagonal[1] ** 2
            mean_along = _sum(along, part) / (3 * height * width)
            mean_across = _sum(across, part, before=1) / (3 * (height + 1) * (width + 1))
            return 2 * (mean_along / 3 + mean_across / 12)
        case "l2":
            right, down = _differences(image)
            right, down = right[..., :-1, :, :], down[..., :, :-1, :]
            return (_sum(right**2, part) + _sum(down**2, part)) / 2
        case "l1":
            right, down = _differences(image)
            return _sum(_magnitude(right), part) + _sum(_magnitude(down), part)
        case _:
            assert_never(kind)


def _sum(x: Array, part: Part | None, before: int = 0) -> Array:
    return jnp.sum(part.own(x, before=before) if part else x, axis=_AXES)


def _magnitude(x: Array) -> Array:
    # The gradient of jnp.abs is 1 at zero; torch's is 0, and a flat picture should stay flat.
    return x * jax.lax.stop_gradient(jnp.sign(x))


def _differences(image: Array) -> tuple[Array, Array]:
    return (
        image[..., :, 1:, :] - image[..., :, :-1, :],
        image[..., 1:, :, :] - image[..., :-1, :, :],
    )


def range_penalty(
    image: Float[Array, "*batch h w 3"], *, part: Part | None = None
) -> Float[Array, "*batch"]:
    """Mean squared distance of the values from [0, 1], where a picture can show them.

    Args:
      image: sRGB.
      part: see `total_variation`.
    """
    height, width = map(float, part.shape if part else image.shape[-3:-1])
    return _sum((image - jnp.clip(image, 0, 1)) ** 2, part) / (3 * height * width)
