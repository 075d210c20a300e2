"""The whole job on arrays: two images and a network in, snapshots of the picture out."""

import dataclasses
import functools
import operator
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from nst_jax import optimize
from nst_jax.adam import torch_adam
from nst_jax.backend import resolve
from nst_jax.config import Config, Optimizer
from nst_jax.errors import InputError
from nst_jax.lbfgs import torch_lbfgs
from nst_jax.objective import Losses, Targets, make_targets, style_transfer_loss
from nst_jax.vgg import (
    TAPS,
    VGG19,
    build_vgg19,
    check_size,
    check_taps,
    denormalize,
    freeze,
    normalize,
    recast_vgg19,
)

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


class Numbers(NamedTuple):
    """The settings that the compiled program takes at run time: changing one compiles nothing."""

    learning_rate: float | Float[Array, ""]
    content_weight: float | Float[Array, ""]
    style_weight: float | Float[Array, ""]


class Program(NamedTuple):
    """The settings that make another program. Adam's decays too: as float32 numbers that are known
    only at run time, 1 - 0.999 would lose half its digits.
    """

    taps: tuple[str, ...]
    optimizer: Optimizer
    memory_size: int
    beta1: float
    beta2: float


def split_config(config: Config) -> tuple[Numbers, Program]:
    """Take apart what a run knows at run time and what it compiles.

    Raises:
      InputError: if a layer does not exist.
    """
    return (
        Numbers(config.learning_rate, config.content_weight, config.style_weight),
        Program(
            check_taps(config.content_layers + config.style_layers),
            config.optimizer,
            config.memory_size,
            config.beta1,
            config.beta2,
        ),
    )


def build_network(
    params: dict[str, np.ndarray], config: Config, *, deepest: str = TAPS[-1]
) -> VGG19:
    """Build the network that the settings describe, down to a tap; see `build_vgg19`.

    Raises:
      InputError: if `build_vgg19` or `backend.resolve` does.
    """
    config = resolve(config)
    assert config.conv != "auto"
    return build_vgg19(
        params,
        pooling=config.pooling,
        pool_scale=config.pool_scale,
        padding=config.padding,
        dtype=config.dtype,
        param_dtype=config.image_dtype,
        conv=config.conv,
        deepest=deepest,
    )


def make_optimizer(numbers: Numbers, program: Program) -> optax.GradientTransformation:
    """Return the optimizer that the settings name."""
    match program.optimizer:
        case "adam":
            return torch_adam(numbers.learning_rate, b1=program.beta1, b2=program.beta2)
        case "lbfgs":
            return optax.lbfgs(memory_size=program.memory_size)
        case "lbfgs-torch":
            return torch_lbfgs(memory_size=program.memory_size)


def variable_loss(
    variable: Float[Array, "*batch height width 3"],
    network: VGG19,
    targets: Targets,
    numbers: Numbers,
    program: Program,
) -> tuple[Float[Array, ""], Losses]:
    """Compute the loss that is minimized, as a function of the normalized image."""
    return style_transfer_loss(
        variable,
        targets,
        features=functools.partial(network.from_normalized, taps=program.taps),
        content_weight=numbers.content_weight,
        style_weight=numbers.style_weight,
    )


