"""A row for each step of a run, and a file of them: losses, their terms, seconds so far."""

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nst_jax.cli.names import check_suffix
from nst_jax.io.files import check_writable
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot

Row = dict[str, Any]
_JSON, _CSV = ".jsonl", ".csv"


def check_log(path: Path) -> None:
    """Raise InputError if `path` cannot be written, or its suffix is neither .jsonl nor .csv."""
    check_suffix("--log", path, (_JSON, _CSV))
    check_writable(path, what="the log")


def with_rows(
    snapshots: Iterable[Snapshot[Losses]], take: Callable[[list[Row]], None]
) -> Iterator[Snapshot[Losses]]:
    """Yield the snapshots of one picture, each after its steps have been taken.

    Args:
      snapshots: from `stylize`.
      take: takes a row for each step: its number, that of its scale, the seconds since the run
        began, and the losses before the step's update. Between two snapshots the seconds are
        interpolated.
    """
    began, before = time.perf_counter(), 0.0
    done: int | None = None
    for snapshot in snapshots:
        now, count = time.perf_counter() - began, len(snapshot.losses.total)
        first = (snapshot.step - count if done is None else done) + 1
        times = np.linspace(before, now, count + 1)[1:].round(3).tolist()
        rows = [
            {"step": first + i, "scale": snapshot.scale, "seconds": times[i]}
            | _values(snapshot.losses, i)
            for i in range(count)
        ]
        if rows:
            take(rows)
        before, done = now, snapshot.step
        yield snapshot


class LogFile:
    """Writes rows to a file. If that fails, a warning says so, and no more is written.

    If a run goes on from a checkpoint, the file's rows up to there are kept.

    Args:
      path: the file; see `check_log`.
      warn: takes one line.
    """

    def __init__(self, path: Path, *, warn: Callable[[str], None]):
        self._path, self._warn, self._mode = path, warn, "w"

    def __call__(self, rows: list[Row]) -> None:
        """Write the rows that follow those before."""
        first = rows[0]["step"]
        if self._mode == "w":
            rows = [row for row in _read(self._path) if int(row["step"]) < first] + rows
        if self._mode and (fault := _write(self._path, rows, mode=self._mode)):
            self._warn(f"the log {self._path} ends at step {first - 1}: {fault}; going on without")
            self._mode = ""
        elif self._mode:
            self._mode = "a"


def _values(losses: Losses, i: int) -> dict[str, float | str]:
    """Return the losses of a step by name, with texts for nan and inf, which JSON lacks."""
    named = {"total": losses.total, "content": losses.content, "style": losses.style}
    named |= {f"content {name}": values for name, values in losses.content_terms.items()}
    named |= {f"style {name}": values for name, values in losses.style_terms.items()}
    found = {name: float(values[i]) for name, values in (named | losses.terms).items()}
    return {name: x if math.isfinite(x) else str(x) for name, x in found.items()}


def _write(path: Path, rows: Sequence[Row], *, mode: str) -> str:
    """Write rows; return the fault, or an empty text."""
    try:
        with path.open(mode, newline="", encoding="utf-8") as file:
            if path.suffix.lower() == _JSON:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            elif rows:
                writer = csv.DictWriter(file, rows[0])
                if not file.tell():
                    writer.writeheader()
                writer.writerows(rows)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _read(path: Path) -> list[Row]:
    """Return the rows of a file; none if it is not a log."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            is_json = path.suffix.lower() == _JSON
            rows = list(map(json.loads, file)) if is_json else list(csv.DictReader(file))
        return rows if all(str(row["step"]).isdecimal() for row in rows) else []
    except (OSError, ValueError, LookupError, TypeError):
        return []
