"""The output of a benchmark: a table for each size, Markdown, all numbers as JSON, and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.driver import Result
from benchmarks.modes import EAGER, MODES
from benchmarks.work import step_bytes, step_flops
from nst_jax.io import files

PLOTS = (".png", ".svg", ".pdf")
NOTE = (
    "rate: the operations of direct convolution a second, whatever the algorithm; an algorithm "
    "with fewer multiplications, such as Winograd's, may exceed the machine's matrix rate"
)
MARKERS = "osD^vPX<>h"
# Okabe and Ito's colors, distinct for the color-blind, without yellow, which is too light.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


class Row(NamedTuple):
    """A line of the table, as text."""

    mode: str
    median: str
    least: str
    against_best: str
    against_eager: str
    rate: str
    picture: str
    compile: str
    imports: str
    memory: str


HEADERS = Row(
    "mode",
    "s a step",
    "least",
    "× best torch fp32",
    "× torch eager",
    "rate",
    "first picture",
    "first step",
    "import",
    "memory",
)


def best_torch(results: Sequence[Result]) -> Result | None:
    """Return PyTorch's fastest exact float32 at this size; None where none was measured."""
    found = [
        result
        for result in results
        if not result.failure
        and MODES[result.mode].framework == "torch"
        and MODES[result.mode].precision == "float32"
    ]
    return min(found, key=lambda result: result.median, default=None)


def rows(results: Sequence[Result]) -> list[Row | tuple[str, str]]:
    """Return a row for each result of one size; for a failure, its mode and the reason.

    The two ratios say how many times as fast as PyTorch a mode is: above 1 is faster.
    """
    best = best_torch(results)
    eager = next((r for r in results if r.mode == EAGER and not r.failure), None)
    return [(r.mode, r.failure) if r.failure else _row(r, best, eager) for r in results]


def _row(result: Result, best: Result | None, eager: Result | None) -> Row:
    starts = list(result.starts.values())
    peaks = [start.peak_bytes for start in starts]
    peaks[-1] = max(peaks[-1], result.peak_bytes)  # the last worker was also timed
    return Row(
        result.mode,
        number(result.median),
        number(result.least),
        f"{best.median / result.median:.2f}" if best else "",
        f"{eager.median / result.median:.2f}" if eager else "",
        flops_text(result.rate),
        " / ".join(f"{start.first_picture_seconds:.1f} s" for start in starts),
        " / ".join(f"{start.first_step_seconds:.2f} s" for start in starts),
        " / ".join(f"{start.import_seconds:.2f} s" for start in starts),
        " / ".join(f"{peak / 1e6:.0f} MB" for peak in peaks),
    )


def number(seconds: float) -> str:
    """Write seconds with three digits."""
    return f"{seconds:#.3g}" if seconds < 100 else f"{seconds:.0f}"


def flops_text(rate: float) -> str:
    """Write operations a second."""
    return f"{rate / 1e12:.2f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.0f} GFLOP/s"


def rates_text(rates: Mapping[str, float]) -> str:
    """Return the machine's rates as text."""
    products = [f"{k} {flops_text(rate)}" for k, rate in rates.items() if k != "bandwidth"]
    bandwidth = f"memory {rates['bandwidth'] / 1e9:.0f} GB/s"
    return f"matrix products {', '.join(products)}; {bandwidth}"


def starts_text(results: Sequence[Result]) -> str:
    """Return the kinds of starts, in the order of their numbers: "cold / warm"."""
    kinds: dict[str, None] = {}
    for result in results:
        kinds |= dict.fromkeys(result.starts)
    return " / ".join(kinds)


def table(results: Sequence[Result]) -> Table:
    """Make the table of one size."""
    size = results[0].size
    found = Table(title=f"{size}x{size} px, {step_flops(size, size) / 1e9:.1f} GFLOP a step")
    for name, column in zip(Row._fields, HEADERS, strict=True):
        found.add_column(column, justify="left" if name == "mode" else "right")
    for row in rows(results):
        found.add_row(*(row if isinstance(row, Row) else (row[0], "failed")))
    failures = [f"{result.mode}: {result.failure}" for result in results if result.failure]
    found.caption = "\n".join(failures) or None
    found.caption_justify = "left"
    return found


