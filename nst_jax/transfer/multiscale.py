"""A run over its scales, some steps at a time: snapshots on the way, and checkpoints."""

import itertools
import operator
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.config import OnNan, Optimizer
from nst_jax.errors import InputError
from nst_jax.losses.objective import Losses
from nst_jax.optimizers.adam import AdamState
from nst_jax.optimizers.minimize import Record
from nst_jax.scale.interface import UNCHANGED, Numbers, Scale
from nst_jax.transfer.fallback import Fallback, Setback, what_failed
from nst_jax.transfer.pace import Pace
from nst_jax.transfer.saver import Progress, Saver

_Records = TypeVar("_Records", Losses, Record)


@dataclass(frozen=True)
class Snapshot(Generic[_Records]):
    """The picture after some number of steps.

    Attributes:
      step: updates made so far, at all scales together.
      image: the picture, sRGB clipped to [0, 1]; of the content's shape at the last scale, smaller
        before.
      losses: of every step since the snapshot before, as numpy arrays with a first axis of steps;
        entry i belongs to the iterate *before* that step's update. From `stylize` it is
        `objective.Losses`, whose values have the shape (steps,), or (steps, n) for a batch of n
        pictures. From `run_scales` it is the minimizer's `Record`.
      finite: False if a loss was infinite or not a number, or the squares that Adam averages. The
        image is then the last picture for which all was well, and no snapshot follows.
      stuck: True where the picture no longer changes: by less than `Config.stop_change`, or L-BFGS
        has gained nothing in its last steps, and so never will. The steps that are left at this
        scale are counted, but not made; there are no losses of them.
      bad: which pictures of a batch made the run end; empty if `finite`.
      failed: what was not finite, and at which step; None if `finite`.
      setbacks: the steps so far from which the run has gone back; see `Config.on_nan`. They count
        as made, as those do that led to them; there are no losses of what was not finite.
      scale: the number of the scale, from 1.
      scales: how many scales there are.
      scale_step: updates made so far at this scale.
    """

    step: int
    image: Float[Array | np.ndarray, "*batch height width channels"]
    losses: _Records
    finite: bool
    stuck: bool = False
    bad: tuple[int, ...] = ()
    failed: Setback | None = None
    setbacks: tuple[Setback, ...] = ()
    scale: int = 1
    scales: int = 1
    scale_step: int = 0

    def _repr_png_(self) -> bytes | None:
        """Return the picture as a PNG file, which notebooks show; a batch side by side."""
        from nst_jax.io.png import png

        return png(self.image) if self.image.shape[-1] == 3 else None


EndScale = Callable[[Any], bool]
Adjust = Callable[[int], Numbers]

# Steps of L-BFGS that gain nothing, after which no more are made.
_STUCK, _CAN_BE_STUCK = 5, ("lbfgs", "lbfgs-torch")
# Whether a scale ends early is decided at every tenth step of it. Other steps say nothing, so that
# the end depends neither on the pace nor on where a run was interrupted.
_LOOK = 10


@dataclass(frozen=True)
class Pauses:
    """When a run yields a snapshot, where a scale ends, and what changes on the way; see `stylize`.

    For `stop_change` and `on_nan` see `Config`.
    """

    every: int | None
    seconds: float | None
    end_scale: EndScale | None
    stop_change: float = 0.0
    adjust: Adjust = lambda _: UNCHANGED
    on_nan: OnNan = "stop"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.every is not None and self.every < 1:
            raise InputError(f"snapshot_every is {self.every}; it must be at least 1")


@runtime_checkable
class Job(Protocol):
    """What a run over scales works on."""

    @property
    def steps(self) -> Sequence[int]:
        """The updates at each scale."""

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer's name, for those that can be stuck."""

    @property
    def agreed(self) -> bool:
        """Whether several processes must do the same together."""

    def begin(self, number: int, picture: Any, before: Scale | None) -> tuple[Scale, Any]:
        """Prepare a scale, and return it with the picture that it begins with.

        Args:
          number: of the scale, from 0.
          picture: that of the scale before, if there was one.
          before: the scale before.
        """

    def shown(self, picture: Any) -> Any:
        """Return the picture of a snapshot, in [0, 1], for one that is optimized."""


