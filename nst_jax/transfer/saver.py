"""Save the state of a run in progress now and then, and go on from it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from nst_jax.distributed.collectives import agree
from nst_jax.scale.interface import Scale


@runtime_checkable
class Checkpoints(Protocol):
    """Where a run's state is kept; `nst_jax.io.checkpoint.CheckpointStore` is one."""

    def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Keep a state after a step; `extra` is what JSON has."""

    def resume(self, like: Callable[[dict[str, Any]], Any]) -> Any:
        """Return the last `step`, `state` and `extra`, or None; `like` tells shapes by `extra`."""


class Saver:
    """Saves the state of a run into its checkpoints, if there are any, and loads it."""

    def __init__(self, checkpoints: Checkpoints | None, seconds: float):
        self._checkpoints, self._seconds = checkpoints, seconds
        self._since, self._saved = time.monotonic(), 0

    def resume(self, begin: Callable[[int], Scale]) -> tuple[int, int, Scale | None]:
        """Return the number of the scale, the steps made, and the scale where the run goes on.

        Args:
          begin: takes the number of a scale to the scale before its first step.
        """
        found: list[Scale] = []

        def like(extra: dict[str, Any]) -> Any:
            found.append(begin(extra["scale"]))
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
