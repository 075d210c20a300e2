"""A run over its scales, some steps at a time: snapshots on the way, and checkpoints."""

import operator
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.config import Optimizer, ResolvedConfig
from nst_jax.devices.sharding import spans_processes
from nst_jax.geometry import Shape, resample, shape_of
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.optimizers.adam import AdamState
from nst_jax.scale.interface import Scale, ScaleInputs
from nst_jax.scale.prepare import begin_scale
from nst_jax.transfer.initial_image import first_picture
from nst_jax.transfer.pace import Pace
from nst_jax.transfer.saver import Saver
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

    def begin_anew(self, number: int) -> Scale:
        """Prepare a scale without the one before it, for a state that is loaded into it."""
        return self.begin(self.schedule.scales[number], None, None)[0]


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
    first, done, scale = saver.resume(run.begin_anew)
    picture: Any = scale.picture() if scale else None
    parts: list[Losses] = []
    for number, plan in enumerate(run.schedule.scales[first:], first):
        if not scale or number > first:
            scale, picture = run.begin(plan, picture, scale)
        end = sum(each.steps for each in run.schedule.scales[: number + 1])
        pace = Pace(snapshot_seconds, agreed=spans_processes(run.devices))
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
    scale: Scale, done: int, end: int, every: int, pace: Pace, optimizer: Optimizer
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
