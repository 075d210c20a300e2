"""What the page shows of a run: its status, its picture, its losses."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from nst_jax.app.live import View
from nst_jax.geometry import fit
from nst_jax.io.arrays import rounded
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.pace import duration_text
from nst_jax.transfer.progress import ends_scale
from nst_jax.transfer.schedule import Schedule

_MOST = 768  # px; the longest side of the picture on the page
_POINTS = 200  # most points of a curve
COLORS = {"total": "#1f2937", "content": "#f97316", "style": "#2563eb"}  # of the curves
_PHASES = {
    "waiting": "Loading the network and compiling; the first run of a size takes longest.",
    "painting": "Painting",
    "paused": "Paused",
    "ended": "Done",
}


def shown_image(
    image: Float[jax.Array | np.ndarray, "_ _ 3"], content: Float[np.ndarray, "_ _ 3"]
) -> Image.Image:
    """Return an image at the size at which the page shows the content."""
    height, width = content.shape[:2]
    height, width = fit(height, width, min(_MOST, max(height, width)), side="longest")
    whole = Image.fromarray(rounded(np.asarray(image)))
    return whole.resize((width, height), Image.Resampling.BICUBIC)


def loss_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return the losses so far as a table for the plot."""
    import pandas as pd  # type: ignore[import-untyped]

    chosen = rows[1 :: max(1, len(rows) // _POINTS)]  # of the content itself the content loss is 0
    table = [
        {"step": row["step"], "loss": float(np.log10(row[part])), "part": part}
        for row in chosen
        for part in COLORS
        if isinstance(row[part], float) and row[part] > 0
    ]
    return pd.DataFrame(table, columns=["step", "loss", "part"])


def status_line(text: str) -> str:
    """Return a line of HTML that a screen reader reads aloud when it changes."""
    return f'<p role="status">{text}</p>'


def status_html(view: View) -> str:
    """Return what a run is doing, as HTML."""
    last, schedule = view.last, view.schedule
    text, bar = _PHASES[view.phase], ""
    if view.phase == "ended" and not view.file:
        text = "There is no picture."
    elif last and schedule:
        text += f": step {last.step} of {schedule.steps}"
        bar = f'<progress aria-label="steps" value="{last.step}" max="{schedule.steps}"></progress>'
        if view.phase != "ended":
            text += _scale_text(last, schedule)
        if view.left and view.phase == "painting":
            text += f", {duration_text(view.left.seconds)} left"
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in view.notes)
    return bar + status_line(html.escape(text)) + notes


def _scale_text(last: Snapshot[Losses], schedule: Schedule) -> str:
    """Return what happens at which scale."""
    ends = ends_scale(last, schedule)
    number = last.scale + ends
    height, width = schedule.scales[number - 1].shape
    return f", {'preparing ' if ends else ''}scale {number} of {last.scales}, {width}×{height} px"
