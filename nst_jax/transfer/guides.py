"""Where in a picture each style acts, what stays as it is, and what stays close to the past."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.color import gray
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, Wrap, resample, shape_of
from nst_jax.io.arrays import ImageLike, as_image, as_mask
from nst_jax.losses.regions import Masks, StyleMasks, given_masks, resize_masks
from nst_jax.losses.regularizers import Anchor

_Style = Float[Array, "*_ _ _ 3"]  # each of another size


class Guides(NamedTuple):
    """The masks of a run, and the picture that it stays close to; None where there are none.

    Attributes:
      content: how strongly the style acts at each pixel of the picture, in each region.
      styles: which part of each style serves each region.
      protected: how much of each pixel stays the photograph's.
      anchor: the picture before, as it lies in this one.
    """

    content: Masks | None = None
    styles: Sequence[StyleMasks] | None = None
    protected: Float[Array, "*batch height width 1"] | None = None
    anchor: Anchor | None = None

    @property
    def regions(self) -> int:
        """How many regions there are; 0 without masks."""
        return 0 if self.content is None else self.content.shape[-1]

    def at(self, shape: Shape, styles: Sequence[Shape], *, wrap: Wrap = "none") -> "Guides":
        """Return all at the sizes of a scale; pixels get the mean of those that they cover.

        Args:
          shape: (height, width) of the picture there.
          styles: the same of each style.
          wrap: that of the picture; see `resample`.
        """
        guides = self
        if self.anchor:
            picture = jnp.clip(resample(self.anchor.picture, shape, wrap=wrap), 0, 1)
            mask = resize_masks(self.anchor.mask, shape, wrap=wrap)
            guides = guides._replace(anchor=Anchor(picture, mask))
        if self.content is None or self.styles is None:
            return guides
        own = [resize_masks(mask, there) for mask, there in zip(self.styles, styles, strict=True)]
        return guides._replace(content=resize_masks(self.content, shape, wrap=wrap), styles=own)

    def in_gray(self) -> "Guides":
        """Take the colors off the picture before."""
        if self.anchor is None:
            return self
        return self._replace(anchor=self.anchor._replace(picture=gray(self.anchor.picture)))

    def begin(self, picture: _Style) -> _Style:
        """Put the picture before over a first picture, where it counts."""
        if self.anchor is None:
            return picture
        return self.anchor.mask * self.anchor.picture + (1 - self.anchor.mask) * picture

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
    previous: ImageLike | None,
    previous_mask: ImageLike | None,
) -> Guides:
    """Take the masks and the picture before that `stylize` was given; see there.

    Raises:
      InputError: see `stylize`.
    """
    given: Mapping[str, ImageLike | None] = {
        "style strength": style_strength,
        "protect": protect,
        "previous": previous_mask,
    }
    over = {
        role: as_mask(mask, role=f"{role} mask", shape=shape_of(content), dtype=content.dtype)
        for role, mask in given.items()
        if mask is not None
    }
    strength, protected, seen = (over.get(role) for role in given)
    anchor = _anchor(content, previous, seen)
    if content_mask is None and not (strength is None and protected is None):
        content_mask = jnp.ones(shape_of(content))
    regions, looks = given_masks(content, styles, content_mask, style_mask)
    if regions is None:
        return Guides(anchor=anchor)
    regions = regions if strength is None else regions * strength
    regions = regions if protected is None else regions * (1 - protected)
    return Guides(regions, [x for x in looks if x is not None], protected, anchor)


def _anchor(content: _Style, previous: ImageLike | None, mask: Array | None) -> Anchor | None:
    if previous is None:
        if mask is not None:
            raise InputError("previous_mask is for the picture before; give previous too")
        return None
    picture = as_image(previous, role="previous", dtype=content.dtype)
    if picture.shape not in (content.shape, content.shape[-3:]):
        raise InputError(
            f"the previous image has the shape {list(picture.shape)}, the content image has "
            f"{list(content.shape)}; give images of one size"
        )
    over = jnp.ones((*shape_of(content), 1), content.dtype) if mask is None else mask
    return Anchor(
        jnp.broadcast_to(picture, content.shape),
        jnp.broadcast_to(over, (*content.shape[:-1], 1)),
    )
