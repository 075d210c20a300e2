"""One step of this program, ready to be timed."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.modes import Mode, Platform, jax_config
from nst_jax import transfer
from nst_jax.errors import InputError
from nst_jax.weights import Params, load_weights


def load(path: Path) -> Params:
    """Read the weights, as the program does."""
    return load_weights(path).params


class Job:
    """A run of `nst_jax.stylize`, some steps at a time."""

    def __init__(self, mode: Mode, content: np.ndarray, style: np.ndarray, params: Params):
        self._config = jax_config(mode)
        self._numbers, self._program = transfer.split_config(self._config)
        self._network = transfer.build_network(params, self._config)
        with transfer.matmul_precision(self._config.precision):
            self._targets = transfer.compute_targets(
                self._network,
                content,
                style,
                self._config.content_layers,
                self._config.style_layers,
            )
        self._state = transfer._start(content, self._numbers, self._program)
        self._image: Any = None
        jax.block_until_ready((self._targets, self._state))

    def _arguments(self, steps: int) -> tuple[Any, ...]:
        return self._state, steps, self._network, self._targets, self._numbers, self._program

    def program(self) -> str:
        """Return the compiled program of a step as text."""
        with transfer.matmul_precision(self._config.precision):
            text = transfer._advance.lower(*self._arguments(1)).compile().as_text()
        return text or ""

    def run(self, steps: int) -> None:
        """Make steps and wait until they are made."""
        with transfer.matmul_precision(self._config.precision):
            self._state, self._image, _ = transfer._advance(*self._arguments(steps))
        jax.block_until_ready((self._state, self._image))

    def picture(self) -> np.ndarray:
        """Return the picture after the last step, HWC."""
        return np.asarray(self._image)

    def device_peak(self) -> int | None:
        """Return the most bytes in use on the device so far; None where nobody counts."""
        stats = jax.devices()[0].memory_stats()
        return stats.get("peak_bytes_in_use") if stats else None


def check_device(platform: Platform) -> None:
    """Raise InputError if JAX does not compute there."""
    found = jax.default_backend()
    if found != platform:
        raise InputError(f"jax computes on {found}, not on {platform}")
