"""The whole job on arrays: images and a network in, snapshots of the picture out."""

import dataclasses
import os
import warnings
from collections.abc import Generator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.config import Config, ResolvedConfig, checked_live, plain_settings
from nst_jax.devices.backend import resolve
from nst_jax.devices.sharding import find_devices
from nst_jax.errors import InputError
from nst_jax.geometry import shape_of
from nst_jax.io.arrays import ImageLike, as_image, digest
from nst_jax.losses.objective import Losses
from nst_jax.network.activations import match_activations
from nst_jax.network.vgg import VGG, freeze, parameters, recast
from nst_jax.scale.tiled import check_tiled
from nst_jax.transfer.guides import make_guides
from nst_jax.transfer.multiscale import Adjust, EndScale, Pauses, Snapshot, snapshots
from nst_jax.transfer.painting import Painting, recolored
from nst_jax.transfer.progress import SECONDS, with_progress
from nst_jax.transfer.saver import FREE, Checkpoints, Saver
from nst_jax.transfer.schedule import make_schedule

_Style = Float[Array, "*_ _ _ 3"]  # each of another size


def stylize(
    content: ImageLike,
    style: ImageLike | Sequence[ImageLike],
    *,
    network: VGG,
    config: Config | None = None,
    start: ImageLike | None = None,
    content_mask: ImageLike | None = None,
    style_mask: ImageLike | Sequence[ImageLike | None] | None = None,
    style_strength: ImageLike | None = None,
    protect: ImageLike | None = None,
    previous: ImageLike | None = None,
    previous_mask: ImageLike | None = None,
    snapshot_every: int | None = 50,
    snapshot_seconds: float | None = None,
    end_scale: EndScale | None = None,
    adjust: Adjust | None = None,
    devices: int | Literal["all"] | Sequence[Any] | None = None,
    checkpoints: str | os.PathLike[str] | Checkpoints | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = False,
) -> Generator[Snapshot[Losses], None, None]:
    """Optimize a picture until it has the content image's features and the styles' statistics.

    The picture is painted at a small scale first. Each larger scale begins with the picture of the
    scale before, and Adam with its averages.

    Args:
      content: sRGB floats in [0, 1], HWC, or NHWC for independent pictures of one shape; an array
        of JAX, of NumPy, or of PyTorch and others by DLPack. The result has the same size, but for
        `Config.wrap`, which rounds sides to multiples of 16 px; `load_image` resizes.
      style: one image like the content, of any size, or a list or tuple of images for a blend of
        styles. One style image serves a whole batch.
      network: from `load_vgg19` or `load_vgg16`. It pools, pads and convolves as the config says,
        however it was built, and its maps are brought to the scale of `Config.activations`. Its
        dtype is the config's, unless the precision is auto.
      config: the settings; our own recipe by default. `Config.size` and `Config.network` are not
        used here. With the precision auto, a float32 network computes in what suits the device, and
        any other network in its own dtype.
      start: the first picture, sRGB of any size, in place of that of `Config.start`.
      content_mask: floats in [0, 1] of the content's size: (height, width) where the style acts, or
        ``(*batch, height, width, regions)`` where each style does; see `losses.regions`.
      style_mask: the same of the style, or a list or tuple with one for each style: which part of
        it serves the content's region of the same number. None: the whole image serves, of as many
        styles as regions each its own one.
      style_strength: factor of the style at each pixel, a mask like `content_mask`.
      protect: a mask like `content_mask` of what stays the content image's: the style does not act
        there, and pixels where the mask is 1 are the photograph's own.
      previous: of a frame of a film the result before, moved by `warp`, of the content's shape. The
        run begins with it, and stays close to it: see `Config.temporal_weight`.
      previous_mask: a mask like `content_mask` of where `previous` counts, as from `seen_before`.
        The rest begins with the usual first picture.
      snapshot_every: steps between snapshots; None: a snapshot at the end alone.
      snapshot_seconds: if given, a snapshot is also yielded about this often.
      end_scale: asked with each snapshot; True ends its scale there. The steps that are left at the
        scale are counted, but not made. (To end the run, leave the loop over the snapshots.)
      adjust: asked, before each call to the device, with the number of steps made so far; returns
        numbers that hold for the steps of this call in place of the config's, by name:
        learning_rate, content_weight, style_weight. Other numbers compile nothing. For Adam; with
        the picture `best` the losses of all steps are compared, whatever their weights.
      devices: how many of JAX's devices share the rows of the picture, or the pictures of a batch;
        or "all", or a list of devices. The result is that of one device but for rounding. By
        default JAX's default device computes. Where the devices belong to several processes, all
        processes call this with the same arguments.
      checkpoints: a folder that keeps the state of the run, about every `checkpoint_seconds` and
        when the generator is closed before the end. The same run goes on from the newest
        checkpoint: on the same devices with the same numbers as if it had not been interrupted.
        The folder of other images, weights or settings is refused; `steps` and `first_steps` may
        differ, where a run with these numbers has the kept state on its way. What cannot be written
        is named in a warning, and the run goes on. Or a store of your own.
      checkpoint_seconds: how often the state is saved, about.
      progress: whether to show the picture in place in a notebook, or a line on a terminal, at each
        snapshot. Then `snapshot_seconds` is 2.0 by default.

    Yields:
      Snapshots, the last one after all steps of all scales. If a loss is not finite, the snapshot
      that says so is the last one.

    Raises:
      InputError: for images and masks that are too small or of the wrong shape or type; for shares
        that are not one for each style; for masks that do not fit each other; for the color
        style-only (see `match_colors`); for `adjust` with L-BFGS, and for what it returns that is
        not allowed; for a network of another dtype than the config's, or one that ends before a
        layer of the config's; for one that does not know its mean activations, where the config
        asks for another scale; for a precision that the device does not have, and for float64
        without `jax_enable_x64`; for a batch with L-BFGS, which would make one problem of the
        batch; for Winograd's algorithm on many devices; for more devices than there are; for tiles
        of a batch, on many devices or with optax's L-BFGS; for a folder of checkpoints that cannot
        be used, and, at the first snapshot, for one with more steps than are asked for.
    """
    mesh, asked = find_devices(devices), config or Config()
    network, config = _resolve(network, asked, devices=len(mesh))
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError("precision is float64; it needs jax.config.update('jax_enable_x64', True)")
    if network.dtype != config.dtype:
        raise InputError(
            f"the network's dtype is {str(network.dtype)!r}, the config's is {config.dtype!r}; "
            "build the network with the config's"
        )
    network.check_taps(config.taps)
    if progress and snapshot_seconds is None:
        snapshot_seconds = SECONDS
    pauses = Pauses(
        snapshot_every, snapshot_seconds, end_scale, config.stop_change, on_nan=config.on_nan
    )
    if adjust:
        pauses = dataclasses.replace(pauses, adjust=_checked(adjust, config))
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
    if content.ndim == 4 and config.on_nan == "backoff":
        raise InputError(
            f"the content image is a batch of {len(content)}; on_nan is backoff, which is for one "
            "picture at a time, of shape (height, width, 3)"
        )
    first = None if start is None else as_image(start, role="start", dtype=config.image_dtype)
    _check_batches(content, [*styles, *([] if first is None else [first])])
    guides = make_guides(
        content,
        styles,
        content_mask=content_mask,
        style_mask=style_mask,
        style_strength=style_strength,
        protect=protect,
        previous=previous,
        previous_mask=previous_mask,
    )
    shapes = [shape_of(image) for image in styles]
    schedule = make_schedule(shape_of(content), shapes, config, regions=guides.regions)
    if schedule.last.tiles:
        check_tiled(content.shape, config)
        if mesh != find_devices(None):
            raise InputError(
                f"tile is {config.tile}, which is for one device, JAX's default, but devices are "
                f"{', '.join(map(str, mesh))}; leave one of the two out"
            )
    frozen = freeze(network, taps=config.taps)
    painted = recolored(content, styles, first, config)
    if config.color == "keep":
        guides = guides.in_gray()
    painting = Painting(*painted, frozen, config, schedule, mesh, content, guides)
    if isinstance(checkpoints, str | os.PathLike):
        store = _open_store(checkpoints, painting, network, asked)
        run = _closing(store, snapshots(painting, pauses, Saver(store, checkpoint_seconds)))
    else:
        run = snapshots(painting, pauses, Saver(checkpoints, checkpoint_seconds))
    return with_progress(run, schedule) if progress else run


