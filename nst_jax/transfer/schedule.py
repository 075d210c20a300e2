"""What a run will do: its scales, the sizes at which images are looked at, and whether they do."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from nst_jax.config import Config
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, fit, scales, side_of

# The (height, width) of each scale in px, and the updates made there.
Plan = tuple[tuple[Shape, int], ...]


def plan(height: int, width: int, config: Config) -> Plan:
    """Return the (height, width) of each scale of a run and the updates made there.

    The first one is large enough for the layers, also where a picture is much longer than high.
    """
    least = config.architecture.minimum_size(config.taps)
    *smaller, last = scales(height, width, min_size=config.min_size, factor=config.scale_factor)
    shapes = [*(shape for shape in smaller if min(shape) >= least), last]
    if len(shapes) == 1:
        return ((shapes[0], config.steps),)
    steps = (config.first_steps, *(config.steps,) * (len(shapes) - 1))
    return tuple(zip(shapes, steps, strict=True))


def count_steps(height: int, width: int, config: Config) -> int:
    """Return how many updates a run makes at all scales together."""
    return sum(steps for _, steps in plan(height, width, config))


def style_shape(style: Shape, picture: Shape, config: Config) -> Shape:
    """Return the size at which a style image is looked at, beside a picture of some size.

    It is large enough for the layers, as far as the image itself is.
    """
    if config.style_fit == "stretch":
        height, width = (max(1, round(side * config.style_scale)) for side in picture)
        return height, width
    side = config.style_fit
    wanted = config.style_size or max(1, round(side_of(picture, side) * config.style_scale))
    found = fit(*style, min(side_of(style, side), wanted), side=side)
    least = config.architecture.minimum_size(config.taps)
    if min(found) >= least or config.style_size or config.style_scale < 1:
        return found
    return fit(*style, min(min(style), least), side="shortest")


def check_inputs(content: Shape, styles: Sequence[Shape], config: Config) -> None:
    """Check that all images are large enough for the layers at every scale.

    Args:
      content: (height, width) of the picture in px.
      styles: of each style image as it is given.
      config: the settings.

    Raises:
      InputError: if they are not, the shares are not one for each style, or all weights are 0.
    """
    if config.style_blend and len(config.style_blend) != len(styles):
        raise InputError(
            f"style-blend has {len(config.style_blend)} shares, but the number of styles is "
            f"{len(styles)}; give one for each"
        )
    if not any((config.content_weight, config.style_weight, config.tv_weight, config.range_weight)):
        raise InputError("all weights are 0, so there is nothing to optimize; give one more than 0")
    smallest, _ = plan(*content, config)[0]
    try:
        config.architecture.check_size(*content, config.taps)
    except InputError as error:
        raise InputError(f"the content image: {error}; give a larger --size or image") from None
    for given in styles:
        seen = style_shape(given, smallest, config)
        try:
            config.architecture.check_size(*seen, config.taps)
        except InputError as error:
            flag = "style-size" if config.style_size else "style-scale"
            height, width = given
            advice = f"--{flag} leaves so little of its {width}x{height} px; give a larger --{flag}"
            advice = "give a larger image" if seen == given else advice
            raise InputError(f"the style image: {error}; {advice}") from None


def shape_of(image: Float[np.ndarray | Array, "..."]) -> Shape:
    """Return an image's (height, width)."""
    height, width = image.shape[-3:-1]
    return height, width
