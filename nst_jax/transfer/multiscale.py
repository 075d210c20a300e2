"""A run over its scales, some steps at a time: snapshots on the way, and checkpoints."""

import math
import operator
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.config import Optimizer, ResolvedConfig
from nst_jax.devices.sharding import spans_processes
from nst_jax.distributed.collectives import agree, broadcast_from_first
from nst_jax.geometry import Shape, resample, shape_of
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.optimizers.adam import AdamState
from nst_jax.scale.interface import Scale, ScaleInputs
from nst_jax.scale.prepare import begin_scale
from nst_jax.scale.step import CAPACITY
from nst_jax.transfer.initial_image import first_picture
from nst_jax.transfer.schedule import ScalePlan, Schedule

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
      finite: False if a loss was infinite or not a number, or the squares that Adam averages. The
        image is then the last picture for which all was well, and no snapshot follows.
      stuck: True where L-BFGS has gained nothing in its last steps, and so never will. The steps
        that are left at this scale are counted, but not made; there are no losses of them.
    """

    step: int
    image: Float[Array, "*batch height width 3"]
    losses: Losses
    finite: bool
    stuck: bool = False


@runtime_checkable
class Checkpoints(Protocol):
    """Where a run's state is kept; `nst_jax.io.checkpoint.CheckpointStore` is one."""

    def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Keep a state after a step; `extra` is what JSON has."""

    def resume(self, like: Callable[[dict[str, Any]], Any]) -> Any:
        """Return the last `step`, `state` and `extra`, or None; `like` tells shapes by `extra`."""


# Steps of L-BFGS that gain nothing, after which no more are made.
_STUCK = 5


class Run(NamedTuple):
    """What a run takes; see `stylize`."""

    content: _Picture
    styles: Sequence[_Style]
    start: _Start | None
    network: VGG
    config: ResolvedConfig
    schedule: Schedule
    devices: Sequence[Any]

    def begin(self, plan: ScalePlan, picture: Any, before: Scale | None) -> tuple[Scale, Any]:
        """Prepare a scale, and return it with the picture that it begins with.

        Args:
          plan: of the scale.
          picture: that of the scale before, if there was one.
          before: the scale before.
        """
        content = _resized(self.content, plan.shape)
        styles = list(map(_resized, self.styles, plan.styles))
        if picture is None:
            picture = first_picture(content, styles, self.start, self.config)
        else:
            picture = _enlarged(picture, plan.shape, clamp=self.config.clamp)
        inputs = ScaleInputs(
            content,
            styles,
            picture,
            self.network,
            self.config,
            tiles=plan.tiles,
            devices=self.devices,
            before=before.state() if before else None,
        )
        return begin_scale(inputs), picture


class Saver:
    """Saves the state of a run into its checkpoints, if there are any, and loads it."""

    def __init__(self, checkpoints: Checkpoints | None, seconds: float):
        self._checkpoints, self._seconds = checkpoints, seconds
        self._since, self._saved = time.monotonic(), 0

    def resume(self, run: Run) -> tuple[int, int, Scale | None]:
        """Return the number of the scale, the steps made, and the scale where the run goes on."""
        found: list[Scale] = []

        def like(extra: dict[str, Any]) -> Any:
            plan = run.schedule.scales[extra["scale"]]
            found.append(run.begin(plan, None, None)[0])
            return found[-1].abstract_state(extra["rows"])

        saved = self._checkpoints.resume(like) if self._checkpoints else None
        if saved is None:
            return 0, 0, None
        found[-1].load_state(saved.state)
        self._saved = saved.step
        return saved.extra["scale"], saved.step, found[-1]

    def save(self, number: int, done: int, scale: Scale, *, at_once: bool = False) -> None:
        """Save the state if it is time; in all processes or in none."""
        if self._checkpoints is None or not scale.shared:
            return
        if at_once or agree(time.monotonic() - self._since > self._seconds):
            if done > self._saved:
                state = scale.state_to_save()
                extra = {"scale": number, "rows": state.variable.shape[-3]}
                self._checkpoints.save(done, state, extra)
            self._saved, self._since = done, time.monotonic()


class _Chunk(NamedTuple):
    """Some steps of a scale, made in one call.

    Attributes:
      done: the steps of the run so far.
      picture: after them, not clipped.
      losses: of each of them.
      finite: see `Snapshot`.
      stuck: see `Snapshot`.
    """

    done: int
    picture: Any
    losses: Losses
    finite: bool
    stuck: bool


def snapshots(
    run: Run, snapshot_every: int | None, snapshot_seconds: float | None, saver: Saver
) -> Generator[Snapshot, None, None]:
    """Yield the snapshots of a run; see `stylize`."""
    total = run.schedule.steps
    every = snapshot_every or total
    first, done, scale = saver.resume(run)
    picture: Any = scale.picture() if scale else None
    parts: list[Losses] = []
    for number, plan in enumerate(run.schedule.scales[first:], first):
        if not scale or number > first:
            scale, picture = run.begin(plan, picture, scale)
        end = sum(each.steps for each in run.schedule.scales[: number + 1])
        pace = _Pace(snapshot_seconds, agreed=spans_processes(run.devices))
        for chunk in _minimize(scale, done, end, every, pace, run.config.optimizer):
            done = chunk.done
            parts.append(chunk.losses)
            unfinished = chunk.finite and done < total
            if chunk.finite:
                picture = chunk.picture
            if unfinished:
                saver.save(number, done, scale)
            due = snapshot_seconds is not None or done % every == 0 or done == total
            if due or chunk.stuck or not chunk.finite:
                losses = jax.tree.map(lambda *records: np.concatenate(records), *parts)
                image = jnp.clip(picture, 0, 1)
                try:
                    yield Snapshot(done, image, losses, chunk.finite, chunk.stuck)
                except GeneratorExit:
                    if unfinished:
                        saver.save(number, done, scale, at_once=True)
                    raise
                parts = []
            if not chunk.finite:
                return


def _minimize(
    scale: Scale, done: int, end: int, every: int, pace: "_Pace", optimizer: Optimizer
) -> Iterator[_Chunk]:
    """Make the steps of one scale, as many in one call as the pace says.

    Args:
      scale: where the steps are made.
      done: the steps of the run so far.
      end: those after the last step of the scale.
      every: a chunk ends at every multiple of so many steps.
      pace: how many steps to make in one call.
      optimizer: which one makes the steps.
    """
    recent = np.empty(0)
    while done < end:
        steps = min(end - done, every - done % every, pace.steps())
        picture, records = scale.advance(steps)
        losses = jax.tree.map(operator.itemgetter(slice(steps)), jax.device_get(records))
        pace.made(steps)
        recent = np.append(recent, losses.total)[-1 - _STUCK :]
        stuck = _is_stuck(recent, optimizer)
        done = end if stuck else done + steps
        finite = bool(np.isfinite(losses.total).all() and jnp.isfinite(picture).all())
        finite = finite and _moves(scale.state_to_save().optimizer)
        yield _Chunk(done, picture, losses, finite, stuck)


def _is_stuck(totals: np.ndarray, optimizer: Optimizer) -> bool:
    """Say whether an optimizer has gained nothing in its last steps, and so never will.

    Args:
      totals: the loss before each of the last steps.
      optimizer: its name. The line search of `lbfgs` accepts no larger loss on purpose, so a step
        without gain has found nothing. `lbfgs-torch` may go up; its loss stays where it has ended.
    """
    if optimizer == "adam" or len(totals) <= _STUCK:
        return False
    first, *later = totals
    return all(x == first or (x > first and optimizer == "lbfgs") for x in later)


def _moves(optimizer: Any) -> bool:
    """Say whether Adam's averages of squares are finite; with an infinite one it makes no step."""
    if not isinstance(optimizer, AdamState):
        return True
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(optimizer.square))


