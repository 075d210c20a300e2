"""The whole job on arrays: two images and a network in, snapshots of the picture out."""

import functools
import operator
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from nst_jax import optimize
from nst_jax.config import Config
from nst_jax.errors import InputError
from nst_jax.objective import Losses, Targets, make_targets, style_transfer_loss
from nst_jax.vgg import VGG19, check_size, check_taps, denormalize, normalize

# The most steps in one call to the device; only the length of a few arrays of scalars.
_CAPACITY = 256


@dataclass(frozen=True)
class Snapshot:
    """The picture after some number of steps.

    Attributes:
      step: updates made so far.
      image: the picture, sRGB clipped to [0, 1], of the content's shape.
      losses: `objective.Losses` of every step since the snapshot before, as numpy arrays (steps,);
        entry i belongs to the picture *before* that step's update.
      finite: False if a loss was infinite or not a number. The image is then the last picture for
        which all was well, and no snapshot follows.
    """

    step: int
    image: Float[Array, "*batch height width 3"]
    losses: Losses
    finite: bool


class _Numbers(NamedTuple):
    """The settings that the compiled program takes at run time: changing one compiles nothing."""

    learning_rate: float | Float[Array, ""]
    content_weight: float | Float[Array, ""]
    style_weight: float | Float[Array, ""]


class _Program(NamedTuple):
    """The settings that make another program. Adam's decays too: as float32 numbers that are known
    only at run time, 1 - 0.999 would lose half its digits.
    """

    taps: tuple[str, ...]
    beta1: float
    beta2: float


def _optimizer(numbers: _Numbers, program: _Program) -> optax.GradientTransformation:
    """Adam, Kingma and Ba, arXiv 1412.6980, with the epsilon that torch and optax share."""
    return optax.adam(numbers.learning_rate, b1=program.beta1, b2=program.beta2, eps=1e-8)


def check_inputs(
    content: Float[np.ndarray | Array, "..."],
    style: Float[np.ndarray | Array, "..."],
    config: Config,
) -> tuple[str, ...]:
    """Check that both images are large enough for the layers; return the layers' names.

    Raises:
      InputError: if they are not, or a layer does not exist.
    """
    taps = check_taps(config.content_layers + config.style_layers)
    for role, image in (("content", content), ("style", style)):
        try:
            check_size(image.shape[-3], image.shape[-2], taps)
        except InputError as error:
            raise InputError(f"the {role} image: {error}") from None
    return taps


def stylize(
    content: ArrayLike,
    style: ArrayLike,
    *,
    network: VGG19,
    config: Config | None = None,
    snapshot_every: int = 50,
    snapshot_seconds: float | None = None,
) -> Iterator[Snapshot]:
    """Optimize a copy of the content image until it has the style image's Gram matrices.

    The variable is the *normalized* image, (sRGB - mean) / std, which is not clipped while it is
    optimized: Adam's step does not scale with the variable, so the space belongs to the method.

    Args:
      content: sRGB floats in [0, 1], HWC, or NHWC for independent pictures of one shape. It is
        used at the size it has; `images.load_image` resizes.
      style: the same; another height and width are allowed, and one image serves a whole batch.
      network: from `load_vgg19`, with the config's pooling and padding.
      config: settings; the preset `pytorch` by default. `size` is not used here.
      snapshot_every: a snapshot is yielded at every multiple of this many steps and at the end.
      snapshot_seconds: if given, also about this often.

    Yields:
      Snapshots. The last one has `step == config.steps`, unless a loss was not finite: such a
      snapshot is the last one.

    Raises:
      InputError: for images that are too small, or of the wrong shape or type, and for a network
        that does not pool or pad as the config says.
    """
    config = Config() if config is None else config
    for name in ("pooling", "pool_scale", "padding"):
        if getattr(network, name) != getattr(config, name):
            raise InputError(
                f"the network's {name} is {getattr(network, name)!r}, the config's is "
                f"{getattr(config, name)!r}; build the network with the config's"
            )
    if snapshot_every < 1:
        raise InputError(f"snapshot_every is {snapshot_every}; it must be at least 1")
    content, style = _as_image(content, "content"), _as_image(style, "style")
    taps = check_inputs(content, style, config)
    return _snapshots(content, style, network, config, taps, snapshot_every, snapshot_seconds)