class _Chunk(NamedTuple):
    """Some steps of a scale, made in one call.

    Attributes:
      done: the steps of the run so far.
      picture: after them, not clipped.
      losses: of each of them.
      failed: see `Snapshot`.
      stuck: see `Snapshot`.
      bad: see `Snapshot`.
      recent: the losses of the last steps of the scale.
    """

    done: int
    picture: Any
    losses: Any
    failed: Setback | None
    stuck: bool
    bad: tuple[int, ...]
    recent: tuple[float, ...]


def snapshots(job: Job, pauses: Pauses, saver: Saver) -> Generator[Snapshot[Any], None, None]:
    """Yield the snapshots of a run; see `stylize`."""
    ends = list(itertools.accumulate(job.steps))
    total, every = ends[-1], pauses.every or ends[-1]
    fallback = Fallback(pauses.on_nan)
    first, done, scale, recent, _ = saver.resume(job.begin, job.steps, fallback)
    picture: Any = scale.picture() if scale else None
    parts: list[Any] = []
    for number, end in enumerate(ends[first:], first):
        if not scale or number > first:
            scale, picture = job.begin(number, picture, scale)
            recent = ()
        pace = Pace(pauses.seconds, agreed=job.agreed)
        own = range(end - job.steps[number], end)
        for chunk in _minimize(
            scale, picture, own, done, pace, pauses, job.optimizer, recent, fallback
        ):
            done = chunk.done
            parts.append(chunk.losses)
            unfinished = not chunk.failed and done < total
            if not chunk.failed:
                picture = chunk.picture
            fixed = tuple(job.steps[: number + chunk.stuck])
            now = Progress(number, done, scale, chunk.recent, fixed)
            due = pauses.seconds is not None or done % every == 0 or done == total
            if not (due or chunk.stuck or chunk.failed):
                saver.save(now, fallback)
                continue
            losses = jax.tree.map(lambda *records: np.concatenate(records), *parts)
            parts = []
            chunk = chunk._replace(picture=picture, losses=losses)
            snapshot = _snapshot(job, number, chunk, fallback.setbacks)
            try:
                yield snapshot
            except GeneratorExit:
                if unfinished:
                    saver.save(now, fallback, at_once=True)
                raise
            if chunk.failed:
                return
            if unfinished:  # after what is made of the snapshot, or a run that is killed lacks it
                saver.save(now, fallback)
            if pauses.end_scale and pauses.end_scale(snapshot):
                done = end
                break


def _snapshot(job: Job, number: int, chunk: _Chunk, setbacks: tuple[Setback, ...]) -> Snapshot[Any]:
    """Return the snapshot at the end of a chunk, with the losses of all steps since the last."""
    return Snapshot(
        step=chunk.done,
        image=job.shown(chunk.picture),
        losses=chunk.losses,
        finite=not chunk.failed,
        failed=chunk.failed,
        stuck=chunk.stuck,
        bad=chunk.bad,
        setbacks=setbacks,
        scale=number + 1,
        scales=len(job.steps),
        scale_step=chunk.done - sum(job.steps[:number]),
    )


