"""The whole job on arrays: images and a network in, snapshots of the picture out."""

import dataclasses
import operator
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.architecture import check_size
from nst_jax.arrays import ImageLike, as_image
from nst_jax.backend import resolve
from nst_jax.beginning import first_picture
from nst_jax.config import Config
from nst_jax.errors import InputError
from nst_jax.objective import Losses
from nst_jax.problem import CAPACITY, split_config
from nst_jax.pyramid import Shape, Side, fit, resample, scales, side_of
from nst_jax.scale import Scale, begin_scale
from nst_jax.sharding import find_devices
from nst_jax.tiling import check_tiled, needs_tiles
from nst_jax.vgg import VGG19, freeze, recast_vgg19

_Picture = Float[Array, "*batch height width 3"]
_Style = Float[Array, "*_ _ _ 3"]  # each of another size
_Start = Float[Array, "*start_batch start_height start_width 3"]


@dataclass(frozen=True)
class Snapshot:
    """The picture after some number of steps.

    Attributes:
      step: updates made so far, at all scales together.
      image: the picture, sRGB clipped to [0, 1]; of the content's shape at the last scale, smaller
        before.
      losses: `objective.Losses` of every step since the snapshot before, as numpy arrays (steps,);
        entry i belongs to the iterate *before* that step's update.
      finite: False if a loss was infinite or not a number. The image is then the last picture for
        which all was well, and no snapshot follows.
    """

    step: int
    image: Float[Array, "*batch height width 3"]
    losses: Losses
    finite: bool


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
    taps = split_config(config)[1].taps
    shape = _shape(content)
    smallest, _ = plan(*shape, config)[0]
    where = "" if smallest == shape else f" at the first scale, {smallest[1]}x{smallest[0]} px"
    checks = [("content", smallest)]
    checks += [("style", style_shape(_shape(style), smallest, config)) for style in styles]
    for role, size in checks:
        try:
            check_size(*size, taps)
        except InputError as error:
            advice = "; give a larger --min-size" if where else ""
            raise InputError(f"the {role} image{where}: {error}{advice}") from None


def _shape(image: Float[np.ndarray | Array, "..."]) -> Shape:
    height, width = image.shape[-3:-1]
    return height, width


def stylize(
    content: ImageLike,
    style: ImageLike | Sequence[ImageLike],
    *,
    network: VGG19,
    config: Config | None = None,
    start: ImageLike | None = None,
    snapshot_every: int | None = 50,
    snapshot_seconds: float | None = None,
    devices: int | Literal["all"] | Sequence[Any] | None = None,
) -> Iterator[Snapshot]:
    """Optimize a picture until it has the content image's features and the styles' statistics.

    It is painted small first, and larger from scale to scale: each begins with the picture of the
    one before, and Adam with what it knew there.

    Args:
      content: sRGB floats in [0, 1], HWC, or NHWC for independent pictures of one shape; an array
        of JAX, NumPy, or of PyTorch and others by DLPack. The result has the size that it has;
        `images.load_image` resizes.
      style: the same, of any size, or a list or tuple of such for a blend of several styles; one
        image serves a whole batch.
      network: from `load_vgg19`, with the config's dtype unless the precision is auto. It pools,
        pads and convolves as the config says, however it was built.
      config: settings; our own recipe by default. `size` is not used here. With the precision
        auto a network in float32, as `load_vgg19` makes it, computes in what suits the device, and
        any other in its own type.
      start: the first picture, sRGB of any size, in place of what `config.start` names.
      snapshot_every: a snapshot is yielded at every multiple of this many steps and at the end;
        None: only at the end.
      snapshot_seconds: if given, also about this often.
      devices: spread the rows of the picture, or the pictures of a batch, over so many of JAX's
        devices, all of them, or these; see `sharding.lay_out`. The result is that of one device but
        for rounding. By default one device computes.

    Yields:
      Snapshots. The last one has `step == count_steps(height, width, config)`, unless a loss was
      not finite: such a snapshot is the last one.

    Raises:
      InputError: for images that are too small, or of the wrong shape or type, for shares that are
        not one for each style, for a network of another type than the config's, for a precision
        that the device does not have, for a batch with L-BFGS, which would make one
        problem of it, for Winograd's algorithm on many devices, for more devices than there are,
        for tiles of a batch, on many devices or with optax's L-BFGS, and for float64 without
        `jax_enable_x64`.
    """
    mesh = find_devices(devices)
    network, config = _settle(network, Config() if config is None else config, many=len(mesh) > 1)
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError("precision is float64; it needs jax.config.update('jax_enable_x64', True)")
    if network.dtype != config.dtype:
        raise InputError(
            f"the network's dtype is {str(network.dtype)!r}, the config's is {config.dtype!r}; "
            "build the network with the config's"
        )
    if snapshot_every is not None and snapshot_every < 1:
        raise InputError(f"snapshot_every is {snapshot_every}; it must be at least 1")
    given: list[Any] = list(style) if isinstance(style, list | tuple) else [style]
    if not given:
        raise InputError("there is no style image; give at least one")
    content = as_image(content, role="content", dtype=config.image_dtype)
    styles = [as_image(image, role="style", dtype=config.image_dtype) for image in given]
    if content.ndim == 4 and config.optimizer != "adam":
        raise InputError(
            f"the content image is a batch of {len(content)}; {config.optimizer} takes one picture "
            "at a time, of shape (height, width, 3)"
        )
    first = None if start is None else as_image(start, role="start", dtype=config.image_dtype)
    _check_batches(content, [*styles, *([] if first is None else [first])])
    check_inputs(content, styles, config)
    if needs_tiles(content.shape, config):
        check_tiled(content.shape, config)
        if len(mesh) > 1:
            raise InputError(
                f"tile is {config.tile}, which is for one device, but devices are {len(mesh)}; "
                "leave one of the two out"
            )
    return _snapshots(
        content, styles, first, network, config, snapshot_every, snapshot_seconds, mesh
    )


