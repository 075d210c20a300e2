"""What `stylize` works on: the images, the network and the settings, at each scale."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.color import gray, gray_like, match_colors, with_colors
from nst_jax.config import Config, Optimizer, ResolvedConfig
from nst_jax.devices.sharding import spans_processes
from nst_jax.geometry import Shape, Wrap, resample, shape_of
from nst_jax.network.vgg import VGG
from nst_jax.scale.interface import Scale, ScaleInputs
from nst_jax.scale.prepare import begin_scale
from nst_jax.transfer.guides import Guides
from nst_jax.transfer.initial_image import first_picture
from nst_jax.transfer.schedule import Schedule

_Picture = Float[Array, "*batch height width 3"]
_Style = Float[Array, "*_ _ _ 3"]  # each of another size


class Painting(NamedTuple):
    """A `multiscale.Job`; see `stylize` for its parts.

    Attributes:
      photograph: the content image as it is given; `content` is the one that is painted.
    """

    content: _Picture
    styles: Sequence[_Style]
    start: Float[Array, "*start_batch start_height start_width 3"] | None
    network: VGG
    config: ResolvedConfig
    schedule: Schedule
    devices: Sequence[Any]
    photograph: _Picture
    guides: Guides = Guides()

    @property
    def steps(self) -> Sequence[int]:
        """The updates at each scale."""
        return [plan.steps for plan in self.schedule.scales]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer's name."""
        return self.config.optimizer

    @property
    def agreed(self) -> bool:
        """Whether several processes must do the same together."""
        return spans_processes(self.devices)

    def begin(self, number: int, picture: Any, before: Scale | None) -> tuple[Scale, Any]:
        """Prepare a scale; see `multiscale.Job`."""
        plan, wrap = self.schedule.scales[number], self.config.wrap
        content = _resized(self.content, plan.shape, wrap=wrap)
        styles = list(map(_resized, self.styles, plan.styles))
        guides = self.guides.at(plan.shape, plan.styles, wrap=wrap)
        if picture is None:
            picture = first_picture(content, styles, self.start, self.config)
            picture = guides.begin(picture)
        else:
            picture = _enlarged(picture, plan.shape, clamp=self.config.clamp, wrap=wrap)
        inputs = ScaleInputs(
            content,
            styles,
            picture,
            self.network,
            self.config,
            tiles=plan.tiles,
            devices=self.devices,
            before=before.state() if before else None,
            masks=guides.content,
            style_masks=guides.styles,
            anchor=guides.anchor,
        )
        return begin_scale(inputs), picture

    def shown(self, picture: Any) -> Any:
        """Return the picture with the colors that it gets and what stays; see `multiscale.Job`."""
        picture = jnp.clip(picture, 0, 1)
        keeps = self.config.color == "keep"
        if not keeps and self.guides.protected is None:
            return picture
        photograph = _resized(self.photograph, shape_of(picture), wrap=self.config.wrap)
        picture = with_colors(picture, photograph) if keeps else picture
        return self.guides.protect(picture, photograph, wrap=self.config.wrap)


def recolored(
    content: _Picture, styles: Sequence[_Style], start: _Style | None, config: Config
) -> tuple[_Picture, list[_Style], _Style | None]:
    """Return the content, the styles and the start as `Config.color` has them painted."""
    match config.color:
        case "style":
            return content, list(styles), start
        case "keep":
            styles = [gray_like(style, content) for style in styles]
            return gray(content), styles, None if start is None else gray(start)
        case _:  # match
            how = config.color_match
            return content, [match_colors(style, content, how=how) for style in styles], start


def _resized(image: _Style, shape: Shape, *, wrap: Wrap = "none") -> _Style:
    return image if shape_of(image) == shape else jnp.clip(resample(image, shape, wrap=wrap), 0, 1)


def _enlarged(picture: _Style, shape: Shape, *, clamp: bool, wrap: Wrap) -> _Style:
    """Bring the picture of one scale to the next one's size."""
    larger = resample(picture, shape, method="cubic", wrap=wrap)
    return jnp.clip(larger, 0, 1) if clamp else larger
