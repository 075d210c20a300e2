"""Show the progress of a run: in place in a notebook, as a line on a terminal, else nowhere."""

import base64
import contextlib
import html
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.pace import TimeLeft, duration_text
from nst_jax.transfer.schedule import Schedule

SECONDS = 2.0  # between two updates, about; shorter calls to the device take more time
_Show = Callable[[Snapshot[Losses], str], None]


def with_progress(
    snapshots: Generator[Snapshot[Losses], None, None], schedule: Schedule
) -> Generator[Snapshot[Losses], None, None]:
    """Yield the snapshots; show each of them, its losses, and the time that is left.

    Args:
      snapshots: from `stylize`.
      schedule: the schedule of the run.
    """
    time_left = TimeLeft(schedule)
    with contextlib.closing(snapshots), _display() as show:
        for snapshot in snapshots:
            losses = np.asarray(snapshot.losses.total)
            text = f"step {snapshot.step} of {schedule.steps}"
            text += f", scale {snapshot.scale} of {snapshot.scales}"
            if len(losses):
                text += f", loss {losses[-1].sum():.4g}"
            if left := time_left.at(snapshot.step):
                text += f", {duration_text(left.seconds)} left"
            if ends_scale(snapshot, schedule):
                text += "; preparing the next scale"
            show(snapshot, text)
            yield snapshot


def ends_scale(snapshot: Snapshot[Losses], schedule: Schedule) -> bool:
    """Return whether the next scale is to be prepared: its targets, and a program to compile."""
    steps = schedule.scales[snapshot.scale - 1].steps
    return snapshot.scale_step == steps and snapshot.scale < snapshot.scales


@contextlib.contextmanager
def _display() -> Iterator[_Show]:
    """Yield what shows a snapshot with a text."""
    if _in_notebook():
        yield _in_place()
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda snapshot, text: None
        return
    with console.status("compiling") as status:
        yield lambda snapshot, text: status.update(text)


def _in_notebook() -> bool:
    """Return whether this is a kernel whose front end shows pictures."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell" or "google.colab" in sys.modules


def _in_place() -> _Show:
    """Return what shows snapshots in one place of a notebook."""
    from IPython.display import HTML, display

    handle: Any = display(HTML("compiling"), display_id=True)

    def show(snapshot: Snapshot[Losses], text: str) -> None:
        picture = base64.b64encode(snapshot._repr_png_() or b"").decode()
        image = f'<img alt="the picture so far" src="data:image/png;base64,{picture}">'
        handle.update(HTML(f"<p>{html.escape(text)}</p>{image if picture else ''}"))

    return show
