"""Save the state of a run in progress now and then, and go on from it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from nst_jax.distributed.collectives import agree
from nst_jax.errors import InputError
from nst_jax.scale.interface import Scale
from nst_jax.transfer.fallback import Fallback, Kept, Setback

# What may differ from the run that began: `Saver.resume` looks at the state.
FREE = ("steps", "first_steps")


@runtime_checkable
class Checkpoints(Protocol):
    """Where a run's state is kept; `nst_jax.io.checkpoint.CheckpointStore` is one."""

    def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Keep a state after a step; `extra` is what JSON has."""

    def resume(self, like: Callable[[dict[str, Any]], Any]) -> Any:
        """Return the last `step`, `state` and `extra`, or None; `like` tells shapes by `extra`."""


class Progress(NamedTuple):
    """Where a run stands.

    Attributes:
      number: of the scale, from 0.
      done: the steps of the run so far.
      scale: where the next steps are made; None: the run has not begun.
      recent: the losses of the last steps of the scale.
      fixed: the steps of the scales that no longer can be longer.
    """

    number: int = 0
    done: int = 0
    scale: Scale | None = None
    recent: tuple[float, ...] = ()
    fixed: tuple[int, ...] = ()


class Saver:
    """Saves the state of a run into its checkpoints, if there are any, and loads it."""

    def __init__(self, checkpoints: Checkpoints | None, seconds: float):
        self._checkpoints, self._seconds = checkpoints, seconds
        self._since, self._saved = time.monotonic(), 0

    def resume(
        self,
        begin: Callable[[int, None, None], tuple[Scale, Any]],
        steps: Sequence[int],
        fallback: Fallback,
    ) -> Progress:
        """Return where the run goes on.

        Args:
          begin: that of `multiscale.Job`.
          steps: of each scale. They may be others than those of the run that was saved, if the run
            with these steps has that state on its way.
          fallback: of the run; it gets the setbacks of the run that was saved.

        Raises:
          InputError: if it has not.
        """
        found: list[Scale] = []

        def like(extra: dict[str, Any]) -> Any:
            found.append(begin(extra["scale"], None, None)[0])
            return found[-1].abstract_state(extra["rows"])

        saved = self._checkpoints.resume(like) if self._checkpoints else None
        if saved is None:
            return Progress()
        extra = saved.extra
        _check_steps(saved.step, extra["scale"], extra["fixed"], steps)
        found[-1].load_state(saved.state)
        self._saved = saved.step
        fallback.setbacks = tuple(Setback(*each) for each in extra["setbacks"])
        return Progress(extra["scale"], saved.step, found[-1], tuple(extra["recent"]))

    def save(self, now: Progress, fallback: Fallback, *, at_once: bool = False) -> None:
        """Save the state if it is time; in all processes or in none."""
        scale = now.scale
        if self._checkpoints is None or scale is None or not scale.shared:
            return
        if at_once or agree(time.monotonic() - self._since > self._seconds):
            # Where the run may go back, only a state that it may go back to.
            kept = fallback.kept or Kept(now.done, scale.state_to_save(), now.recent)
            if kept.done > self._saved:
                extra = {"scale": now.number, "rows": kept.state.variable.shape[-3]}
                extra |= {"recent": kept.recent, "fixed": now.fixed}
                extra["setbacks"] = fallback.setbacks
                self._checkpoints.save(kept.done, kept.state, extra)
            self._saved, self._since = max(kept.done, self._saved), time.monotonic()


def _check_steps(done: int, number: int, fixed: Sequence[int], steps: Sequence[int]) -> None:
    """Raise InputError if a run with these steps at its scales does not have the state."""
    for scale, (had, has) in enumerate(zip(fixed, steps, strict=False), 1):
        if had != has:
            raise InputError(
                f"the checkpoints were made with {had} steps at scale {scale}, which is over, not "
                f"{has}; give the steps of then, or another folder for checkpoints"
            )
    begun, end = sum(steps[:number]), sum(steps[: number + 1])
    if done > end or done >= sum(steps):
        raise InputError(
            f"the checkpoints have {done - begun} steps of scale {number + 1}, but "
            f"{steps[number]} are asked for there; give more, or another folder for checkpoints"
        )
