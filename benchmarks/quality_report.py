"""The output of `benchmarks.quality`: tables in Markdown, a plot of frontiers, a sheet."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judges import JUDGES
from benchmarks.output import COLORS, MARKERS, cells
from benchmarks.verdicts import (
    CONTROLS,
    MATCHED,
    UNCHANGED,
    Compared,
    Verdict,
    compare,
    dropped,
    mean,
    programs,
)
from nst_jax.io.files import atomic_write
from nst_jax.io.images import load_image, save_image
from nst_jax.io.sheet import Cell, contact_sheet

GLOBAL = "of the whole image's statistics: reported, never decisive"


def write(folder: Path, report: Mapping[str, Any], verdicts: Sequence[Verdict]) -> str:
    """Write quality.md, quality.png and sheet.jpg; return the text of quality.md."""
    text = "\n".join([_heading(report), distances(verdicts), comparisons(verdicts, report["seed"])])
    with atomic_write(folder / "quality.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_plot(folder / "quality.png", report, verdicts)
    save_image(folder / "sheet.jpg", sheet(folder, verdicts), quality=88)
    return text


def _heading(report: Mapping[str, Any]) -> str:
    hardware = report["hardware"]
    device = ", ".join(hardware["gpus"]) or hardware["cpu"]
    versions = ", ".join(f"{name} {number}" for name, number in hardware["versions"].items())
    where = f"{report['date']}, {device}, {hardware['cores']} CPU cores; {versions}."
    pairs = ", ".join(" + ".join(Path(path).stem for path in pair) for pair in report["pairs"])
    return f"{where} Longest side {report['size']} px. Pairs: {pairs}.\n`{report['command']}`\n"


def distances(verdicts: Sequence[Verdict]) -> str:
    """Return the table of mean distances at each program's own content weight."""
    lost = dropped(verdicts)
    heads = [f"{name} to the {judge.to}" for name, judge in JUDGES.items()]
    lines = [cells(["picture", *heads]), cells(["---"] + ["---:"] * len(heads))]
    for program in (*CONTROLS, *programs(verdicts)):
        values = (mean(verdicts, program, name) for name in JUDGES)
        lines.append(cells([program, *(f"{value:.3f}" for value in values)]))
    lines.append("")
    lines += [f"Dropped: {name}, which {reason}." for name, reason in lost.items()]
    if far := [name for name in _kept(verdicts) if not JUDGES[name].local]:
        lines.append(f"{', '.join(far)}: {GLOBAL}.")
    return "\n".join([*lines, ""])


def _kept(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the judges of style that rank no control first."""
    lost = dropped(verdicts)
    return [name for name, judge in JUDGES.items() if judge.to == "style" and name not in lost]


def comparisons(verdicts: Sequence[Verdict], seed: int) -> str:
    """Return the table of style distances at equal content distance, over the first program's."""
    first, *others = programs(verdicts)
    kept = _kept(verdicts)
    if "LPIPS" in dropped(verdicts) or not (kept and others):
        return ""
    lines = [
        f"Style distance at equal LPIPS to the content, over that of {first}; below 1 is nearer "
        "to the style. In brackets: 95 % of a bootstrap over styles; how many pictures lie within "
        "the frontier that they are compared with; of how many styles.\n",
        cells(["program", *kept]),
        cells(["---"] + ["---:"] * len(kept)),
    ]
    for program in others:
        found = (compare(verdicts, program, first, judge, seed=seed) for judge in kept)
        lines.append(cells([program, *map(_ratio, found)]))
    return "\n".join([*lines, ""])


def _ratio(found: Compared | None) -> str:
    if found is None:
        return "nowhere equal"
    span = "" if math.isnan(found.low) else f"{found.low:.2f} to {found.high:.2f}; "
    return f"{found.ratio:.2f} ({span}{found.pictures} of {found.of}; {found.styles})"


def write_plot(path: Path, report: Mapping[str, Any], verdicts: Sequence[Verdict]) -> None:
    """Draw the frontier of each program, style over content distance, a panel for each judge."""
    from matplotlib.figure import Figure

    kept = _kept(verdicts) or [name for name, judge in JUDGES.items() if judge.to == "style"]
    figure = Figure(figsize=(4.2 * len(kept) + 1.6, 4.4), layout="constrained")
    for panel, judge in zip(figure.subplots(1, len(kept), squeeze=False)[0], kept, strict=True):
        for number, program in enumerate((UNCHANGED, MATCHED, *programs(verdicts))):
            factors = sorted({each.factor for each in verdicts if each.program == program})
            x, y = (
                [mean(verdicts, program, name, factor=factor) for factor in factors]
                for name in ("LPIPS", judge)
            )
            control = program in CONTROLS
            color = "0.4" if control else COLORS[(number - 2) % len(COLORS)]
            mark = "+x"[number] if control else MARKERS[(number - 2) % len(MARKERS)]
            line = "none" if len(factors) == 1 else "-"
            label = program if panel is figure.axes[0] else None
            panel.plot(x, y, color=color, marker=mark, linestyle=line, label=label)
        local = "" if JUDGES[judge].local else " (global)"
        panel.set(xlabel="LPIPS to the content", ylabel=f"{judge} to the style{local}")
        panel.grid(color="0.9", linewidth=0.5)
    figure.suptitle(
        f"{report['size']} px, means over {len(report['pairs'])} pairs, {report['date'][:10]}"
    )
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def sheet(folder: Path, verdicts: Sequence[Verdict]) -> np.ndarray:
    """Lay out the pictures at each program's own content weight: a row for each pair."""
    rows: dict[tuple[str, str], list[Cell]] = {}
    for each in verdicts:
        if each.factor == 1:
            cell = (load_image(folder / each.picture), each.program)
            rows.setdefault((each.content, each.style), []).append(cell)
    return contact_sheet(list(rows.values()))
