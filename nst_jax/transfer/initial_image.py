"""The picture that a run begins with."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.config import Config
from nst_jax.geometry import resample


def first_picture(
    content: Float[Array, "*batch height width 3"],
    styles: Sequence[Float[Array, "*_ _ _ 3"]],
    given: Float[Array, "*start_batch start_height start_width 3"] | None,
    config: Config,
) -> Float[Array, "*batch height width 3"]:
    """Make the picture before the first step, sRGB in [0, 1], of the content's shape.

    `config.start` names the picture, and `config.start_blend` is its share over the content image.
    All noise is drawn from `config.seed`:

    - content: the content image.
    - noise: uniform in [0, 1].
    - gray: 0.5, and noise of one step of 8 bits; crowsonkb/style-transfer-pytorch.
    - style: normal, truncated to [0, 1], with the mean and the standard deviation of each color
      over the styles in their shares; the same program's style_stats.

    Args:
      content: at the size of the first scale.
      styles: the style images; of a batch of them each is for its own picture.
      given: a picture in place of the named one, of any size.
      config: the settings.
    """
    shape = content.shape
    if given is None and config.start == "content":
        return content
    key = jax.random.key(config.seed)
    if given is not None:
        picture = jnp.clip(resample(given, shape[-3:-1], wrap=config.wrap), 0, 1)
    else:
        match config.start:
            case "noise":
                picture = jax.random.uniform(key, shape, content.dtype)
            case "gray":
                picture = 0.5 + jax.random.uniform(key, shape, content.dtype) / 255
            case "style":
                shares = config.style_blend or (1.0,) * len(styles)
                picture = _colored_noise(key, shape, styles, shares)
    picture = jnp.broadcast_to(picture.astype(content.dtype), shape)
    return (1 - config.start_blend) * content + config.start_blend * picture


def _colored_noise(
    key: Array, shape: tuple[int, ...], styles: Sequence[Array], shares: Sequence[float]
) -> Array:
    kind, colors = styles[0].dtype, (*shape[:-3], 1, 1, 3)  # of each picture
    mean, variance = jnp.zeros(colors, kind), jnp.zeros(colors, kind)
    for share, style in zip(shares, styles, strict=True):
        of_all, around = style.mean((-3, -2), keepdims=True), style.var((-3, -2), keepdims=True)
        mean += share / sum(shares) * jnp.broadcast_to(of_all, colors)
        variance += share / sum(shares) * jnp.broadcast_to(around, colors)
    spread = jnp.maximum(jnp.sqrt(variance), 1e-3)  # of an image of one color
    low, high = (jnp.broadcast_to((end - mean) / spread, shape) for end in (0.0, 1.0))
    return mean + spread * jax.random.truncated_normal(key, low, high, shape, kind)
