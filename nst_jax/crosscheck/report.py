"""The output of a cross-check: a table, all numbers as JSON, and a plot."""

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nst_jax.config import ResolvedConfig
from nst_jax.crosscheck.ladder import Rung, Trajectory, arithmetic, trajectory_budget
from nst_jax.devices.backend import device_name
from nst_jax.errors import InputError
from nst_jax.io import files

PLOTS = (".png", ".svg", ".pdf")
HEADER = f"{'rung':<24} {'error':>8}  {'largest':>8}  {'budget':>7}"


def line(rung: Rung) -> str:
    """Return one row of the table: relative error, largest difference, budget, verdict."""
    verdict = "pass" if rung.passed else "FAIL"
    return f"{rung.name:<24} {rung.error:8.1e}  {rung.largest:8.1e}  {rung.budget:7.0e}  {verdict}"


def write_json(
    path: Path, rungs: Sequence[Rung], trajectory: Trajectory, config: ResolvedConfig
) -> None:
    """Write every number of a cross-check; NaN and infinity, which JSON lacks, become null."""
    broken = [rung.name for rung in rungs if not rung.passed]
    content = {
        "passed": not broken,
        "first_broken": broken[0] if broken else None,
        "config": dataclasses.asdict(config),
        "arithmetic": arithmetic(config),
        "device": device_name(),
        "versions": {name: version(name) for name in ("nst-jax", "jax", "jaxlib", "flax", "optax")},
        "rungs": [{**rung._asdict(), "passed": rung.passed} for rung in rungs],
        "losses": {"torch": trajectory.their_totals.tolist(), "jax": trajectory.totals.tolist()},
    }
    files.write_json(path, _finite(content))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def check_plotting() -> None:
    """Raise InputError if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None


def write_plot(path: Path, trajectory: Trajectory, config: ResolvedConfig) -> None:
    """Draw both loss curves over each other, and the error growing along the run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    losses, errors = figure.subplots(2, sharex=True)
    steps = np.arange(1, len(trajectory.totals) + 1)
    losses.semilogy(steps, trajectory.their_totals, lw=4, alpha=0.4, label="PyTorch")
    losses.semilogy(steps, trajectory.totals, "k--", lw=1, label="nst_jax")
    losses.set(ylabel="total loss", title=f"{config.optimizer}, {arithmetic(config)}")
    losses.legend()
    # The logarithm of exact agreement is infinite: the curve has gaps there.
    visible = np.where(trajectory.errors > 0, trajectory.errors, np.nan)
    errors.semilogy(steps, visible, "k", lw=1)
    errors.axhline(trajectory_budget(config), color="tab:red", ls=":", label="budget")
    errors.set(xlabel="step", ylabel="relative difference of the losses")
    errors.legend()
    with files.atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