def _checked(adjust: Adjust, config: Config) -> Adjust:
    """Return a function that checks what `adjust` returns.

    Raises:
      InputError: if the optimizer is not Adam: L-BFGS remembers gradients of one loss.
    """
    if config.optimizer != "adam":
        raise InputError(
            f"adjust is for the optimizer adam, but the optimizer is {config.optimizer}; leave it "
            "out"
        )
    return lambda step: checked_live(adjust(step))


def _open_store(
    folder: str | os.PathLike[str], painting: Painting, network: VGG, asked: Config
) -> Any:
    """Return the `CheckpointStore` of a run: its images, weights and settings identify it."""
    from nst_jax.io.checkpoint import CheckpointStore

    images = {"content": [painting.content], "style": painting.styles, "start": [painting.start]}
    made_from: dict[str, Any] = {k: x for k, x in plain_settings(asked).items() if k not in FREE}
    made_from |= {f"{role} image": [digest(image) for image in of] for role, of in images.items()}
    made_from |= {"masks": digest(painting.guides)} if jax.tree.leaves(painting.guides) else {}
    made_from |= {"network": network.architecture.name, "weights": digest(parameters(network))}
    return CheckpointStore(folder, fingerprint=made_from, warn=warnings.warn)


def _closing(
    store: Any, run: Generator[Snapshot[Losses], None, None]
) -> Generator[Snapshot[Losses], None, None]:
    with store:
        yield from run


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


def _resolve(network: VGG, config: Config, *, devices: int) -> tuple[VGG, ResolvedConfig]:
    """Decide what is left to `stylize`; return the network that computes so, and the settings."""
    config = dataclasses.replace(config, network=network.architecture.name)
    if config.precision == "auto" and network.dtype != jnp.float32:
        own: Any = str(network.dtype)
        config = dataclasses.replace(config, precision=own)
    chosen = resolve(config, devices=devices)
    options = chosen.network_options
    if config.precision != "auto":  # another type is refused
        options["dtype"] = network.dtype
    return match_activations(recast(network, **options), chosen.activations), chosen
