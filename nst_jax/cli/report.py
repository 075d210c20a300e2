"""A page about one run, in one file: pictures, scales, loss curves, settings, origin."""

import base64
import io
import itertools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from PIL import Image

from nst_jax.cli.names import check_suffix
from nst_jax.cli.step_log import Row
from nst_jax.errors import check_installed
from nst_jax.io.arrays import rounded
from nst_jax.io.files import atomic_write, check_writable
from nst_jax.io.images import load_image

_SUFFIXES = (".html", ".htm")
_MOST = 1024  # px; the longest side of a picture on the page


def check_report(path: Path) -> None:
    """Raise InputError if `path` cannot be written, is no HTML, or a package is missing."""
    check_suffix("--report", path, _SUFFIXES)
    check_writable(path, what="the report")
    check_installed("--report", "jinja2", "matplotlib.figure", extra="report")


def save_report(
    path: Path,
    *,
    result: Path,
    inputs: Sequence[tuple[str, str]],
    sizes: Sequence[str],
    rows: Sequence[Row],
    facts: Sequence[tuple[str, str]],
    settings: str,
) -> str:
    """Write the page; return the fault, or an empty text.

    Args:
      path: the file.
      result: the picture.
      inputs: a role and a path for each image that the picture was made from.
      sizes: the size of each scale.
      rows: see `step_log.with_rows`.
      facts: names and values for the table of the run.
      settings: the settings as a file for --config.
    """
    import jinja2

    template = resources.files("nst_jax.cli").joinpath("report.html").read_text("utf-8")
    page = jinja2.Environment(autoescape=True).from_string(template)
    text = page.render(
        title=" × ".join(Path(path).stem for _, path in inputs),
        result={"name": result.name, "data": _data(result)},
        inputs=[{"role": role, "name": Path(x).name, "data": _data(x)} for role, x in inputs],
        facts=facts,
        scales=_scales(sizes, rows),
        curves=_curves(rows),
        settings=settings,
    )
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"cannot write the report {path}: {error.strerror}"
    return ""


def _data(path: str | Path) -> str:
    """Return a picture as the address of a JPEG file inside the page."""
    picture = load_image(path, size=_MOST, enlarge=False)
    file = io.BytesIO()
    Image.fromarray(rounded(picture)).save(file, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _scales(sizes: Sequence[str], rows: Sequence[Row]) -> list[dict[str, str]]:
    found, before = [], 0.0
    for number, group in itertools.groupby(rows, lambda row: row["scale"]):
        steps = list(group)
        last = steps[-1]
        found.append(
            {
                "size": sizes[number - 1],
                "steps": str(len(steps)),
                "seconds": f"{last['seconds'] - before:.1f}",
                "loss": f"{float(last['total']):.4g}",
            }
        )
        before = last["seconds"]
    return found


def _curves(rows: Sequence[Row]) -> str:
    """Return the curves of the losses, and of the terms of the layers, as SVG."""
    from matplotlib.figure import Figure

    names = [name for name in (rows[0] if rows else ()) if name not in ("step", "scale", "seconds")]
    parts = [name for name in names if name in ("total", "content", "style")]
    terms = [name for name in names if name not in parts]
    steps = [row["step"] for row in rows]
    changes = [b["step"] - 0.5 for a, b in itertools.pairwise(rows) if a["scale"] != b["scale"]]
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, chosen in zip(figure.subplots(1, 2), (parts, terms), strict=True):
        for name in chosen:
            axes.plot(steps, [float(row[name]) for row in rows], label=name, linewidth=1.2)
        for change in changes:
            axes.axvline(change, color="gray", linewidth=0.6, linestyle=":")
        axes.set(xlabel="step", yscale="log")
        axes.legend(fontsize="small")
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
