"""What a run will do: its scales, the steps at each, and the style image sizes there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from nst_jax.config import Config, SettingError
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, Wrap, fit, scales, side_of, wrapped_sides
from nst_jax.network.architecture import STRIDE
from nst_jax.scale.tiled import tiles
from nst_jax.scale.windows import Cover


class ScalePlan(NamedTuple):
    """One scale of a run, before anything of it is computed.

    Attributes:
      shape: (height, width) of the picture in px.
      steps: updates made there.
      styles: (height, width) of each style image there.
      tiles: the windows that the picture is computed in; None: it is computed at once.
      regions: how many regions have a mask; 0: there are no masks.
    """

    shape: Shape
    steps: int
    styles: tuple[Shape, ...]
    tiles: Cover | None
    regions: int = 0


class Schedule(NamedTuple):
    """The scales of a run, from small to large; made once, by `make_schedule`."""

    scales: tuple[ScalePlan, ...]

    @property
    def last(self) -> ScalePlan:
        """The scale of the picture's own size."""
        return self.scales[-1]

    @property
    def steps(self) -> int:
        """The updates at all scales together."""
        return sum(scale.steps for scale in self.scales)

    def pixels(self, step: int) -> int:
        """Return how many pixels the first steps update, all together."""
        done = 0
        for scale in self.scales:
            here = min(step, scale.steps)
            done, step = done + here * scale.shape[0] * scale.shape[1], step - here
        return done


def make_schedule(
    content: Shape,
    styles: Sequence[Shape],
    config: Config,
    *,
    names: Sequence[str] = (),
    regions: int = 0,
) -> Schedule:
    """Plan a run, and check that all images are large enough for the layers at every scale.

    The first scale is large enough for the layers, also where a picture is much longer than high.
    At every scale the sides that wrap are the nearest multiples of 16 px.

    Args:
      content: (height, width) of the picture in px, before that rounding.
      styles: (height, width) of each style image as it is given.
      config: the settings.
      names: what the errors call the images, the content first; by default only by their roles.
      regions: see `ScalePlan`.

    Raises:
      InputError: if an image is too small, or all weights are 0.
      SettingError: an InputError; if the shares are not one for each style, or the color is
        style-only.
    """
    if config.color == "style-only":
        raise SettingError(
            "color", " is style-only, which makes no steps; call match_colors(content, style)"
        )
    check_shares(config, len(styles))
    if not any((config.content_weight, config.style_weight, config.tv_weight, config.range_weight)):
        raise InputError("all weights are 0, so there is nothing to optimize; give one more than 0")
    least = config.architecture.minimum_size(config.taps)
    whole = _whole_windows(content, config.wrap)
    found = scales(*whole, min_size=config.min_size, factor=config.scale_factor)
    *smaller, last = dict.fromkeys(_whole_windows(shape, config.wrap) for shape in found)
    shapes = [*(shape for shape in smaller if min(shape) >= least), last]
    content_name, *style_names = names or [""] * (1 + len(styles))
    with named(content_name):
        _check_content(last, config)
    for name, style in zip(style_names, styles, strict=True):
        with named(name):
            _check_style(style, shapes[0], config)
    # Smaller ones follow from these, so that it does not matter whether images are resized before.
    largest = [style_shape(style, last, config) for style in styles]
    first_steps = config.first_steps if config.min_size else config.steps
    steps = [first_steps, *[config.steps] * (len(shapes) - 1)]
    return Schedule(
        tuple(
            ScalePlan(
                shape,
                count,
                tuple(style_shape(style, shape, config) for style in largest),
                tiles(shape, config),
                regions,
            )
            for shape, count in zip(shapes, steps, strict=True)
        )
    )


def _whole_windows(shape: Shape, wrap: Wrap) -> Shape:
    """Round the sides that wrap, so that no layer has a window of a pooling across a seam."""
    height, width = (
        max(1, round(side / STRIDE)) * STRIDE if wraps else side
        for side, wraps in zip(shape, wrapped_sides(wrap), strict=True)
    )
    return height, width


def check_shares(config: Config, styles: int) -> None:
    """Raise SettingError, an InputError, if the shares are not one for each style."""
    given = [("style_blend", "", config.style_blend)] if config.style_blend else []
    given += [
        ("style_layer_blend", f" at {blend.name}", blend.shares)
        for blend in config.style_layer_blend
    ]
    for name, where, shares in given:
        if len(shares) != styles:
            raise SettingError(
                name,
                f" has {len(shares)} shares{where}, but the number of styles is {styles}; give one "
                "for each",
            )


@contextmanager
def named(image: str) -> Iterator[None]:
    """Let every InputError inside name the image."""
    try:
        yield
    except InputError as error:
        if image in str(error):
            raise
        raise InputError(f"{image}: {error}") from None


def _check_content(content: Shape, config: Config) -> None:
    try:
        config.architecture.check_size(*content, config.taps)
    except InputError as error:
        raise InputError(f"the content image: {error}; give a larger size or image") from None


def _check_style(given: Shape, smallest: Shape, config: Config) -> None:
    seen = style_shape(given, smallest, config)
    try:
        config.architecture.check_size(*seen, config.taps)
    except InputError as error:
        setting = "style size" if config.style_size else "style scale"
        height, width = given
        advice = f"the {setting} leaves so little of its {width}x{height} px; give a larger one"
        advice = "give a larger image" if seen == given else advice
        raise InputError(f"the style image: {error}; {advice}") from None


def style_shape(style: Shape, picture: Shape, config: Config) -> Shape:
    """Return the size of a style image beside a picture of some size.

    It is large enough for the layers, as far as the image itself is.

    Args:
      style: (height, width) of the style image as it is given, in px.
      picture: (height, width) of the picture.
      config: the settings.
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
