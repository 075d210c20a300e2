"""The masks of a picture: which style acts where, how strongly, and what stays the photograph."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nst_jax.cli.console import size_text
from nst_jax.cli.options import MASKS, JobOptions
from nst_jax.config import flag_of
from nst_jax.errors import InputError
from nst_jax.geometry import Shape
from nst_jax.io.images import image_shape
from nst_jax.io.masks import GRAY, load_mask, load_regions
from nst_jax.losses.regions import resize_masks

_Regions = Mapping[str, np.ndarray]  # by color, or by the number of a style


class Masks(NamedTuple):
    """The masks of a picture at the sizes of their files; keywords of `stylize`."""

    content_mask: np.ndarray | None = None
    style_mask: Sequence[np.ndarray] | None = None
    style_strength: np.ndarray | None = None
    protect: np.ndarray | None = None

    @property
    def regions(self) -> int:
        """How many regions there are; 0 without masks."""
        if self.content_mask is not None:
            return int(self.content_mask.shape[-1])
        return int(any(mask is not None for mask in self))

    def at(self, shape: Shape, styles: Sequence[Shape]) -> dict[str, Any]:
        """Return the keywords of `stylize` for a picture and styles of these sizes."""
        own = {name: getattr(self, name) for name in MASKS}
        found: dict[str, Any] = {
            name: _resized(mask, shape)
            for name, mask in own.items()
            if mask is not None and name != "style_mask"
        }
        if self.style_mask is not None:
            pairs = zip(self.style_mask, styles, strict=True)
            found["style_mask"] = [_resized(mask, there) for mask, there in pairs]
        return found


def load_masks(options: JobOptions, styles: Sequence[str]) -> Masks:
    """Load the masks that were given, and check that they fit the images and each other.

    Args:
      options: the options of the command.
      styles: the files of the styles.

    Raises:
      InputError: if they do not fit.
    """
    content = options.content[0]
    for path in options.content_mask:
        _check_shape("content_mask", path, content)
    own = _load_content_masks(options.content_mask, len(styles))
    looks = None
    if options.style_mask:
        looks = _load_style_masks(options.style_mask, styles, list(own))
    elif len(own) > 1 and len(own) != len(styles):
        raise InputError(
            f"--content-mask has the regions {', '.join(own)}, but the number of styles is "
            f"{len(styles)}; give {len(own)} styles, or --style-mask with the same colors"
        )
    one = {name: getattr(options, name) for name in ("style_strength", "protect")}
    for name, path in one.items():
        if path:
            _check_shape(name, path, content)
    loaded = {name: load_mask(path) if path else None for name, path in one.items()}
    stacked = np.stack(list(own.values()), -1) if own else None
    return Masks(stacked, looks, **loaded)


def _load_content_masks(paths: Sequence[str], styles: int) -> _Regions:
    """Return the mask of each region, by its color, or by the number of its style."""
    loaded = [load_regions(path) for path in paths]
    if not paths:
        return {}
    if not all(GRAY in regions for regions in loaded):
        if len(paths) > 1:
            raise InputError(
                f"--content-mask has {len(paths)} files, one of them with colors; give one colored "
                "map, or a gray mask for each style"
            )
        return loaded[0]
    masks = [regions[GRAY] for regions in loaded]
    if len(masks) == 1 and styles == 2:
        masks.append(1 - masks[0])
    if len(masks) != styles:
        raise InputError(
            f"--content-mask has {len(paths)} gray masks, but the number of styles is {styles}; "
            "give one for each style, or one colored map for all"
        )
    shape = masks[0].shape
    return {str(n): _resized(mask, shape) for n, mask in enumerate(masks, start=1)}


def _load_style_masks(
    paths: Sequence[str], styles: Sequence[str], regions: Sequence[str]
) -> list[np.ndarray]:
    """Return the masks of each style: of one region if they are gray, else of all regions."""
    if len(paths) != len(styles):
        raise InputError(
            f"--style-mask has {len(paths)} files, but the number of styles is {len(styles)}; give "
            "one for each"
        )
    found, missing = [], set(regions)
    for path, style in zip(paths, styles, strict=True):
        _check_shape("style_mask", path, style)
        colors = load_regions(path)
        if GRAY in colors:
            missing.clear()
            found.append(colors[GRAY])
            continue
        if not colors.keys() & set(regions):
            raise InputError(
                f"--style-mask {path} has the colors {', '.join(colors)}; they need a "
                "--content-mask with the same colors"
            )
        missing -= colors.keys()
        blank = np.zeros_like(next(iter(colors.values())))
        found.append(np.stack([colors.get(name, blank) for name in regions], -1))
    if missing:
        raise InputError(
            f"--content-mask has the color {sorted(missing)[0]}, which no --style-mask has; paint "
            "it there too"
        )
    return found


def _check_shape(name: str, path: str, image: str) -> None:
    """Raise InputError if a mask has other proportions than its image."""
    (height, width), (tall, wide) = own, there = image_shape(path), image_shape(image)
    # One pixel of either image may be rounding.
    if abs(height * wide - width * tall) > max(height + width, tall + wide):
        raise InputError(
            f"{flag_of(name)} {path} has {size_text(own)} px, but its image {image} has "
            f"{size_text(there)} px; give a mask of the same proportions"
        )


def _resized(mask: np.ndarray, shape: Shape) -> np.ndarray:
    """Bring a mask to a size; pixels get the mean of those that they cover."""
    masks = mask if mask.ndim == 3 else mask[..., None]
    found = np.asarray(resize_masks(jnp.asarray(masks), shape))
    return found.reshape(*shape, *mask.shape[2:])
