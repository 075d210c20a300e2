"""What the judges' distances say of programs: pure functions of `benchmarks.quality`'s verdicts."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from benchmarks.judges import JUDGES

# Pictures that are no style transfer.
UNCHANGED, MATCHED, STYLE = "content unchanged", "colors matched", "style itself"
CONTROLS = (UNCHANGED, MATCHED, STYLE)
# A picture that a judge must not rank first, by the image that its distance is to. The others are
# right to be first: the content image keeps all of itself, with other colors nearly so.
_TRAPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"content": (STYLE,), "style": (UNCHANGED, MATCHED)}
)
_DRAWS = 10_000  # of the bootstrap
_LEAST = 1e-9  # distance whose logarithm is taken; a program may give back the style itself


class Verdict(NamedTuple):
    """The distances of one picture.

    Attributes:
      content: name of the content image.
      style: name of the style image.
      program: who made the picture, or one of `CONTROLS`.
      factor: of the program's own content weight.
      picture: path of the picture.
      distances: by judge.
    """

    content: str
    style: str
    program: str
    factor: float
    picture: str
    distances: Mapping[str, float]


class Compared(NamedTuple):
    """The style distance of a program over that of another at equal content distance.

    Attributes:
      ratio: below 1: this program is nearer to the style; the geometric mean over styles.
      low: lower end of the interval of 95 %, NaN for a single style.
      high: its upper end.
      pictures: the number of pictures that could be compared.
      of: the number of all pictures of the program.
      styles: the number of styles of the compared pictures.
    """

    ratio: float
    low: float
    high: float
    pictures: int
    of: int
    styles: int


def programs(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the programs in order, without the controls."""
    found = dict.fromkeys(verdict.program for verdict in verdicts)
    return [name for name in found if name not in CONTROLS]


def mean(verdicts: Sequence[Verdict], program: str, judge: str, *, factor: float = 1.0) -> float:
    """Return the mean distance over pairs; NaN where there is no such picture."""
    found = [
        each.distances[judge]
        for each in verdicts
        if each.program == program and each.factor == factor
    ]
    return float(np.mean(found)) if found else math.nan


def dropped(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return the judges that rank a control first, by their means over pairs, and the reason."""
    reasons = {}
    for name, judge in JUDGES.items():
        best = min(programs(verdicts), key=lambda program: mean(verdicts, program, name))
        least = mean(verdicts, best, name)
        for control in _TRAPS[judge.to]:
            if (found := mean(verdicts, control, name)) <= least:
                reasons[name] = (
                    f"ranks {control!r} first: {found:.3f}, the best program {least:.3f}"
                )
    return reasons


def compare(
    verdicts: Sequence[Verdict], program: str, against: str, judge: str, *, seed: int
) -> Compared | None:
    """Compare two programs' style distances at equal content distance; None: nowhere equal.

    Each picture of `program` whose content distance lies within those of the other's pictures of
    the same pair is compared with the style distance there, interpolated linearly between these.
    Nothing is extrapolated. The logarithms of the ratios are averaged in each style, then over
    styles; the interval is by a paired bootstrap over styles.
    """
    logs: dict[str, list[float]] = {}
    ours = [each for each in verdicts if each.program == program]
    for each in ours:
        frontier = sorted(
            (other.distances["LPIPS"], other.distances[judge])
            for other in verdicts
            if other.program == against and (other.content, other.style) == each[:2]
        )
        there, distances = zip(*frontier, strict=True)
        here = each.distances["LPIPS"]
        if there[0] <= here <= there[-1]:
            both = each.distances[judge], float(np.interp(here, there, distances))
            own, theirs = (math.log(max(distance, _LEAST)) for distance in both)
            logs.setdefault(each.style, []).append(own - theirs)
    if not logs:
        return None
    means = [float(np.mean(values)) for values in logs.values()]
    low, high = bootstrap(means, seed=seed)
    ratio, low, high = map(math.exp, (float(np.mean(means)), low, high))
    return Compared(ratio, low, high, sum(map(len, logs.values())), len(ours), len(logs))


def bootstrap(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Return the interval of 95 % of the mean of values drawn anew; NaN for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).choice(values, size=(_DRAWS, len(values)))
    low, high = np.percentile(drawn.mean(1), [2.5, 97.5])
    return float(low), float(high)
