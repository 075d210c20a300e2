"""The settings of a run, their defaults, their allowed values, and the named presets.

This is the only home of defaults: the command line makes its flags from these fields.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, get_args

from nst_jax.errors import InputError
from nst_jax.vgg import Padding, Pooling


def _setting(default: Any, help: str, **metadata: Any) -> Any:
    """Make a field; least, above and below bound its number, flag gives it a command-line flag."""
    return field(default=default, metadata={"help": help, "flag": True, **metadata})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run. The defaults are those of the preset `pytorch`.

    Raises:
      InputError: at construction, if a value is out of range.
    """

    size: int = _setting(400, "longest side of the picture in px", least=1)
    steps: int = _setting(2000, "updates of the picture", least=1)
    learning_rate: float = _setting(0.003, "Adam's step size in normalized units", above=0)
    beta1: float = _setting(0.5, "Adam's decay of the mean gradient", least=0, below=1, flag=False)
    beta2: float = _setting(0.999, "Adam's decay of its square", least=0, below=1, flag=False)
    content_weight: float = _setting(1.0, "factor of the content loss", least=0)
    style_weight: float = _setting(100.0, "factor of the style loss", least=0)
    content_layers: tuple[str, ...] = _setting(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), "layers to match", flag=False
    )
    style_layers: tuple[str, ...] = _setting(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), "layers to match", flag=False
    )
    pooling: Pooling = _setting("average", "pooling of the network")
    pool_scale: float = _setting(1.0, "factor of the pooled maps", above=0)
    padding: Padding = _setting("zeros", "padding of the network's first convolution")
    seed: int = _setting(0, "seed of everything drawn at random", least=0, below=2**32)

    def __post_init__(self) -> None:
        """Check every value."""
        for setting in dataclasses.fields(self):
            check_setting(setting, getattr(self, setting.name))


def check_setting(setting: "dataclasses.Field[Any]", value: Any) -> None:
    """Raise InputError if `value` is outside what the field's metadata and type allow."""
    name = setting.name.replace("_", "-")
    choices = get_args(setting.type) if isinstance(value, str) else ()
    if choices and value not in choices:
        raise InputError(f"{name} is {value!r}; allowed are {', '.join(map(str, choices))}")
    if setting.type is int and isinstance(value, float):
        raise InputError(f"{name} is {value}; it must be a whole number")
    if not isinstance(value, int | float):
        return
    limits = setting.metadata
    bounds = []
    if "least" in limits:
        bounds.append((value >= limits["least"], f"at least {limits['least']}"))
    if "above" in limits:
        bounds.append((value > limits["above"], f"above {limits['above']}"))
    if "below" in limits:
        bounds.append((value < limits["below"], f"below {limits['below']}"))
    if not math.isfinite(value) or not all(holds for holds, _ in bounds):
        allowed = " and ".join(text for _, text in bounds)
        raise InputError(f"{name} is {value}; it must be {allowed}")


PRESETS = MappingProxyType(
    {
        # The PyTorch program that this project reimplements: all constants are Config's defaults.
        "pytorch": Config(),
    }
)


def preset(name: str) -> Config:
    """Return the named preset.

    Raises:
      InputError: if there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"preset is {name!r}; allowed are {', '.join(PRESETS)}")
    return PRESETS[name]
