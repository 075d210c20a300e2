"""One step of this program, ready to be timed."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.modes import Mode, Platform, jax_config
from benchmarks.work import DEEPEST
from nst_jax import problem
from nst_jax.errors import InputError
from nst_jax.scale import begin
from nst_jax.vgg import freeze
from nst_jax.weights_file import Params, load_weights


def load(path: Path) -> Params:
    """Read the weights, as the program does."""
    return load_weights(path, deepest=DEEPEST).params


class Job:
    """A run of `nst_jax.stylize`, some steps at a time."""

    def __init__(self, mode: Mode, content: np.ndarray, style: np.ndarray, params: Params):
        self._config = jax_config(mode)
        network = problem.build_network(params, self._config, deepest=DEEPEST)
        self._state, self._problem, self._program = begin(
            jnp.asarray(content),
            [jnp.asarray(style)],
            network=freeze(network, taps=problem.split_config(self._config)[1].taps),
            config=self._config,
        )
        self._image: Any = None
        jax.block_until_ready((self._problem, self._state))

    def program(self) -> str:
        """Return the compiled program of a step as text."""
        with jax.default_matmul_precision(self._config.matmul_precision):
            lowered = problem.advance.lower(self._state, 1, self._problem, self._program)
        return lowered.compile().as_text() or ""

    def run(self, steps: int) -> None:
        """Make steps and wait until they are made."""
        with jax.default_matmul_precision(self._config.matmul_precision):
            self._state, self._image, _ = problem.advance(
                self._state, steps, self._problem, self._program
            )
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
