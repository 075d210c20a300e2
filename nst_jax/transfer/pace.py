"""How fast a run goes: how many steps to make in one call, and how long the others will take."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from nst_jax.distributed.collectives import broadcast_from_first
from nst_jax.scale.step import CAPACITY
from nst_jax.transfer.schedule import Schedule


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


class Pace:
    """How many steps to make in one call, from the seconds that the last ones took."""

    def __init__(self, seconds: float | None, *, agreed: bool):
        self._seconds, self._calls, self._per_step = seconds, 0, 0.0
        self._agreed = agreed  # between processes, whose clocks differ
        self._since = time.perf_counter()

    def steps(self) -> int:
        """Return how many steps to make in the next call."""
        if self._seconds is None:
            return CAPACITY
        self._since = time.perf_counter()
        # The first call compiles, so its time says nothing.
        if self._calls < 2:
            return 1
        steps = steps_of_call(self._seconds, self._per_step)
        return broadcast_from_first(steps) if self._agreed else steps

    def made(self, steps: int) -> None:
        """Take the time of the call that has made these steps."""
        self._calls += 1
        self._per_step = (time.perf_counter() - self._since) / steps


class Left(NamedTuple):
    """What is left of a run: the steps a second so far, and the seconds until the end."""

    rate: float
    seconds: float


def duration_text(seconds: float) -> str:
    """Return "MINUTES:SECONDS"."""
    return f"{int(seconds / 60)}:{int(seconds % 60):02}"


class TimeLeft:
    """The time that is left of a run; a step's time is taken to be proportional to its pixels.

    Args:
      schedule: the schedule of the run.
      clock: returns the time in seconds.
    """

    def __init__(self, schedule: Schedule, *, clock: Callable[[], float] = time.perf_counter):
        self._schedule, self._clock, self._step, self._time = schedule, clock, 0, 0.0

    def at(self, step: int) -> Left | None:
        """Return what is left at a step; None at the first one asked for, which has compiled."""
        now, pixels = self._clock(), self._schedule.pixels
        if not self._step:
            self._step, self._time = step, now
            return None
        per_pixel = (now - self._time) / (pixels(step) - pixels(self._step))
        left = per_pixel * (pixels(self._schedule.steps) - pixels(step))
        return Left((step - self._step) / (now - self._time), left)
