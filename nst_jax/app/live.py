"""A run that other threads watch and steer."""

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from nst_jax.config import checked_live
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.pace import Left, TimeLeft
from nst_jax.transfer.schedule import Schedule

_ON_ITS_WAY = 0.5  # seconds that the last message takes to a browser, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What there is to see of a run at one moment.

    Attributes:
      version: grows with every change.
      phase: "waiting" before the first step, which loads and compiles.
      content: the content image at the size of the picture, once it is loaded.
      schedule: the schedule of the run, once it is known.
      steerable: whether `steer` has an effect.
      last: the newest snapshot, if there is one; its losses are those of its own steps.
      left: what is left of the run, once that can be told.
      rows: the steps and their losses so far; see `take`.
      notes: the warnings of the run, and what it has failed by.
      file: the file of the picture, once it is written.
    """

    version: int = 0
    phase: Literal["waiting", "painting", "paused", "ended"] = "waiting"
    content: Float[np.ndarray, "height width 3"] | None = None
    schedule: Schedule | None = None
    steerable: bool = False
    last: Snapshot[Losses] | None = None
    left: Left | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    notes: tuple[str, ...] = ()
    file: Path | None = None


class Live:
    """A run that other threads watch and steer; each method may be called from any thread.

    Args:
      seconds: how long the run may take, pauses included; then it stops as if `stop` were called.

    Attributes:
      view: what there is to see.
      stopped: whether the run is to stop after its current step.
      changes: the numbers that `steer` has changed, each time with the step from which on they
        hold.
    """

    def __init__(self, *, seconds: float = math.inf):
        self._changed = threading.Condition()
        self._rows: list[Mapping[str, Any]] = []
        self._numbers: dict[str, float] = {}
        self._paused, self._idle, self._watchers = False, 0.0, 0
        self._limit, self._began = seconds, time.perf_counter()
        self._left: TimeLeft | None = None
        self.view = View(rows=self._rows)
        self.stopped = False
        self.changes: list[tuple[int, dict[str, float]]] = []

    # What the run does.

    def clock(self) -> float:
        """Return a time in seconds that stands still while the run is paused."""
        return time.perf_counter() - self._idle

    def begin(
        self,
        content: Float[np.ndarray, "height width 3"],
        schedule: Schedule,
        *,
        steerable: bool,
    ) -> None:
        """Take what the run paints, and whether its numbers may change on the way."""
        self._left = TimeLeft(schedule, clock=self.clock)
        self._show(content=content, schedule=schedule, steerable=steerable)

    def note(self, text: str) -> None:
        """Take a warning."""
        self._show(notes=(*self.view.notes, text))

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take a row for each step: its number as `step`, and its losses by name."""
        self._rows.extend(rows)

    def adjust(self, step: int) -> Mapping[str, float]:
        """Return the numbers that hold from a step on; see `stylize`."""
        numbers = self._numbers
        if numbers != (self.changes[-1][1] if self.changes else {}):
            self.changes.append((step, numbers))
        return numbers

    def watch(self, snapshots: Iterator[Snapshot[Losses]]) -> Iterator[Snapshot[Losses]]:
        """Yield the snapshots; show each, and wait after it while the run is paused."""
        for snapshot in snapshots:
            left = self._left.at(snapshot.step) if self._left else None
            with self._changed:
                phase = "paused" if self._paused else "painting"
                self._show(phase=phase, last=snapshot, left=left)
            self._rest()
            yield snapshot

    def _rest(self) -> None:
        """Wait while the run is paused, but not beyond its limit."""
        began = time.perf_counter()
        with self._changed:
            end = self._began + self._limit
            while self._paused and not self.stopped and time.perf_counter() < end:
                self._changed.wait(min(1.0, self._limit))
        self._idle += time.perf_counter() - began
        if time.perf_counter() > end and not self.stopped:
            self.note(f"stopped after {self._limit:g} s, which is the limit")
            self.stop()

    def written(self, file: Path) -> None:
        """Take the file of the picture."""
        self._show(file=file)

    def end(self) -> None:
        """Say that the run is over."""
        self._show(phase="ended")

    def seen(self, seconds: float) -> None:
        """Wait until all watchers have seen the end, but no longer than some seconds."""
        with self._changed:
            watched = self._watchers
            self._changed.wait_for(lambda: not self._watchers, seconds)
        if watched:
            time.sleep(_ON_ITS_WAY)

    # What a watcher does.

    def steer(self, numbers: Mapping[str, float]) -> None:
        """Let settings have other values from the next call on; see `stylize`.

        Raises:
          InputError: if a setting may not change, or a number is not allowed.
        """
        self._numbers = checked_live(numbers)

    def pause(self, *, on: bool) -> None:
        """Pause the run after its current steps, or let it go on."""
        with self._changed:
            self._paused = on
            if self.view.phase in ("painting", "paused"):
                self._show(phase="paused" if on else "painting")

    def stop(self) -> None:
        """Let the run stop after its current steps, and save its picture."""
        self.stopped = True
        self._show()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count the caller as a watcher inside."""
        with self._changed:
            self._watchers += 1
        try:
            yield
        finally:
            with self._changed:
                self._watchers -= 1
                self._changed.notify_all()

    def wait(self, version: int, seconds: float) -> View:
        """Return the view when it is newer than a version, or after some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.view.version > version, seconds)
            return self.view

    def _show(self, **changes: Any) -> None:
        with self._changed:
            version = self.view.version + 1
            self.view = dataclasses.replace(self.view, version=version, **changes)
            self._changed.notify_all()
