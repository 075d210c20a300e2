"""The compared ways to make a step. Workers import this module, so it imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nst_jax.config import ResolvedConfig

Platform = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Mode:
    """One way to make a step.

    Attributes:
      framework: "jax" for this program, "torch" for the one that it reimplements.
      precision: "float32", "tf32" (float32 with shorter products, on a GPU) or "bfloat16".
      conv: jax: "direct", "winograd", or "auto" for the program's own choice.
      remat: jax: "blocks" to compute maps twice.
      tile: jax: side of the tiles in px; 0: at once.
      method: torch: "eager", "compile" (its default mode) or "max-autotune".
      channels_last: torch: the memory layout.
    """

    framework: Literal["jax", "torch"]
    precision: str
    conv: str = "auto"
    remat: str = "none"
    tile: int = 0
    method: str = "eager"
    channels_last: bool = True

    @property
    def name(self) -> str:
        """The name of the mode in --modes, in tables and in files."""
        if self.framework == "jax":
            parts = [self.precision] + [self.conv] * (self.conv != "auto")
            parts += [self.remat] * (self.remat != "none") + [f"tile{self.tile}"] * bool(self.tile)
        else:
            parts = [self.precision, self.method] + ["nchw"] * (not self.channels_last)
        return "-".join([self.framework, *parts])


def _torch(precision: str) -> list[Mode]:
    return [
        Mode("torch", precision, method=method, channels_last=last)
        for method in ("eager", "compile", "max-autotune")
        for last in (False, True)
    ]


MODES = {
    mode.name: mode
    for mode in (
        *(
            Mode("jax", precision, conv)
            for precision in ("float32", "tf32", "bfloat16")
            for conv in ("auto", "direct", "winograd")
        ),
        *(
            Mode("jax", precision, remat=remat, tile=tile)
            for precision in ("float32", "bfloat16")
            for remat, tile in (("blocks", 0), ("none", 512), ("none", 1024))
        ),
        *(mode for precision in ("float32", "tf32", "bfloat16") for mode in _torch(precision)),
    )
}

# The modes that are measured without --modes.
DEFAULT_MODES: dict[Platform, tuple[str, ...]] = {
    "cpu": (
        "jax-float32-direct",
        "jax-float32-winograd",
        "jax-bfloat16-winograd",
        "torch-float32-eager-nchw",
        "torch-float32-eager",
        "torch-float32-compile",
        "torch-bfloat16-eager",
        "torch-bfloat16-compile",
    ),
    "gpu": (
        "jax-float32",
        "jax-tf32",
        "jax-bfloat16",
        "torch-float32-eager-nchw",
        "torch-float32-eager",
        "torch-float32-compile",
        "torch-tf32-eager",
        "torch-tf32-compile",
        "torch-bfloat16-eager",
        "torch-bfloat16-compile",
    ),
}
# The original program as it is written; all other modes of torch have less work in their losses.
EAGER = "torch-float32-eager-nchw"


def jax_config(mode: Mode, recipe: str = "pytorch") -> ResolvedConfig:
    """Return the settings of a preset in one of this program's modes.

    Raises:
      InputError: if this device does not have the mode's precision.
    """
    from typing import Any

    from nst_jax.devices.backend import resolve
    from nst_jax.presets import preset

    names = ("precision", "conv", "remat", "tile")
    settings: dict[str, Any] = {name: getattr(mode, name) for name in names}
    return resolve(replace(preset(recipe), **settings))