def check_inputs(
    content: Float[np.ndarray | Array, "..."],
    style: Float[np.ndarray | Array, "..."],
    config: Config,
) -> None:
    """Check that both images are large enough for the layers.

    Raises:
      InputError: if they are not, or a layer does not exist.
    """
    taps = check_taps(config.content_layers + config.style_layers)
    for role, image in (("content", content), ("style", style)):
        try:
            check_size(image.shape[-3], image.shape[-2], taps)
        except InputError as error:
            raise InputError(f"the {role} image: {error}") from None


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
      network: from `load_vgg19`, with the config's pooling and padding, and its dtype unless the
        precision is auto. Its convolutions are computed as the config says.
      config: settings; the preset `pytorch` by default. `size` is not used here. With the precision
        auto a network in float32, as `load_vgg19` makes it, computes in what suits the device, and
        any other in its own type.
      snapshot_every: a snapshot is yielded at every multiple of this many steps and at the end.
      snapshot_seconds: if given, also about this often.

    Yields:
      Snapshots. The last one has `step == config.steps`, unless a loss was not finite: such a
      snapshot is the last one.

    Raises:
      InputError: for images that are too small, or of the wrong shape or type, for a network that
        does not pool, pad or compute as the config says, for a precision that the device does not
        have, for a batch with L-BFGS, which would make one problem of it, and for float64 without
        `jax_enable_x64`.
    """
    network, config = _settle(network, Config() if config is None else config)
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError("precision is float64; it needs jax.config.update('jax_enable_x64', True)")
    for name in ("pooling", "pool_scale", "padding", "dtype"):
        theirs, wanted = getattr(network, name), getattr(config, name)
        theirs = str(theirs) if name == "dtype" else theirs
        if theirs != wanted:
            raise InputError(
                f"the network's {name} is {theirs!r}, the config's is {wanted!r}; "
                "build the network with the config's"
            )
    if snapshot_every < 1:
        raise InputError(f"snapshot_every is {snapshot_every}; it must be at least 1")
    content, style = (
        _as_image(image, role, config) for image, role in ((content, "content"), (style, "style"))
    )
    if content.ndim == 4 and config.optimizer != "adam":
        raise InputError(
            f"the content image is a batch of {len(content)}; {config.optimizer} takes one picture "
            "at a time, of shape (height, width, 3)"
        )
    check_inputs(content, style, config)
    return _snapshots(content, style, network, config, snapshot_every, snapshot_seconds)


def _settle(network: VGG19, config: Config) -> tuple[VGG19, Config]:
    """Decide what is left to `stylize`; return the network that computes so, and the config."""
    if config.precision == "auto" and network.dtype != jnp.float32:
        own: Any = str(network.dtype)
        config = dataclasses.replace(config, precision=own)
    chosen = resolve(config)
    assert chosen.conv != "auto"
    dtype = chosen.dtype if config.precision == "auto" else network.dtype
    return recast_vgg19(network, dtype=dtype, conv=chosen.conv), chosen


def _as_image(image: ArrayLike, role: str, config: Config) -> Float[Array, "*batch height width 3"]:
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
    return array.astype(jnp.float64) if config.dtype == "float64" else array


def _snapshots(
    content: Float[Array, "*batch height width 3"],
    style: Float[Array, "*style_batch style_height style_width 3"],
    network: VGG19,
    config: Config,
    snapshot_every: int,
    snapshot_seconds: float | None,
) -> Iterator[Snapshot]:
    state, problem, program = begin(content, style, network=network, config=config)
    done, image, pace = 0, content, _Pace(snapshot_seconds)
    parts: list[Losses] = []
    while done < config.steps:
        chunk = min(config.steps - done, snapshot_every - done % snapshot_every, pace.steps())
        with jax.default_matmul_precision(config.matmul_precision):
            state, new_image, records = advance(state, chunk, problem, program)
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


class Problem(NamedTuple):
    """What stays the same in a run, at run time."""

    network: VGG19
    targets: Targets
    numbers: Numbers


def begin(
    content: Float[Array, "*batch height width 3"],
    style: Float[Array, "*style_batch style_height style_width 3"],
    *,
    network: VGG19,
    config: Config,
) -> tuple[optimize.State, Problem, Program]:
    """Prepare a run of resolved settings: what `advance` takes, and its state before any step."""
    numbers, program = split_config(config)
    network = freeze(network, taps=program.taps)
    with jax.default_matmul_precision(config.matmul_precision):
        targets = compute_targets(
            network, content, style, config.content_layers, config.style_layers
        )
    return _start(content, numbers, program), Problem(network, targets, numbers), program


def compute_targets(
    network: VGG19,
    content: Float[Array, "*batch height width 3"],
    style: Float[Array, "*style_batch style_height style_width 3"],
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
) -> Targets:
    """Compute what `make_targets` does with one compiled program, if the images are of one size."""
    style_targets = _describe(network, style, content_layers, style_layers).style
    content_targets = _describe(network, content, content_layers, style_layers).content
    batch = content.shape[:-3]
    return Targets(
        content_targets,
        jax.tree.map(lambda g: jnp.broadcast_to(g, (*batch, *g.shape[-2:])), style_targets),
    )


@functools.partial(jax.jit, static_argnames=("content_layers", "style_layers"))
def _describe(
    network: VGG19,
    image: Float[Array, "*batch height width 3"],
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
) -> Targets:
    """Compute the targets of an image that is content and style at once."""
    maps = network(image, taps=content_layers + style_layers)
    return make_targets(
        lambda _: maps, image, image, content_layers=content_layers, style_layers=style_layers
    )


@functools.partial(jax.jit, static_argnames="program")
def _start(content: Array, numbers: Numbers, program: Program) -> optimize.State:
    # Under jit every leaf has a buffer of its own, so that the state can be donated.
    return optimize.init(normalize(content), optimizer=make_optimizer(numbers, program))


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def advance(
    state: optimize.State, steps: int | Int[Array, ""], problem: Problem, program: Program
) -> tuple[optimize.State, Array, Losses]:
    """Make `steps` updates; return the state, the picture (not clipped) and the losses."""

    def loss(variable: Array) -> tuple[Array, Losses]:
        network, targets, numbers = problem
        return variable_loss(variable, network, targets, numbers, program)

    optimizer = make_optimizer(problem.numbers, program)
    state, records = optimize.run(state, steps, loss=loss, optimizer=optimizer, capacity=_CAPACITY)
    return state, denormalize(state.variable), records
