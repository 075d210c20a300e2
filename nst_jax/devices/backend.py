"""The device that JAX computes on, and the settings that suit it."""

from typing import Any

import jax

from nst_jax.config import Config, ResolvedConfig
from nst_jax.errors import InputError


def default_device() -> Any:
    """Return the device that JAX computes on unless told otherwise.

    Of several processes each has its own.

    Raises:
      InputError: if there is none.
    """
    options: Any = jax.config
    chosen = options.jax_default_device
    if chosen is not None and not isinstance(chosen, str):  # it may name a platform
        return chosen
    try:
        return jax.local_devices(backend=chosen)[0]
    except (RuntimeError, AssertionError) as error:  # JAX_PLATFORMS names what is not there
        absent = f"there is none of JAX_PLATFORMS={options.jax_platforms}"
        reason = str(error).partition("\n")[0] or absent
        raise InputError(f"JAX finds no device: {reason}") from None


def device_name() -> str:
    """Return what JAX computes on, for people.

    Raises:
      InputError: if there is nothing.
    """
    device = default_device()
    platform, kind = device.platform, device.device_kind
    return platform if kind == platform else f"{platform} ({kind})"


def resolve(config: Config, *, devices: int = 1) -> ResolvedConfig:
    """Replace every "auto" of the settings by what suits the device; see `Config.resolve`.

    Raises:
      InputError: if there is no device, or `Config.resolve` raises it.
    """
    device = default_device()
    return config.resolve(device.platform, capability=_capability(device), devices=devices)


def block(platform: str) -> int:
    """Return how many steps a program makes between two tests of whether its loop ends.

    On a GPU, XLA runs a loop of unknown length from the host, which waits for the device at the end
    of every round. A loop of known length is handed over as a whole.

    Args:
      platform: JAX's name of the device.
    """
    return 16 if platform in ("gpu", "cuda", "rocm") else 1


def _capability(device: Any) -> float | None:
    """Return an NVIDIA GPU's compute capability; None where nothing says it."""
    try:
        return float(device.compute_capability)
    except (AttributeError, ValueError):  # not a GPU, or one of AMD's, which say "gfx942"
        return None
