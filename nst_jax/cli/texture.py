"""A texture: a picture in the manner of the styles, without a content image."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from nst_jax.cli.options import JobOptions
from nst_jax.config import Config, flag_of
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, Size, fit


@contextlib.contextmanager
def with_canvas(options: JobOptions) -> Iterator[JobOptions]:
    """Put a gray canvas of the picture's size in place of a content image that is not given.

    The picture has no content loss then, and starts from noise. The canvas is removed at the end.

    Args:
      options: the options of the command.

    Yields:
      The options of the texture, or those of a picture with a content image as they are.

    Raises:
      InputError: if an option needs a content image, or the size is that of one.
    """
    if options.content:
        yield options
        return
    asked = options.asked()
    _check(options, asked)
    height, width = _shape(asked.size)
    start = "style" if asked.start == "content" else asked.start
    own = {"content_weight": 0.0, "content_layers": (), "start": start}
    with tempfile.TemporaryDirectory(prefix="nst-jax-") as folder:
        canvas = Path(folder, "texture.png")
        Image.new("L", (width, height), "gray").save(canvas)
        settings = {**options.settings, **own}
        yield replace(options, content=[str(canvas)], texture=True, settings=settings)


def _check(options: JobOptions, asked: Config) -> None:
    settings = options.settings
    needing = {
        "pairs": options.pairs,
        "sequence": options.sequence,
        "protect": options.protect,
        "content_weight": settings.get("content_weight"),
        "content_layers": settings.get("content_layers"),
        "start": settings.get("start") == "content",
        "start_blend": asked.start_blend < 1,
        "color": asked.color != "style",
    }
    for name, given in needing.items():
        if given:
            raise InputError(
                f"{flag_of(name)} needs a content image; give --content, or leave it out"
            )


def _shape(size: Size) -> Shape:
    """Return (height, width) of a texture: N is the side of a square."""
    if size in ("original", "max"):
        raise InputError(f"--size={size} needs a content image; give WxH, the size of the texture")
    if isinstance(size, str) and "x" in size:
        width, height = map(int, size.split("x"))
        return height, width
    return fit(1, 1, size)
