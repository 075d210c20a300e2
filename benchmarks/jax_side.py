"""One step of this program, ready to be timed."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.modes import Mode, Platform, jax_config
from benchmarks.work import DEEPEST
from nst_jax.devices import compilation_cache
from nst_jax.errors import InputError
from nst_jax.geometry import shape_of
from nst_jax.network.vgg import freeze
from nst_jax.scale.interface import ScaleInputs
from nst_jax.scale.prepare import begin_scale
from nst_jax.scale.step import advance, build_network, prepare_step
from nst_jax.scale.tiled import tiles
from nst_jax.weights.converted_file import Params, load_weights


def load(path: Path) -> Params:
    """Read the weights, as the program does."""
    return load_weights(path, deepest=DEEPEST).params


def kept_programs() -> AbstractContextManager[None]:
    """Keep compiled programs in the folder of the environment, as the command line does."""
    return compilation_cache.kept_programs(lambda fault: print(fault, file=sys.stderr))


class Job:
    """A run of `nst_jax.stylize`, some steps at a time."""

    def __init__(
        self,
        mode: Mode,
        content: np.ndarray,
        style: np.ndarray,
        read: Callable[[], Params],
        recipe: str = "pytorch",
    ):
        self._config = jax_config(mode, recipe)
        image = jnp.asarray(content)
        self._images = image, [jnp.asarray(style)]
        # As in the main job, the weights stay in memory only as the network computes with them.
        network = build_network(read(), self._config, deepest=DEEPEST)
        self._network = freeze(network, taps=self._config.taps)
        del network
        self._scale = begin_scale(
            ScaleInputs(
                *self._images,
                image,
                self._network,
                self._config,
                tiles=tiles(shape_of(image), self._config),
            )
        )
        self._image: Any = None
        jax.block_until_ready(self._scale.state_to_save())

    def program(self) -> str:
        """Return the compiled program of a step as text."""
        state, inputs = prepare_step(*self._images, network=self._network, config=self._config)
        with jax.default_matmul_precision(self._config.matmul_precision):
            lowered = advance.lower(state, 1, inputs)
        return lowered.compile().as_text() or ""

    def run(self, steps: int) -> None:
        """Make steps and wait until they are made."""
        self._image, _ = self._scale.advance(steps)
        jax.block_until_ready((self._scale.state_to_save(), self._image))

    def picture(self) -> np.ndarray:
        """Return the picture after the last step, HWC."""
        return np.asarray(self._image)

    def device_peak(self) -> int | None:
        """Return the most bytes in use on the device so far; None if they are not counted."""
        stats = jax.devices()[0].memory_stats()
        return stats.get("peak_bytes_in_use") if stats else None


def check_device(platform: Platform) -> None:
    """Raise InputError if JAX does not compute on the platform."""
    found = jax.default_backend()
    if found != platform:
        raise InputError(f"jax computes on {found}, not on {platform}")
