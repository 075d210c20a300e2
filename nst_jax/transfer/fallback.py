"""Where numbers stop being finite: what failed, and a last good state to go back to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from nst_jax.config import OnNan
from nst_jax.losses.objective import Losses
from nst_jax.scale.interface import Scale

SHORTER = 0.25  # each time a run goes back, its steps get shorter by this factor
TRIES = 6  # how often a run goes back, at most
_GROWN = 10.0  # a loss that has grown so many times is not that of a good state
_DIVERGED = 1000.0  # nor will one that has grown so many times get well


class Setback(NamedTuple):
    """A step whose loss was not finite, from which a run has gone back.

    Attributes:
      step: its number, from 1.
      failed: what was not finite.
    """

    step: int
    failed: str


class Kept(NamedTuple):
    """A good state of a scale.

    Attributes:
      done: the steps of the run that count as made.
      state: of the scale; a copy.
      recent: the losses of the last steps before it.
      loss: its own, or that of the step before; None: not known yet.
    """

    done: int
    state: Any
    recent: tuple[float, ...]
    loss: float | None = None


class Fallback:
    """Keeps a good state of the scale in progress, if it is asked to, and goes back to it.

    Attributes:
      kept: the state; None if none is kept.
      setbacks: from where the run has gone back so far.
    """

    def __init__(self, on_nan: OnNan):
        self.is_on = on_nan == "backoff"
        self.setbacks: tuple[Setback, ...] = ()
        self.kept: Kept | None = None

    @property
    def numbers(self) -> Mapping[str, float]:
        """The settings that hold for the steps from here on."""
        return {"step_factor": SHORTER ** len(self.setbacks)} if self.setbacks else {}

    def keep(self, scale: Scale, done: int, recent: tuple[float, ...], *, begins: bool) -> None:
        """Keep the state, unless its loss has grown much since the state that is kept.

        Args:
          scale: has the state.
          done: the steps of the run so far.
          recent: the losses of the last steps of the scale.
          begins: whether the scale begins, or goes on from a checkpoint.
        """
        if not self.is_on:
            return
        loss = recent[-1] if recent else None
        had = None if begins or self.kept is None else self.kept.loss
        if had is None or loss is None or loss <= _GROWN * abs(had):
            self.kept = Kept(done, _copy(scale.state_to_save()), recent, loss)

    def first_bad(self, totals: Float[np.ndarray, "*steps_and_batch"]) -> int | None:
        """Return the first row whose loss is not finite, or has run away; None: all are good.

        A loss that grows is good where the run would not go back.
        """
        bad = ~np.isfinite(totals.reshape(len(totals), -1)).all(1)
        if self.kept:
            if self.kept.loss is None:
                self.kept = self.kept._replace(loss=float(totals[0]))
            bad |= totals.astype(float) > _DIVERGED * abs(self.kept.loss or 0.0)
        return int(np.flatnonzero(bad)[0]) if bad.any() else None

    def back(self, scale: Scale, done: int, setback: Setback) -> Kept | None:
        """Load the kept state, and return it; None if that does not help, or was done too often.

        Args:
          scale: gets the state.
          done: the steps of the run that count as made, though the state is of fewer.
          setback: why.
        """
        if self.kept is None or done <= self.kept.done or len(self.setbacks) == TRIES:
            return None
        scale.load_state(_copy(self.kept.state))
        self.setbacks = (*self.setbacks, setback)
        self.kept = self.kept._replace(done=done)
        return self.kept


def _copy(state: Any) -> Any:
    return jax.tree.map(lambda x: x.copy(), state)


def what_failed(losses: Any, row: int | None) -> str:
    """Say what went wrong at a row of the losses; None: all of them are good."""
    if row is None:
        return "the picture became infinite or not a number"
    terms: dict[str, Any] = {}
    if isinstance(losses, Losses):
        terms |= {f"content term of {name}": x for name, x in losses.content_terms.items()}
        terms |= {f"style term of {name}": x for name, x in losses.style_terms.items()}
        terms |= losses.terms
    terms["loss"] = losses.total if isinstance(losses, Losses) else losses.loss
    failed = [name for name, x in terms.items() if not np.isfinite(x[row]).all()]
    if failed:
        return f"the {failed[0]} became infinite or not a number"
    return "the loss grew a thousandfold"
