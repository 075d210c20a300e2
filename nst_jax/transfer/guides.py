"""Where in a picture each style acts, how strongly, and what stays as it is."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.geometry import Shape, Wrap, shape_of
from nst_jax.io.arrays import ImageLike, as_mask
from nst_jax.losses.regions import Masks, StyleMasks, given_masks, resize_masks

_Style = Float[Array, "*_ _ _ 3"]  # each of another size


class Guides(NamedTuple):
    """The masks of a run; None where there are none.

    Attributes:
      content: how strongly the style acts at each pixel of the picture, in each region.
      styles: which part of each style serves each region.
      protected: how much of each pixel stays the photograph's.
    """

    content: Masks | None = None
    styles: Sequence[StyleMasks] | None = None
    protected: Float[Array, "*batch height width 1"] | None = None

    @property
    def regions(self) -> int:
        """How many regions there are; 0 without masks."""
        return 0 if self.content is None else self.content.shape[-1]

    def at(self, shape: Shape, styles: Sequence[Shape], *, wrap: Wrap = "none") -> "Guides":
        """Return the masks at the sizes of a scale; pixels get the mean of those that they cover.

        Args:
          shape: (height, width) of the picture there.
          styles: the same of each style.
          wrap: that of the picture; see `resample`.
        """
        if self.content is None or self.styles is None:
            return self
        own = [resize_masks(mask, there) for mask, there in zip(self.styles, styles, strict=True)]
        return self._replace(content=resize_masks(self.content, shape, wrap=wrap), styles=own)

    def protect(self, picture: _Style, photograph: _Style, *, wrap: Wrap = "none") -> _Style:
        """Put back what is protected.

        Args:
          picture: sRGB.
          photograph: sRGB, of the same shape.
          wrap: see `at`.
        """
        if self.protected is None:
            return picture
        share = resize_masks(self.protected, shape_of(picture), wrap=wrap)
        share = jnp.broadcast_to(share, picture.shape)
        return share * photograph + (1 - share) * picture


def make_guides(
    content: _Style,
    styles: Sequence[_Style],
    *,
    content_mask: ImageLike | None,
    style_mask: ImageLike | Sequence[ImageLike | None] | None,
    style_strength: ImageLike | None,
    protect: ImageLike | None,
) -> Guides:
    """Take the masks that `stylize` was given; see there.

    Raises:
      InputError: see `stylize`.
    """
    given: Mapping[str, ImageLike | None] = {"style strength": style_strength, "protect": protect}
    over = {
        role: as_mask(mask, role=f"{role} mask", shape=shape_of(content), dtype=content.dtype)
        for role, mask in given.items()
        if mask is not None
    }
    if over and content_mask is None:
        content_mask = jnp.ones(shape_of(content))
    regions, looks = given_masks(content, styles, content_mask, style_mask)
    if regions is None:
        return Guides()
    strength, protected = over.get("style strength"), over.get("protect")
    regions = regions if strength is None else regions * strength
    regions = regions if protected is None else regions * (1 - protected)
    return Guides(regions, [x for x in looks if x is not None], protected)