def _check_batches(content: _Style, others: Sequence[_Style]) -> None:
    """Raise InputError if an image that goes with the content is a batch of another length."""
    for image in others:
        if image.ndim == 4 and image.shape[:-3] != content.shape[:-3]:
            one = "one image" if content.ndim == 3 else f"a batch of {len(content)}"
            raise InputError(
                f"the content is {one}, but a style or start is a batch of {len(image)}; allowed "
                "are one image for all, or one for each"
            )
    if len({image.ndim for image in others}) > 1:
        raise InputError("some of the styles and the start are batches, and some are not")


def _settle(network: VGG19, config: Config, *, many: bool) -> tuple[VGG19, Config]:
    """Decide what is left to `stylize`; return the network that computes so, and the config.

    On many devices convolutions are direct: the partitioner cannot cut Winograd's tiles.
    """
    if many and config.conv == "winograd":
        raise InputError(
            "conv is winograd, which is for one device; on several leave it out, or give direct"
        )
    if many:
        config = dataclasses.replace(config, conv="direct")
    if config.precision == "auto" and network.dtype != jnp.float32:
        own: Any = str(network.dtype)
        config = dataclasses.replace(config, precision=own)
    chosen = resolve(config)
    assert chosen.conv != "auto"
    assert chosen.remat != "auto"
    dtype = chosen.dtype if config.precision == "auto" else network.dtype
    recast = recast_vgg19(
        network,
        dtype=dtype,
        conv=chosen.conv,
        pooling=config.pooling,
        pool_scale=config.pool_scale,
        padding=config.padding,
        remat=chosen.remat,
    )
    return recast, chosen


def _snapshots(
    content: _Picture,
    styles: Sequence[_Style],
    start: _Start | None,
    network: VGG19,
    config: Config,
    snapshot_every: int | None,
    snapshot_seconds: float | None,
    devices: Sequence[Any],
) -> Iterator[Snapshot]:
    network = freeze(network, taps=split_config(config)[1].taps)
    every = snapshot_every or np.inf
    total, done = count_steps(*_shape(content), config), 0
    parts: list[Losses] = []
    picture: Any = None
    scale: Scale | None = None
    for shape, steps in plan(*_shape(content), config):
        small = _resized(content, shape)
        looks = [_resized(style, style_shape(_shape(style), shape, config)) for style in styles]
        if picture is None:
            picture = first_picture(small, looks, start, config)
        else:
            picture = _carried(picture, shape, config)
        scale = begin_scale(
            small,
            looks,
            network=network,
            config=config,
            picture=picture,
            before=scale.state() if scale else None,
            devices=devices,
        )
        ends, pace = done + steps, _Pace(snapshot_seconds)
        while done < ends:
            chunk = int(min(ends - done, every - done % every, pace.steps()))
            new, records = scale.advance(chunk)
            parts.append(jax.tree.map(operator.itemgetter(slice(chunk)), jax.device_get(records)))
            pace.made(chunk)
            done += chunk
            finite = bool(np.isfinite(parts[-1].total).all() and jnp.isfinite(new).all())
            picture = new if finite else picture
            due = snapshot_seconds is not None or done % every == 0 or done == total
            if due or not finite:
                losses = jax.tree.map(lambda *records: np.concatenate(records), *parts)
                image = jnp.clip(picture, 0, 1)
                yield Snapshot(step=done, image=image, losses=losses, finite=finite)
                parts = []
            if not finite:
                return


def _resized(image: _Style, shape: Shape) -> _Style:
    return image if _shape(image) == shape else jnp.clip(resample(image, shape), 0, 1)


def _carried(picture: _Style, shape: Shape, config: Config) -> _Style:
    """Bring the picture of one scale to the next one's size."""
    larger = resample(picture, shape, method="cubic")
    return jnp.clip(larger, 0, 1) if config.clamp else larger


class _Pace:
    """How many steps to make in one call, from the seconds that the last ones took."""

    def __init__(self, seconds: float | None):
        self._seconds, self._calls, self._per_step = seconds, 0, 0.0
        self._since = time.perf_counter()

    def steps(self) -> int:
        if self._seconds is None:
            return CAPACITY
        self._since = time.perf_counter()
        # The first call compiles, so its time says nothing.
        if self._calls < 2:
            return 1
        return min(max(1, int(self._seconds / self._per_step)), CAPACITY)

    def made(self, steps: int) -> None:
        self._calls += 1
        self._per_step = (time.perf_counter() - self._since) / steps