def _resized(image: _Style, shape: Shape) -> _Style:
    return image if shape_of(image) == shape else jnp.clip(resample(image, shape), 0, 1)


def _enlarged(picture: _Style, shape: Shape, *, clamp: bool) -> _Style:
    """Bring the picture of one scale to the next one's size."""
    larger = resample(picture, shape, method="cubic")
    return jnp.clip(larger, 0, 1) if clamp else larger


def steps_of_call(seconds: float, per_step: float) -> int:
    """Return how many steps to make in one call.

    XLA takes a call's memory from the system and gives it back at the end; on a CPU that is up to
    a fifth of a step's time (docs/performance.md). Two steps share it, where that is not more than
    four times as long as was asked for.

    Args:
      seconds: that a call should take at least.
      per_step: seconds that a step takes.
    """
    steps = math.ceil(seconds / per_step)
    if 2 * per_step <= 4 * seconds:
        steps = max(steps, 2)
    return min(steps, CAPACITY)


class _Pace:
    """How many steps to make in one call, from the seconds that the last ones took."""

    def __init__(self, seconds: float | None, *, agreed: bool):
        self._seconds, self._calls, self._per_step = seconds, 0, 0.0
        self._agreed = agreed  # between processes, whose clocks differ
        self._since = time.perf_counter()

    def steps(self) -> int:
        if self._seconds is None:
            return CAPACITY
        self._since = time.perf_counter()
        # The first call compiles, so its time says nothing.
        if self._calls < 2:
            return 1
        steps = steps_of_call(self._seconds, self._per_step)
        return broadcast_from_first(steps) if self._agreed else steps

    def made(self, steps: int) -> None:
        self._calls += 1
        self._per_step = (time.perf_counter() - self._since) / steps