def markdown(results: Sequence[Result]) -> str:
    """Make the table of one size in Markdown."""
    size = results[0].size
    width = len(HEADERS)
    lines = [
        f"{size}x{size} px, {step_flops(size, size) / 1e9:.1f} GFLOP a step; starts "
        f"{starts_text(results)}:\n",
        cells(HEADERS),
        cells(["---"] + ["---:"] * (width - 1)),
    ]
    lines += [cells([*row, *[""] * (width - len(row))]) for row in rows(results)]
    return "\n".join(lines) + "\n"


def cells(texts: Sequence[str]) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def write_markdown(path: Path, report: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write the tables of all sizes, and what they were measured on."""
    parts = [heading(report), *(markdown(group) for group in by_size(results)), f"{NOTE}.\n"]
    with files.atomic_write(path) as temporary:
        temporary.write_text("\n".join(parts))


def heading(report: Mapping[str, Any]) -> str:
    """Return a paragraph on what was measured, where and when."""
    hardware = report["hardware"]
    device = ", ".join(hardware["gpus"]) if report["platform"] == "gpu" else hardware["cpu"]
    versions = ", ".join(f"{name} {number}" for name, number in hardware["versions"].items())
    rates = f"; {rates_text(report['rates'])}" if report["rates"] else ""
    cores = hardware["cores"]
    if report["threads"]:
        cores = f"{report['threads']} of {cores}"
    where = f"{report['date']}, {device}, {cores} CPU cores{rates}; {versions}."
    return f"{where}\n`{report['command']}`\n"


def by_size(results: Sequence[Result]) -> list[list[Result]]:
    """Group results of the same size, in order."""
    groups: dict[int, list[Result]] = {}
    for result in results:
        groups.setdefault(result.size, []).append(result)
    return list(groups.values())


def write_json(path: Path, report: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write every number."""
    content = {**report, "results": [result.as_dict() for result in results]}
    files.write_json(path, content)


def roofline(size: int, precision: str, rates: Mapping[str, float]) -> float:
    """Return the least seconds of a step by direct convolution on a machine of these rates."""
    itemsize = 2 if precision == "bfloat16" else 4
    return max(
        step_flops(size, size) / rates[precision],
        step_bytes(size, size, itemsize) / rates["bandwidth"],
    )


def write_plot(path: Path, report: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Draw seconds a step over pixels, a line for each mode, with the rooflines dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    sizes = sorted({result.size for result in results})
    for position, mode in enumerate(dict.fromkeys(result.mode for result in results)):
        done = [r for r in results if r.mode == mode and not r.failure]
        jax = MODES[mode].framework == "jax"
        axes.loglog(
            [r.size**2 for r in done],
            [r.median for r in done],
            color=COLORS[position % len(COLORS)],
            marker=MARKERS[position % len(MARKERS)],
            markerfacecolor=None if jax else "white",
            linewidth=2.2 if jax else 1.2,
            label=mode if done else f"{mode} (failed)",
        )
    for precision, gray in (("float32", "0.25"), ("tf32", "0.45"), ("bfloat16", "0.6")):
        if precision in report["rates"]:
            axes.loglog(
                [size**2 for size in sizes],
                [roofline(size, precision, report["rates"]) for size in sizes],
                color=gray,
                linestyle="--",
                label=f"direct at the machine's {precision} rate",
            )
    axes.set_xticks([size**2 for size in sizes], [f"{size}²" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    hardware = report["hardware"]
    device = ", ".join(hardware["gpus"]) if report["platform"] == "gpu" else hardware["cpu"]
    axes.set(xlabel="pixels", ylabel="seconds a step", title=f"{device}, {report['date'][:10]}")
    axes.grid(which="both", color="0.9", linewidth=0.5)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    with files.atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