def _as_image(image: ArrayLike, role: str) -> Float[Array, "*batch height width 3"]:
    array = jnp.asarray(image)
    if (
        array.ndim not in (3, 4)
        or array.shape[-1] != 3
        or not jnp.issubdtype(array.dtype, jnp.floating)
    ):
        raise InputError(
            f"the {role} image is {array.dtype}{list(array.shape)}; allowed are floats in [0, 1] "
            "of shape (height, width, 3) or (n, height, width, 3)"
        )
    return array


def _snapshots(
    content: Float[Array, "*batch height width 3"],
    style: Float[Array, "*style_batch style_height style_width 3"],
    network: VGG19,
    config: Config,
    taps: tuple[str, ...],
    snapshot_every: int,
    snapshot_seconds: float | None,
) -> Iterator[Snapshot]:
    numbers = _Numbers(config.learning_rate, config.content_weight, config.style_weight)
    program = _Program(taps, config.beta1, config.beta2)
    targets = _targets(network, content, style, config.content_layers, config.style_layers)
    state = _start(content, numbers, program)
    done, image, pace = 0, content, _Pace(snapshot_seconds)
    parts: list[Losses] = []
    while done < config.steps:
        chunk = min(config.steps - done, snapshot_every - done % snapshot_every, pace.steps())
        state, new_image, records = _advance(state, chunk, network, targets, numbers, program)
        parts.append(jax.tree.map(operator.itemgetter(slice(chunk)), jax.device_get(records)))
        pace.made(chunk)
        done += chunk
        finite = bool(np.isfinite(parts[-1].total).all() and jnp.isfinite(new_image).all())
        image = new_image if finite else image
        due = snapshot_seconds is not None or done % snapshot_every == 0 or done == config.steps
        if due or not finite:
            losses = jax.tree.map(lambda *records: np.concatenate(records), *parts)
            yield Snapshot(step=done, image=jnp.clip(image, 0, 1), losses=losses, finite=finite)
            parts = []
        if not finite:
            return


class _Pace:
    """How many steps to make in one call, from the seconds that the last ones took."""

    def __init__(self, seconds: float | None):
        self._seconds, self._calls, self._per_step = seconds, 0, 0.0
        self._since = time.perf_counter()

    def steps(self) -> int:
        if self._seconds is None:
            return _CAPACITY
        self._since = time.perf_counter()
        # The first call compiles, so its time says nothing.
        if self._calls < 2:
            return 1
        return min(max(1, int(self._seconds / self._per_step)), _CAPACITY)

    def made(self, steps: int) -> None:
        self._calls += 1
        self._per_step = (time.perf_counter() - self._since) / steps


@functools.partial(jax.jit, static_argnames=("content_layers", "style_layers"))
def _targets(
    network: VGG19,
    content: Array,
    style: Array,
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
) -> Targets:
    return make_targets(
        functools.partial(network, taps=content_layers + style_layers),
        content,
        style,
        content_layers=content_layers,
        style_layers=style_layers,
    )


@functools.partial(jax.jit, static_argnames="program")
def _start(content: Array, numbers: _Numbers, program: _Program) -> optimize.State:
    # Under jit every leaf has a buffer of its own, so that the state can be donated.
    return optimize.init(normalize(content), optimizer=_optimizer(numbers, program))


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def _advance(
    state: optimize.State,
    steps: int | Int[Array, ""],
    network: VGG19,
    targets: Targets,
    numbers: _Numbers,
    program: _Program,
) -> tuple[optimize.State, Array, Losses]:
    """Make `steps` updates; return the state, the picture (not clipped) and the losses."""

    def loss(variable: Array) -> tuple[Array, Losses]:
        return style_transfer_loss(
            denormalize(variable),
            targets,
            features=functools.partial(network, taps=program.taps),
            content_weight=numbers.content_weight,
            style_weight=numbers.style_weight,
        )

    optimizer = _optimizer(numbers, program)
    state, records = optimize.run(state, steps, loss=loss, optimizer=optimizer, capacity=_CAPACITY)
    return state, denormalize(state.variable), records