def _minimize(
    scale: Scale,
    picture: Any,
    own: range,
    done: int,
    pace: Pace,
    pauses: Pauses,
    optimizer: Optimizer | None,
    recent: tuple[float, ...],
    fallback: Fallback,
) -> Iterator[_Chunk]:
    """Make the steps of one scale, as many in one call as the pace says.

    Args:
      scale: where the steps are made.
      picture: before them.
      own: the steps of the run that are this scale's.
      done: the steps of the run so far.
      pace: how many steps to make in one call.
      pauses: where a chunk ends, and where the scale does.
      optimizer: which one makes the steps.
      recent: the losses of the last steps of the scale.
      fallback: where the run goes back to if a number is not finite.
    """
    fallback.keep(scale, done, recent, begins=True)
    while done < own.stop:
        steps = min(_most_steps(done, own, pauses, optimizer, fallback), pace.steps())
        before = picture
        numbers = {**fallback.numbers, **pauses.adjust(done)}
        picture, records = scale.advance(steps, numbers=numbers)
        losses = jax.tree.map(operator.itemgetter(slice(steps)), jax.device_get(records))
        pace.made(steps)
        totals: Any = losses.total if isinstance(losses, Losses) else losses.loss
        bad, row = _bad(totals, picture), fallback.first_bad(totals)
        failed = None
        if bad or row is not None:
            good = steps if row is None else row
            failed = Setback(done + min(good + 1, steps), what_failed(losses, row))
            if kept := fallback.back(scale, done + good, failed):
                done, recent, picture = kept.done, kept.recent, scale.picture()
                if good:
                    losses = jax.tree.map(operator.itemgetter(slice(good)), losses)
                    yield _Chunk(done, picture, losses, None, False, (), recent)
                continue
        elif not _moves(scale.state_to_save().optimizer):  # shorter steps do not help
            failed = Setback(done + steps, "the squares of the gradient became infinite")
        sums = totals if totals.ndim == 1 else totals.sum(-1)
        recent = (*recent, *map(float, sums))[-1 - _STUCK :]
        look = not failed and (done + steps - own.start) % _LOOK == 0
        stuck = look and (
            _is_stuck(recent, optimizer)
            or (pauses.stop_change > 0 and _change(before, picture) < pauses.stop_change)
        )
        done = own.stop if stuck else done + steps
        if look:
            fallback.keep(scale, done, recent, begins=False)
        yield _Chunk(done, picture, losses, failed, stuck, bad, recent)


def _most_steps(
    done: int, own: range, pauses: Pauses, optimizer: Optimizer | None, fallback: Fallback
) -> int:
    """Return how many steps may be made until a snapshot, or a step that is looked at."""
    every = pauses.every or own.stop
    steps = min(own.stop - done, every - done % every)
    ahead = _LOOK - 1 - (done - own.start) % _LOOK  # steps before one that is looked at
    if pauses.stop_change:
        return min(steps, ahead or 1)
    if optimizer in _CAN_BE_STUCK or fallback.is_on:
        return min(steps, ahead + 1)
    return steps


def _bad(totals: Float[np.ndarray, "*steps_and_batch"], picture: Any) -> tuple[int, ...]:
    """Return the numbers of the pictures whose losses or values are not finite."""
    # Over all axes of one picture, as in `_moves`: named axes would be another program.
    shown = np.asarray(jnp.isfinite(picture).all((-3, -2, -1) if picture.ndim > 3 else None))
    fine = np.isfinite(totals).all(0) & shown
    return tuple(int(number) for number in np.flatnonzero(~fine))


def _change(before: Any, after: Any) -> float:
    """Return the mean change of a picture in levels of 255, of a batch the largest."""
    difference = 255 * jnp.abs(jnp.asarray(after) - before)
    return float(jnp.max(jnp.mean(difference, (-3, -2, -1))))


def _is_stuck(totals: Sequence[float], optimizer: Optimizer | None) -> bool:
    """Say whether an optimizer has gained nothing in its last steps, and so never will.

    Args:
      totals: the loss before each of the last steps.
      optimizer: its name. The line search of `lbfgs` accepts no larger loss on purpose, so a step
        without gain has found nothing. `lbfgs-torch` may go up; its loss stays where it has ended.
    """
    if optimizer not in _CAN_BE_STUCK or len(totals) <= _STUCK:
        return False
    first, *later = totals
    return all(x == first or (x > first and optimizer == "lbfgs") for x in later)


def _moves(optimizer: Any) -> bool:
    """Say whether Adam's averages of squares are finite; with an infinite one it makes no step."""
    if not isinstance(optimizer, AdamState):
        return True
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(optimizer.square))
