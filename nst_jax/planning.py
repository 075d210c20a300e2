"""What a run will do: its scales, the sizes at which images are looked at, and whether they do."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from nst_jax.config import Config
from nst_jax.errors import InputError
from nst_jax.pyramid import Shape, Side, fit, scales, side_of

# The (height, width) of each scale in px, and the updates made there.
Plan = tuple[tuple[Shape, int], ...]


def plan(height: int, width: int, config: Config) -> Plan:
    """Return the (height, width) of each scale of a run and the updates made there."""
    shapes = scales(height, width, min_size=config.min_size, factor=config.scale_factor)
    if len(shapes) == 1:
        return ((shapes[0], config.steps),)
    steps = (config.first_steps, *(config.steps,) * (len(shapes) - 1))
    return tuple(zip(shapes, steps, strict=True))


def count_steps(height: int, width: int, config: Config) -> int:
    """Return how many updates a run makes at all scales together."""
    return sum(steps for _, steps in plan(height, width, config))


def style_shape(style: Shape, picture: Shape, config: Config) -> Shape:
    """Return the size at which a style image is looked at, beside a picture of some size."""
    if config.style_fit == "stretch":
        height, width = (max(1, round(side * config.style_scale)) for side in picture)
        return height, width
    side = config.style_fit
    return fit(*style, min(side_of(style, side), style_side(picture, config)), side=side)


def style_side(picture: Shape, config: Config) -> int:
    """Return how long the side that `style_fit` names may be, of a style image of its own shape."""
    if config.style_size:
        return config.style_size
    side: Side = "shortest" if config.style_fit == "shortest" else "longest"
    return max(1, round(side_of(picture, side) * config.style_scale))


def check_inputs(
    content: Float[np.ndarray | Array, "..."],
    styles: Sequence[Float[np.ndarray | Array, "..."]],
    config: Config,
) -> None:
    """Check that all images are large enough for the layers at every scale.

    Raises:
      InputError: if they are not, or the shares are not one for each style.
    """
    if config.style_blend and len(config.style_blend) != len(styles):
        raise InputError(
            f"style-blend has {len(config.style_blend)} shares, but the number of styles is "
            f"{len(styles)}; give one for each"
        )
    shape = shape_of(content)
    smallest, _ = plan(*shape, config)[0]
    where = "" if smallest == shape else f" at the first scale, {smallest[1]}x{smallest[0]} px"
    checks = [("content", smallest)]
    checks += [("style", style_shape(shape_of(style), smallest, config)) for style in styles]
    for role, size in checks:
        try:
            config.architecture.check_size(*size, config.taps)
        except InputError as error:
            advice = "; give a larger --min-size" if where else ""
            raise InputError(f"the {role} image{where}: {error}{advice}") from None


def shape_of(image: Float[np.ndarray | Array, "..."]) -> Shape:
    """Return an image's (height, width)."""
    height, width = image.shape[-3:-1]
    return height, width
